package piv_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// TestOddPINFiles: what an editor leaves in the PIN's file costs no try.
func TestOddPINFiles(t *testing.T) {
	b := newBench(t, plain)
	mark := b.shown(0)
	for _, odd := range []string{"\xef\xbb\xbf%s\n", "%s\r\n", "%s \n", " %s\n", "%s\n\n"} {
		file := filepath.Join(t.TempDir(), "pin")
		must(t, os.WriteFile(file, fmt.Appendf(nil, odd, "271828"), 0o600))
		configured := b.open(t, secret.NewKeeper(secret.FromFile(file), secret.UntilLock))
		_, err := configured.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		for _, err := range []error{err, configured.Unlock(t.Context(), nil)} {
			if err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "271828") {
				t.Errorf("%q: %v, want an error that names the file", odd, err)
			}
		}
	}
	if n := b.shown(mark); n != 0 {
		t.Errorf("the card was shown %d PINs, want none", n)
	}
}
