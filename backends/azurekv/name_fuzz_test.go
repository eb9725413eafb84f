package azurekv

import (
	"strings"
	"testing"
)

// A vault's address names a host over https, and a key's URI a version in that vault.
func FuzzParseURI(f *testing.F) {
	const at = "https://name.vault.azure.net"
	f.Add(at, scheme+at+"/keys/k/0123456789abcdef0123456789abcdef")
	f.Add(at+"/", scheme+at+"/keys/k")
	f.Add("http://name.vault.azure.net", "x")
	f.Add("https://u:p@h?q#f", scheme+"https://h/keys/k/1")
	f.Fuzz(func(t *testing.T, address, uri string) {
		v, err := parseVault(address)
		if err != nil {
			return
		}
		if !strings.HasPrefix(v.url, "https://") || v.host == "" {
			t.Errorf("parseVault(%q) = %+v", address, v)
		}
		b := &Backend{cfg: Config{Name: "a"}, vault: v}
		if _, err := b.parseURI(uri); err == nil && !strings.HasPrefix(strings.ToLower(uri), scheme+v.url) {
			t.Errorf("in %s, parseURI(%q) succeeded", v.url, uri)
		}
	})
}
