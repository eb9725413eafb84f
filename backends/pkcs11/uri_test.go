package pkcs11

import (
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseURI(t *testing.T) {
	tests := []struct {
		in   string
		want URI
		out  string // "": the same as in
	}{
		// not UTF-8, as some tokens have it
		{"pkcs11:token=%FF%00%1B;object=%C3", URI{Token: "\xff\x00\x1b", Object: "\xc3"}, ""},
		{"pkcs11:token=t;serial=0a;id=%01%FF;object=k;type=private",
			URI{Token: "t", Serial: "0a", ID: []byte{1, 0xff}, Object: "k", Type: "private"}, ""},
		// As p11tool and pkcs11-tool print them.
		{"pkcs11:model=SoftHSM%20v2;manufacturer=SoftHSM%20project;serial=ab;token=My%20token;id=%01;object=a;type=public",
			URI{Token: "My token", Manufacturer: "SoftHSM project", Model: "SoftHSM v2", Serial: "ab", ID: []byte{1},
				Object: "a", Type: "public"},
			"pkcs11:token=My%20token;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=ab;id=%01;object=a;type=public"},
		{"pkcs11:id=ab%3b", URI{ID: []byte("ab;")}, "pkcs11:id=%61%62%3B"},
		{"pkcs11:object=-._~:[]@!$'()*+,=&", URI{Object: "-._~:[]@!$'()*+,=&"}, ""},
		{"pkcs11:object=%2F%3B%3F%23%25%20%C3%BC", URI{Object: "/;?#% ü"}, ""},
	}
	for _, tt := range tests {
		got, err := ParseURI(tt.in)
		if err != nil {
			t.Errorf("ParseURI(%q): %v", tt.in, err)
			continue
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("ParseURI(%q) (-want +got):\n%s", tt.in, diff)
		}
		want := tt.out
		if want == "" {
			want = tt.in
		}
		if got.String() != want {
			t.Errorf("String() = %q, want %q", got.String(), want)
		}
	}
}

func TestParseURIRefuses(t *testing.T) {
	for _, in := range []string{
		"", "pkcs11", "pkcs11:", "PKCS11:id=%01", "http://x", "pkcs11://id=%01", "soft:1",
		"pkcs11:id", "pkcs11:id=", "pkcs11:=x", "pkcs11:id=%01;", "pkcs11:;id=%01",
		"pkcs11:id=%01;id=%02", "pkcs11:id=%0", "pkcs11:id=%", "pkcs11:id=%0g", "pkcs11:id=%\x101", "pkcs11:id=%+1",
		"pkcs11:slot-id=1", "pkcs11:library-version=1", "pkcs11:x-vendor=1", "pkcs11:ID=%01",
		"pkcs11:object=a b", "pkcs11:object=ü", "pkcs11:object=a/b", "pkcs11:object=a#b",
		"pkcs11:type=secret", "pkcs11:type=Private",
		"pkcs11:id=%01?module-path=/x.so", "pkcs11:id=%01?",
	} {
		if u, err := ParseURI(in); err == nil {
			t.Errorf("ParseURI(%q) = %+v, want an error", in, u)
		}
	}
}

func TestParseURINeverShowsAPIN(t *testing.T) {
	for _, in := range []string{
		"pkcs11:id=%01?pin-value=hunter22", "pkcs11:id=%01?pin-source=hunter22", "pkcs11:pin-value=hunter22",
		"pkcs11:id=%01;pin-value=hunter22", "pkcs11:id=%01?module-name=x&pin-value=hunter22",
		"pkcs11:bad bad;pin-value=hunter22",
	} {
		_, err := ParseURI(in)
		if err == nil || strings.Contains(err.Error(), "hunter22") {
			t.Errorf("ParseURI(%q) = %v, want an error without the PIN", in, err)
		}
	}
}

// FuzzURI: what ParseURI accepts means the same after String, and String's form is a fixed point.
func FuzzURI(f *testing.F) {
	f.Add("pkcs11:token=t;serial=0a;id=%01%ff;object=k;type=private")
	f.Add("pkcs11:model=SoftHSM%20v2;manufacturer=a;object=%C3%BC")
	f.Add("pkcs11:id=%01?pin-value=1")
	f.Add("pkcs11:object=a%3Bb;id=%00")
	f.Fuzz(func(t *testing.T, in string) {
		u, err := ParseURI(in)
		if err != nil {
			return
		}
		again, err := ParseURI(u.String())
		if err != nil || !reflect.DeepEqual(u, again) || again.String() != u.String() {
			t.Errorf("ParseURI(%q) = %+v; its String %q gives %+v, %v", in, u, u.String(), again, err)
		}
	})
}

func TestDecodePoint(t *testing.T) {
	point := make([]byte, 65)
	point[0] = 4
	der := append([]byte{4, 65}, point...)
	for name, tt := range map[string]struct {
		in []byte
		ok bool
	}{
		"DER":        {der, true},
		"bare":       {point, true},
		"short":      {point[:64], false},
		"compressed": {append([]byte{2}, point[1:33]...), false},
		"BIT STRING": {append([]byte{3, 65}, point...), false},
		"trailing":   {append(der[:67:67], 0), false},
		"empty":      {nil, false},
	} {
		if got := decodePoint(tt.in); (got != nil) != tt.ok || tt.ok && !reflect.DeepEqual(got, point) {
			t.Errorf("%s: decodePoint = %x, want success %v", name, got, tt.ok)
		}
	}
}
