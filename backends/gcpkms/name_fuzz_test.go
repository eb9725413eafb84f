package gcpkms

import "testing"

// A key version has one URI, and it is in the ring that the operator named.
func FuzzParseURI(f *testing.F) {
	b := &Backend{cfg: Config{Name: "g", KeyRing: "projects/p/locations/europe-west3/keyRings/r"}}
	f.Add(scheme + b.cfg.KeyRing + "/cryptoKeys/k/cryptoKeyVersions/1")
	f.Add(scheme + b.cfg.KeyRing + "2/cryptoKeys/k/cryptoKeyVersions/1")
	f.Add("pkcs11:object=k")
	f.Fuzz(func(t *testing.T, uri string) {
		if name, err := b.parseURI(uri); err == nil && scheme+name != uri {
			t.Errorf("parseURI(%q) = %q", uri, name)
		}
	})
}
