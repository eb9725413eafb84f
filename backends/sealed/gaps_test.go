package sealed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/backendtest"
)

// If what is left of a file that could not be written can't be removed either, the error says so.
func TestWriteSaysWhatItLeaves(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	k := backendtest.Generate(t, b, "keyward-x")
	signer, err := parseURI(k.URI())
	if err != nil {
		t.Fatal(err)
	}
	f, err := b.read(signer)
	if err != nil {
		t.Fatal(err)
	}
	path := b.path(signer)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	err = b.dir.Write(signer, f.marshal())
	if err == nil || !strings.Contains(err.Error(), "rename") || !strings.Contains(err.Error(), "open "+path) {
		t.Errorf("write over a directory = %v, want the errors of writing and of removing", err)
	}
}
