package awskms

import "testing"

// A key has one URI.
func FuzzParseURI(f *testing.F) {
	c := &client{cfg: Config{Name: "a", Region: "eu-central-1"}}
	f.Add(scheme + "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")
	f.Add(scheme + "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab")
	f.Add("arn:aws:kms::1:key/1")
	f.Fuzz(func(t *testing.T, uri string) {
		if arn, err := c.parseURI(uri); err == nil && scheme+arn != uri {
			t.Errorf("parseURI(%q) = %q", uri, arn)
		}
	})
}
