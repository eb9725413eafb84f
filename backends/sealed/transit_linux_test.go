package sealed_test

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"testing"

	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/backends/transit"
	"github.com/keyward/keyward/backends/transit/transitfake"
	"github.com/keyward/keyward/internal/secret"
)

// With Vault as the Wrapper, what passes through the buffers of net/http is a file key, and the key that signs is
// nowhere. The fake Vault is in this process and has not seen it either.
func TestNoKeyInMemoryWithTransit(t *testing.T) {
	fake := &transitfake.Server{}
	server := httptest.NewServer(fake)
	defer server.Close()
	fake.SetKey("keyward", nil)
	fake.AddToken("hvs.x", 0, false)
	b, err := transit.Open(transit.Config{
		Name: "test", Address: server.URL, Key: "keyward", Dir: filepath.Join(t.TempDir(), "keys"),
		Auth: transit.Auth{Method: "token", Secret: func(context.Context) (*secret.Buffer,
			error) {
			return secret.Take([]byte("hvs.x"))
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	k := backendtest.Generate(t, b, "keyward-x")
	needle := sealed.MaskedScalar(t, b, k)
	for i := range 20 {
		backendtest.Verify(t, k, [32]byte{byte(i)})
	}
	fake.Rotate("keyward")
	if done, err := b.Rewrap(t.Context(), k.URI()); !done || err != nil {
		t.Fatalf("Rewrap = %v, %v", done, err)
	}
	backendtest.Verify(t, k, [32]byte{1})
	if found := needle.Search(t); len(found) != 0 {
		t.Errorf("the key is in memory: %q", found)
	}
}
