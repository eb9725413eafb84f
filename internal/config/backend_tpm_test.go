package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseTPM(t *testing.T) {
	name := "000b" + strings.Repeat("0a", 32)
	least := "handle = \"0x81004b57\"\nkey = \"" + name + "\"\n"
	for _, tt := range []struct {
		name, keys string
		want       *TPM
		err        string
	}{
		{"least", least, &TPM{Device: "/dev/tpmrm0"}, ""},
		{"all", least + "device = \"/run/tpm.sock\"\npcrs = \"0,7,23\"\npin_credential = \"c\"\npin_hold = " +
			"\"1m\"\nkey_hold = \"1s\"",
			&TPM{Device: "/run/tpm.sock", PCRs: "0,7,23", PIN: PIN{Credential: "c"}, PINHold: time.Minute, KeyHold: time.Second},
			""},
		{"no key", `handle = "0x81004b57"`, nil, `1:11: backend "tpm" names no storage key by handle and key; make one with: keyward tpm setup`},
		{"nothing", "", nil, "names no storage key"},
		{"another's handle", strings.Replace(least, "0x81004b57", "0x81800000", 1), nil,
			`3:1: handle: "0x81800000" is no persistent handle of the owner`},
		{"a key that is none", "handle = \"0x81004b57\"\nkey = \"000b\"", nil, `4:1: key: "000b" is no name of a TPM key`},
		{"PCRs", least + `pcrs = "24"`, nil, `5:1: pcrs: "24": want numbers from 0 to 23`},
		{"PCRs with a space", least + `pcrs = "7, 8"`, nil, `5:1: pcrs: `},
		{"no device", least + `device = ""`, nil, `5:1: device: must not be empty; leave the key out instead`},
		{"two PINs", least + "pin_file = \"pin\"\npin_prompt = true", nil,
			`has two sources for its PIN, pin_file and pin_prompt`},
		{"a typing error", least + `pcr = "7"`, nil, `did you mean "pcrs"?`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte("[backends.tpm]\ntype = \"tpm\"\n"+tt.keys+"\n"), "config.toml")
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Handle, tt.want.Key = "0x81004b57", name
			if d := cmp.Diff(Settings(tt.want), c.Backends["tpm"].Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}
