package openpgp_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/secret"
)

// TestOddPINFiles: what an editor leaves in a file of the PIN, or of the admin PIN, costs no try.
func TestOddPINFiles(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	before := len(c.PINTries()) // of tests with the same card
	for _, odd := range []string{"\xef\xbb\xbf%s\n", "%s\r\n", "%s \n", " %s\n", "%s\n\n"} {
		file := filepath.Join(t.TempDir(), "pin")
		for _, pin := range []string{userPIN, adminPIN} {
			if err := os.WriteFile(file, fmt.Appendf(nil, odd, pin), 0o600); err != nil {
				t.Fatal(err)
			}
			cfg := config()
			cfg.PIN = secret.NewKeeper(fixed(userPIN), secret.UntilLock)
			cfg.AdminPIN = secret.NewKeeper(secret.FromFile(file), 0)
			if pin == userPIN {
				cfg.PIN = secret.NewKeeper(secret.FromFile(file), secret.UntilLock)
			}
			b := open(t, cfg)
			_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
			if pin == userPIN {
				err = b.Unlock(t.Context(), nil)
			}
			if err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), pin) {
				t.Errorf("%q: %v, want an error that names the file", odd, err)
			}
		}
	}
	if n := len(c.PINTries()) - before; n != 0 {
		t.Errorf("the card was shown %d PINs, want none", n)
	}
}
