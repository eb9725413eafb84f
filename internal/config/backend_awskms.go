package config

import (
	"net/url"
	"time"
)

// AWSKMS is AWS Key Management Service; see package awskms.
type AWSKMS struct {
	Class    string // "resident" or "sealed"
	Region   string
	Profile  string
	Endpoint string // URL
	InFlight int

	// Of class resident.
	Host         string
	DeletionDays int

	// Of class sealed.
	Key      string // ARN, ID or alias of the KMS key that seals
	CacheFor time.Duration
}

func newAWSKMS() Settings { return &AWSKMS{InFlight: 32, DeletionDays: 30} }

func (c *AWSKMS) fields() []field {
	return []field{
		{key: "class", dst: &c.Class, one: []string{"resident", "sealed"},
			doc: "resident: a KMS key for each session; sealed: keys in files, sealed by one KMS key"},
		{key: "region", dst: &c.Region, doc: "AWS region; as the AWS SDK finds it if left out"},
		{key: "profile", dst: &c.Profile, doc: "profile in the shared AWS configuration files"},
		{key: "endpoint", dst: &c.Endpoint, doc: "URL of a VPC endpoint or an emulator"},
		{key: "in_flight", dst: &c.InFlight, doc: "calls to KMS at a time"},
		{key: "host", dst: &c.Host, doc: "resident: tells this agent's keys from others in the account; the host's name " +
			"if left out"},
		{key: "deletion_days", dst: &c.DeletionDays, doc: "resident: AWS deletes a destroyed key after so many days, 7 to 30"},
		{key: "key", dst: &c.Key, doc: "sealed: ARN, ID or alias of the KMS key that seals"},
		{key: "cache_for", dst: &c.CacheFor, doc: "sealed: keep an opened key in locked memory for so long; 0s asks KMS " +
			"for each signature"},
	}
}

func (c *AWSKMS) validate(d *document, p path) error {
	defaults := newAWSKMS().(*AWSKMS)
	switch {
	case c.Class == "":
		return d.errorf(p, `backend %q has no class; add class = "resident" (a KMS key for each session) or class = "sealed"`,
			p[1])
	case c.InFlight == 0:
		return d.errorf(p.in("in_flight"), "in_flight: must be more than 0")
	case c.Class == "sealed" && c.Key == "":
		return d.errorf(p, "backend %q seals with no KMS key; add key = (its ARN, ID or alias)", p[1])
	case c.Class == "sealed" && (c.Host != "" || c.DeletionDays != defaults.DeletionDays):
		return d.errorf(p, `backend %q: host and deletion_days are for class = "resident"`, p[1])
	case c.Class == "resident" && (c.Key != "" || c.CacheFor != 0):
		return d.errorf(p, `backend %q: key and cache_for are for class = "sealed"`, p[1])
	case c.DeletionDays < 7 || c.DeletionDays > 30:
		return d.errorf(p.in("deletion_days"), "deletion_days: %d: AWS allows 7 to 30", c.DeletionDays)
	}
	if u, err := url.Parse(c.Endpoint); c.Endpoint != "" &&
		(err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http") {
		return d.errorf(p.in("endpoint"), "endpoint: %q is no URL such as https://kms.us-east-1.amazonaws.com", c.Endpoint)
	}
	return nil
}
