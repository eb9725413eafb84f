package tpm

import "testing"

// A set of PCRs has one text form.
func FuzzParsePCRs(f *testing.F) {
	for _, s := range []string{"", "7", "0,23", "7,7", "14,7", "24", "07", "7,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if set, err := ParsePCRs(s); err == nil && set.String() != s {
			t.Errorf("ParsePCRs(%q) = %v", s, set)
		}
	})
}
