package config

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseAWSKMS(t *testing.T) {
	for _, tt := range []struct {
		name, keys string
		want       AWSKMS
		err        string
	}{
		{"resident", `class = "resident"`, AWSKMS{Class: "resident", InFlight: 32, DeletionDays: 30}, ""},
		{"resident, all", `class = "resident"
region = "eu-central-1"
profile = "agent"
endpoint = "https://kms.example:1234"
in_flight = 5
host = "web-1"
deletion_days = 7`, AWSKMS{Class: "resident", Region: "eu-central-1", Profile: "agent", Endpoint: "https://kms.example:1234", InFlight: 5, Host: "web-1", DeletionDays: 7}, ""},
		{"sealed", `class = "sealed"
key = "alias/keyward-seal"
cache_for = "1m"`, AWSKMS{Class: "sealed", Key: "alias/keyward-seal", CacheFor: time.Minute, InFlight: 32, DeletionDays: 30}, ""},
		{"no class", ``, AWSKMS{}, `1:11: backend "kms" has no class`},
		{"class", `class = "wrapped"`, AWSKMS{}, `3:1: class: unknown value "wrapped"`},
		{"no key", `class = "sealed"`, AWSKMS{}, `1:11: backend "kms" seals with no KMS key`},
		{"key of the other class", "class = \"resident\"\nkey = \"x\"", AWSKMS{},
			`key and cache_for are for class = "sealed"`},
		{"days of the other class", "class = \"sealed\"\nkey = \"x\"\ndeletion_days = 7", AWSKMS{},
			`are for class = "resident"`},
		{"few days", "class = \"resident\"\ndeletion_days = 6", AWSKMS{}, `4:1: deletion_days: 6: AWS allows 7 to 30`},
		{"many days", "class = \"resident\"\ndeletion_days = 31", AWSKMS{}, `4:1: deletion_days: 31: AWS allows 7 to 30`},
		{"in flight", "class = \"resident\"\nin_flight = 0", AWSKMS{}, `4:1: in_flight: must be more than 0`},
		{"endpoint", "class = \"resident\"\nendpoint = \"kms.example\"", AWSKMS{}, `4:1: endpoint: "kms.example" is no URL`},
		{"key of another type", "class = \"resident\"\npin_env = \"X\"", AWSKMS{}, `4:1: unknown key "pin_env"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte("[backends.kms]\ntype = \"awskms\"\n"+tt.keys+"\n"), "config.toml")
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
			if d := cmp.Diff(&tt.want, c.Backends["kms"].Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
