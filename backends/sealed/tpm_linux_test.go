package sealed_test

import (
	"path/filepath"
	"testing"

	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/backends/tpm"
	"github.com/keyward/keyward/internal/swtpm"
)

// With a TPM as the Wrapper, what passes through go-tpm's buffers is a file key, and the key that signs is nowhere.
func TestNoKeyInMemoryWithTPM(t *testing.T) {
	emulator := swtpm.Start(t)
	key, err := tpm.Setup{Device: emulator.Socket}.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := tpm.Open(tpm.Config{Name: "test", Device: emulator.Socket, Key: key,
		Dir: filepath.Join(t.TempDir(), "keys")})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	k := backendtest.Generate(t, b, "keyward-x")
	needle := sealed.MaskedScalar(t, b.Backend, k)
	for i := range 20 {
		backendtest.Verify(t, k, [32]byte{byte(i)})
	}
	if found := needle.Search(t); len(found) != 0 {
		t.Errorf("the key is in memory: %q", found)
	}
}
