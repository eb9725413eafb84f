package piv_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
)

const (
	insGetData       = 0xcb
	insPutData       = 0xdb
	insSetManagement = 0xff
)

// firmwares are those that tell a management key apart: AES-192 from the factory, AES-192 by choice,
// and 3DES on a card that describes nothing.
var firmwares = map[string]cardsim.Firmware{"5.7.1": cardsim.Firmware571, "5.4.3": cardsim.Firmware543, "5.2.7": {5, 2, 7}}

// TestYkmanNeedsThePINOnly: ykman says where the management key is, and generates a key and
// changes what it has noted by the PIN alone.
func TestYkmanNeedsThePINOnly(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			ykman := func(args ...string) string {
				t.Helper()
				cmd := exec.CommandContext(t.Context(), "ykman", append([]string{"--device", "12345678", "piv"}, args...)...)
				cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("ykman piv %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			const want = "Management key is stored on the YubiKey, protected by PIN."
			if out := ykman("info"); !strings.Contains(out, want) {
				t.Errorf("ykman piv info does not say %q:\n%s", want, out)
			}
			public := filepath.Join(t.TempDir(), "public.pem")
			ykman("keys", "generate", "--pin", testPIN, "--algorithm", "ECCP256", "9a", public)
			ykman("certificates", "generate", "--pin", testPIN, "--subject", "CN=test", "9a", public)

			// ykman replaces the management key; ours is read where it has put it.
			s := &piv.Setup{Serial: b.serial, Roots: roots()}
			ours, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			ykman("access", "change-management-key", "--pin", testPIN, "--generate", "--protect", "--force")
			theirs, err := s.ManagementKey([]byte(testPIN))
			must(t, err)
			if bytes.Equal(ours, theirs) {
				t.Error("ykman did not change the management key")
			}
			_, err = s.Generate(ours, 0x82, piv.PINOnce, piv.TouchNever, false)
			wantErr(t, "Generate with the key before", err, piv.ErrManagementKey)
			_, err = s.Generate(theirs, 0x82, piv.PINOnce, piv.TouchNever, false)
			must(t, err)
		})
	}
}

