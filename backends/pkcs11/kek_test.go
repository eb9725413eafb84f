package pkcs11

import (
	"errors"
	"strings"
	"testing"

	p11 "github.com/miekg/pkcs11"
)

// A key-encryption key without the templates that protect what it wraps is refused with the reason.
func TestKEKTemplates(t *testing.T) {
	for _, tt := range []struct {
		name     string
		template []*p11.Attribute
		movable  bool
		refused  string // "": it is fit
	}{
		{"none", nil, false, "no CKA_UNWRAP_TEMPLATE"},
		{"not sensitive", []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, false)}, false, "CKA_SENSITIVE"},
		{"sensitive false", []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, false),
			p11.NewAttribute(p11.CKA_EXTRACTABLE, false)}, false, "CKA_SENSITIVE"},
		{"neither", []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, true)}, true, "neither"},
		{"extractable", []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, true),
			p11.NewAttribute(p11.CKA_EXTRACTABLE, true)}, true, "neither"},
		{"trusted false", []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, true),
			p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, false)}, true, "neither"},
		{"a long value", []*p11.Attribute{p11.NewAttribute(p11.CKA_SENSITIVE, []byte{1, 0}),
			p11.NewAttribute(p11.CKA_EXTRACTABLE, false)}, false, "CKA_SENSITIVE"},
		{"fixed", KEK{}.unwrapTemplate(), false, ""},
		{"movable", KEK{Movable: true}.unwrapTemplate(), true, ""},
	} {
		k := &kek{template: tt.template}
		err := k.checkTemplate()
		if (err == nil) != (tt.refused == "") || err != nil &&
			(!errors.Is(err, ErrUnsafeKEK) || !strings.Contains(err.Error(), tt.refused)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.refused)
		}
		if err == nil && k.movable != tt.movable {
			t.Errorf("%s: movable %v", tt.name, k.movable)
		}
	}
}

func FuzzParseWrapped(f *testing.F) {
	f.Add([]byte("keyward wrapped key 1\nlabel \"keyward-x\"\naccount \"0x1\"\nchain 2741\npublic " +
		"0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8\ntoken \"s\"\nkek 00\nmechanism aes-key-wrap\nwrapped AAAA\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if k, err := parseWrapped(data); err == nil && string(k.marshal()) != string(data) {
			t.Errorf("%q is written as %q", data, k.marshal())
		}
	})
}
