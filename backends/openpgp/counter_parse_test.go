package openpgp

import (
	"encoding/hex"
	"testing"
)

func TestParseCounter(t *testing.T) {
	for text, want := range map[string]uint64{"9303000102": 258, "7a059303ffffff": mostSignatures, "9303000000": 0} {
		raw, _ := hex.DecodeString(text)
		if got, err := parseCounter(raw); got != want || err != nil {
			t.Errorf("parseCounter(%s) = %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "93020001", "930400000001", "7a00", "94030000", "7a0593030001", "93"} {
		raw, _ := hex.DecodeString(text)
		if got, err := parseCounter(raw); err == nil {
			t.Errorf("parseCounter(%q) = %d, want an error", text, got)
		}
	}
}
