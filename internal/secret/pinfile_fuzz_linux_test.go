package secret

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A PIN file's content, less one newline, is the PIN, or the file is refused.
func FuzzPINFile(f *testing.F) {
	for _, s := range []string{"123456", "123456\n", "\n", "", "12\x0056", "a b", "é\n\n", strings.Repeat("x", 5000)} {
		f.Add(s)
	}
	path := filepath.Join(f.TempDir(), "pin")
	f.Fuzz(func(t *testing.T, content string) {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := FromFile(path)(t.Context())
		if err != nil {
			return
		}
		defer b.Close()
		err = b.Use(func(pin []byte) error {
			if string(pin) != strings.TrimSuffix(content, "\n") || len(pin) == 0 {
				t.Errorf("of a file with %q the PIN is %q", content, pin)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
