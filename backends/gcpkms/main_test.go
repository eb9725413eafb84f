package gcpkms

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/gcpkms/kmsfake"
	"github.com/keyward/keyward/internal/testca"
)

const ring = "projects/p-1/locations/europe-west6/keyRings/keyward"

var ca *testca.CA

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	trusted, remove, err := testca.NewTrusted()
	if err != nil {
		panic(err)
	}
	defer remove()
	ca = trusted
	return m.Run()
}

// start starts a fake and opens a Backend on it, by the real client with real credentials.
func start(t *testing.T, cfg Config) (*Backend, *kmsfake.Server) {
	t.Helper()
	s, err := kmsfake.Start(ring, ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	env, err := s.Env(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", env["GOOGLE_APPLICATION_CREDENTIALS"])
	if cfg.KeyRing == "" {
		cfg.KeyRing = ring
	}
	if cfg.OpTimeout == 0 {
		cfg.OpTimeout = time.Minute
	}
	cfg.Name, cfg.Endpoint = "test", s.Endpoint
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, s
}

func TestSuite(t *testing.T) {
	backendtest.Run(t, backendtest.Options{Unknown: scheme + ring + "/cryptoKeys/none/cryptoKeyVersions/1"},
		func(t *testing.T) backends.Backend {
			b, _ := start(t, Config{})
			return b
		})
}

func generate(t *testing.T, b *Backend, label string) *key {
	t.Helper()
	return backendtest.Generate(t, b, label).(*key)
}

func TestOpenRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{KeyRing: "keyward"},
		{KeyRing: ring + "/cryptoKeys/k"},
		{KeyRing: "projects/p/locations/../keyRings/r"},
		{KeyRing: ring, DestroyAfter: time.Hour},
		{KeyRing: ring, DestroyAfter: 121 * 24 * time.Hour},
	} {
		if b, err := Open(t.Context(), cfg); err == nil {
			t.Errorf("Open(%+v) succeeded", cfg)
			b.Close()
		}
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", filepath.Join(t.TempDir(), "none.json"))
	if b, err := Open(t.Context(), Config{KeyRing: ring}); err == nil {
		t.Error("Open without credentials succeeded")
		b.Close()
	}
}
