package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseGoogleAndAzure(t *testing.T) {
	const ring = "projects/p/locations/l/keyRings/r"
	for _, tt := range []struct {
		name, keys string
		want       Settings
		err        string
	}{
		{"Google", "type = \"gcpkms\"\nkey_ring = \"" + ring + "\"", &GCPKMS{KeyRing: ring, InFlight: 32}, ""},
		{"Google, all", "type = \"gcpkms\"\nkey_ring = \"" + ring +
			"\"\ndestroy_after = \"48h\"\nendpoint = \"kms.example:443\"\nin_flight = 5",
			&GCPKMS{KeyRing: ring, DestroyAfter: 48 * time.Hour, Endpoint: "kms.example:443", InFlight: 5}, ""},
		{"Google, no key ring", `type = "gcpkms"`, nil, `1:11: backend "kms" has no key ring`},
		{"Google, too soon", "type = \"gcpkms\"\nkey_ring = \"" + ring + "\"\ndestroy_after = \"1h\"", nil,
			"4:1: destroy_after: Google allows 24h to 2880h"},
		{"Google, none in flight", "type = \"gcpkms\"\nkey_ring = \"" + ring + "\"\nin_flight = 0", nil,
			"4:1: in_flight: must be more than 0"},
		{"Azure", "type = \"azurekv\"\nvault = \"https://v.vault.azure.net\"",
			&AzureKV{Vault: "https://v.vault.azure.net", KeyType: "EC-HSM", InFlight: 32}, ""},
		{"Azure, all", "type = \"azurekv\"\nvault = \"https://v.vault.azure.net\"\nkey_type = \"EC\"\npurge = " +
			"true\nin_flight = 5",
			&AzureKV{Vault: "https://v.vault.azure.net", KeyType: "EC", Purge: true, InFlight: 5}, ""},
		{"Azure, no vault", `type = "azurekv"`, nil, `1:11: backend "kms" has no vault`},
		{"Azure, key type", "type = \"azurekv\"\nkey_type = \"RSA\"", nil, `3:1: key_type: unknown value "RSA"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte("[backends.kms]\n"+tt.keys+"\n"), "config.toml")
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
			if d := cmp.Diff(tt.want, c.Backends["kms"].Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
