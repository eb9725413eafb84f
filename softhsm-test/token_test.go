package softhsmtest_test

import (
	"os"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/backendtest"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

func TestTokensAreFresh(t *testing.T) {
	var serials []string
	for range 2 {
		tok := softhsmtest.NewToken(t)
		b := tok.Open(t)
		keys, err := b.Keys(t.Context(), "")
		if err != nil || len(keys) != 0 {
			t.Fatalf("a new token has the keys %v (%v)", keys, err)
		}
		backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		serials = append(serials, tok.Serial)
	}
	if serials[0] == serials[1] || serials[0] == "" {
		t.Errorf("serials are %q", serials)
	}
}

func TestTokenFilesArePrivate(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	for _, path := range []string{tok.PINFile, tok.SOPINFile, tok.Conf} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want mode 0600", path, info.Mode(), err)
		}
	}
	pin, _ := os.ReadFile(tok.PINFile)
	soPIN, _ := os.ReadFile(tok.SOPINFile)
	if len(pin) < 16 || string(pin) == string(soPIN) || !strings.HasSuffix(string(pin), "\n") {
		t.Error("PINs are short or the same")
	}
}
