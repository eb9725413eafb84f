package config

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParsePIV(t *testing.T) {
	file := PIN{File: "pin"}
	for _, tt := range []struct {
		name, keys string
		want       *PIV
		err        string
	}{
		{"least", `pin_file = "pin"`, &PIV{PIN: file}, ""},
		{"all", "attestation_roots = \"r\"\nserial = 12345678\nslot = \"9d\"\npin_policy = \"always\"\ntouch_policy = " +
			"\"cached\"\npin_prompt = true\npin_hold = \"1m\"\nkey_hold = \"1s\"",
			&PIV{Roots: "r", Serial: 12345678, Slot: "9d", PINPolicy: "always", TouchPolicy: "cached", PIN: PIN{Prompt: true},
				PINHold: time.Minute, KeyHold: time.Second}, ""},
		{"no PIN is needed", `pin_policy = "never"`, &PIV{PINPolicy: "never"}, ""},

		{"a PIN that is never used", "pin_policy = \"never\"\npin_file = \"pin\"", nil,
			`5:1: pin_file: backend "yubikey" needs no PIN`},
		{"a prompt that is never used", "pin_prompt = true\npin_policy = \"never\"", nil,
			`4:1: pin_prompt: backend "yubikey" needs no PIN`},
		{"no PIN", "", nil, `1:11: backend "yubikey" has no source for its PIN; add pin_file, pin_credential, pin_env or pin_prompt = true, or pin_policy = "never"`},
		{"no PIN, though one is needed", `pin_policy = "once"`, nil, "has no source for its PIN"},
		{"two PINs", "pin_file = \"pin\"\npin_prompt = true", nil,
			"5:1: backend \"yubikey\" has two sources for its PIN, pin_file and pin_prompt"},
		{"negative serial", "serial = -1", nil, "4:1: serial: -1 is out of range"},
		{"oversized serial", "serial = 4294967296", nil, "4:1: serial: 4294967296 is out of range"}, // 0 in 32 bits
		{"hexadecimal serial", `serial = "1234567A"`, nil, "4:1: serial: want an integer, not a string"},
		{"PIN policy", `pin_policy = "sometimes"`, nil, `4:1: pin_policy: unknown value "sometimes"; known are never, once, always`},
		{"touch policy", `touch_policy = "cache"`, nil, `4:1: touch_policy: unknown value "cache"; did you mean "cached"?`},
		{"no such policy for a touch", `touch_policy = "once"`, nil, `4:1: touch_policy: unknown value "once"`},
		{"negative hold", `key_hold = "-1s"`, nil, "4:1: key_hold: \"-1s\" is negative"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse([]byte("[backends.yubikey]\ntype = \"piv\"\nattestation = \"att.pem\"\n"+tt.keys+"\n"),
				"config.toml")
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			tt.want.Attestation = "att.pem"
			if d := cmp.Diff(Settings(tt.want), c.Backends["yubikey"].Settings); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
	_, err := Parse([]byte("[backends.yubikey]\ntype = \"piv\"\npin_file = \"pin\"\n"), "config.toml")
	wantError(t, err, `1:11: backend "yubikey" has no attestation`)
}

func TestPIVSlots(t *testing.T) {
	parse := func(slot string) error {
		_, err := Parse(fmt.Appendf(nil, "[backends.yubikey]\ntype = \"piv\"\nattestation = \"a\"\npin_prompt = "+
			"true\nslot = %q\n", slot), "config.toml")
		return err
	}
	known := map[string]bool{"9d": true}
	for n := 0x82; n <= 0x95; n++ {
		known[fmt.Sprintf("%02x", n)] = true
	}
	for n := range 0x100 {
		slot := fmt.Sprintf("%02x", n)
		if err := parse(slot); known[slot] != (err == nil) {
			t.Errorf("slot %s: %v", slot, err)
		}
	}
	for _, slot := range []string{"9D", "0x9d", "9d ", "9", "9dd", "retired1", "8\n2"} {
		wantError(t, parse(slot), "5:1: slot: unknown slot")
	}
}

// TestSerials: the line can be copied from one section to the other.
func TestSerials(t *testing.T) {
	for _, tt := range []struct{ typ, line, err string }{
		{"piv", `serial = 12345678`, ""},
		{"piv", `serial = "12345678"`, ""},
		{"piv", `serial = "-1"`, "3:1: serial: want an integer, not a string"},
		{"piv", `serial = "4294967296"`, "3:1: serial: 4294967296 is out of range"},
		{"openpgp", `serial = "12345678"`, ""},
		{"openpgp", `serial = 12345678`, ""},
		{"openpgp", `serial = -1`, "3:1: serial: want a string, not an integer"},
		{"openpgp", `serial = 1.5`, "3:1: serial: want a string, not a float"},
		{"openpgp", `serial = ""`, "3:1: serial: must not be empty"},
		{"pkcs11", `serial = 12345678`, "3:1: serial: want a string, not an integer"}, // nobody says that it has digits only
	} {
		t.Run(tt.typ+" "+tt.line, func(t *testing.T) {
			rest := "\npin_file = \"pin\"\n"
			if tt.typ == "piv" {
				rest += "attestation = \"a\"\n"
			}
			c, err := Parse([]byte("[backends.a]\ntype = \""+tt.typ+"\"\n"+tt.line+rest), "config.toml")
			if tt.err != "" {
				wantError(t, err, tt.err)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			switch s := c.Backends["a"].Settings.(type) {
			case *PIV:
				if s.Serial != 12345678 {
					t.Errorf("Serial = %d", s.Serial)
				}
			case *OpenPGP:
				if s.Serial != "12345678" {
					t.Errorf("Serial = %q", s.Serial)
				}
			}
		})
	}
}

// TestTimeoutOfTouch: what the template shows as the default is what holds when it is not given.
func TestTimeoutOfTouch(t *testing.T) {
	for _, tt := range []struct {
		touch   string
		timeout time.Duration // given; 0: not
		shows   string
		want    time.Duration
	}{
		{"never", 0, "\n# timeout = \"10s\" ", 10 * time.Second},
		{"always", 0, "\n# timeout = \"35s\" ", 35 * time.Second},
		{"cached", 0, "\n# timeout = \"35s\" ", 35 * time.Second},
		{"always", time.Minute, "\ntimeout = \"1m\" ", time.Minute},
	} {
		b := NewBackend("piv")
		b.Settings = &PIV{Attestation: "a", TouchPolicy: tt.touch, PIN: PIN{Prompt: true}}
		if tt.timeout > 0 {
			b.Timeout = tt.timeout
		}
		text := Section("yubikey", b)
		if !strings.Contains(string(text), tt.shows) {
			t.Errorf("touch policy %s, timeout %v: %q is not in\n%s", tt.touch, tt.timeout, tt.shows, text)
		}
		c, err := Parse(text, "config.toml")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Backends["yubikey"].Timeout; got != tt.want {
			t.Errorf("touch policy %s: timeout %v, want %v", tt.touch, got, tt.want)
		}
	}
}

// wantError wants an error in the file that says text.
func wantError(t *testing.T, err error, text string) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), text) {
		t.Errorf("Parse = %v, want %s", err, text)
	}
}
