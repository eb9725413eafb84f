package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseTransit(t *testing.T) {
	const (
		base  = "address = \"https://vault.example:8200\"\nkey = \"keyward\"\n"
		login = "auth = \"approle\"\nrole = \"r\"\nsecret_file = \"secret-id\"\n"
	)
	for _, tt := range []struct {
		name, keys string
		want       Transit
		err        string
	}{
		{"approle", base + login, Transit{Address: "https://vault.example:8200", Key: "keyward", Mount: "transit",
			InFlight: 32, Auth: "approle", Role: "r", SecretFile: "secret-id"}, ""},
		{"kubernetes, all", base + `auth = "kubernetes"
auth_mount = "clusters/west"
role = "keyward"
namespace = "admin/team"
ca_file = "ca.pem"
mount = "encryption"
in_flight = 4
cache_for = "1m"`, Transit{Address: "https://vault.example:8200", Key: "keyward", Mount: "encryption", InFlight: 4, CacheFor: time.Minute,
			Auth: "kubernetes", AuthMount: "clusters/west", Role: "keyward", Namespace: "admin/team", CAFile: "ca.pem"}, ""},
		{"token on this machine", "address = \"http://127.0.0.1:8200\"\nkey = \"k\"\nauth = \"token\"\nsecret_credential " +
			"= \"vault\"",
			Transit{Address: "http://127.0.0.1:8200", Key: "k", Mount: "transit", InFlight: 32, Auth: "token",
				SecretCredential: "vault"}, ""},
		{"no address", `key = "k"`, Transit{}, `has no address`},
		{"not a URL", "address = \"vault.example\"", Transit{}, `3:1: address: "vault.example" is no URL`},
		{"in the clear", "address = \"http://vault.example:8200\"", Transit{}, `in the clear`},
		{"with a path", "address = \"https://vault.example/v1\"", Transit{}, `3:1: address: "https://vault.example/v1"`},
		{"no key", `address = "https://vault.example"`, Transit{}, `seals with no transit key`},
		{"key", "address = \"https://vault.example\"\nkey = \"../sys\"", Transit{}, `4:1: key: "../sys"`},
		{"no auth", base, Transit{}, `has no auth`},
		{"auth", base + `auth = "userpass"`, Transit{}, `5:1: auth: unknown value "userpass"`},
		{"no role", base + `auth = "approle"`, Transit{}, `has no role`},
		{"role of a token", base + "auth = \"token\"\nrole = \"r\"", Transit{}, `role and auth_mount are for`},
		{"no secret", base + "auth = \"approle\"\nrole = \"r\"", Transit{}, `has no source for its secret`},
		{"two secrets", base + login + `secret_credential = "x"`, Transit{}, `two sources for its secret`},
		{"credential's name", base + "auth = \"token\"\nsecret_credential = \"a/b\"", Transit{}, `no credential's name`},
		{"in flight", base + login + "in_flight = 0", Transit{}, `in_flight: must be more than 0`},
		{"secret in the configuration", base + login + "secret = \"x\"", Transit{}, `unknown key "secret"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte("[backends.vault]\ntype = \"transit\"\n"+tt.keys+"\n"), "config.toml")
			if tt.err != "" {
				var e *Error
				if !errors.As(err, &e) || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Parse = %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(&tt.want, c.Backends["vault"].Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
