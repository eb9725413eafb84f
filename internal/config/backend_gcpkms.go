package config

import "time"

// GCPKMS is Google Cloud Key Management Service; see package gcpkms.
type GCPKMS struct {
	KeyRing      string // projects/P/locations/L/keyRings/R
	DestroyAfter time.Duration
	Endpoint     string // host:port
	InFlight     int
}

func newGCPKMS() Settings { return &GCPKMS{InFlight: 32} }

func (c *GCPKMS) fields() []field {
	return []field{
		{key: "key_ring", dst: &c.KeyRing, doc: "projects/P/locations/L/keyRings/R, which has to exist"},
		{key: "destroy_after", dst: &c.DestroyAfter, doc: "a destroyed key can be restored for so long, 24h to 2880h; 0s: " +
			"Google's default, 30 days"},
		{key: "endpoint", dst: &c.Endpoint, doc: "host:port of a regional or private endpoint"},
		{key: "in_flight", dst: &c.InFlight, doc: "calls to KMS at a time"},
	}
}

func (c *GCPKMS) validate(d *document, p path) error {
	const day = 24 * time.Hour
	switch {
	case c.KeyRing == "":
		return d.errorf(p, `backend %q has no key ring; add key_ring = "projects/P/locations/L/keyRings/R"`, p[1])
	case c.InFlight == 0:
		return d.errorf(p.in("in_flight"), "in_flight: must be more than 0")
	case c.DestroyAfter != 0 && (c.DestroyAfter < day || c.DestroyAfter > 120*day):
		return d.errorf(p.in("destroy_after"), "destroy_after: Google allows 24h to 2880h (120 days)")
	}
	return nil
}
