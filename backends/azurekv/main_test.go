package azurekv

import (
	"os"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/azurekv/kvfake"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/testca"
)

const (
	vaultHost = "keyward.vault.azure.net"
	hsmHost   = "keyward.managedhsm.azure.net"
)

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
	for name, value := range kvfake.Env {
		os.Setenv(name, value)
	}
	return m.Run()
}

// start starts a fake and opens a Backend on it, by the real client with real credentials.
func start(t *testing.T, host string, cfg Config) (*Backend, *kvfake.Server) {
	t.Helper()
	s, err := kvfake.Start(host, ca)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	if cfg.OpTimeout == 0 {
		cfg.OpTimeout = time.Minute
	}
	cfg.Name, cfg.Vault, cfg.Dial = "test", s.URL, s.Dial
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.foreignRoots = false // the only one is the test's own
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, s
}

func TestSuite(t *testing.T) {
	for name, tt := range map[string]struct{ host, keyType string }{
		"vault, software": {vaultHost, EC}, "vault, HSM": {vaultHost, ECHSM}, "Managed HSM": {hsmHost, ECHSM},
	} {
		t.Run(name, func(t *testing.T) {
			unknown := scheme + "https://" + tt.host + "/keys/none/0123456789abcdef0123456789abcdef"
			backendtest.Run(t, backendtest.Options{Unknown: unknown}, func(t *testing.T) backends.Backend {
				b, _ := start(t, tt.host, Config{KeyType: tt.keyType})
				return b
			})
		})
	}
}

func generate(t *testing.T, b *Backend, label string) *key {
	t.Helper()
	return backendtest.Generate(t, b, label).(*key)
}

func TestOpenRefuses(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Vault: "keyward"},
		{Vault: "http://" + vaultHost},
		{Vault: "https://user@" + vaultHost},
		{Vault: "https://" + vaultHost + "/keys/k"},
		{Vault: "https://" + vaultHost, KeyType: "RSA"},
		{Vault: "https://" + hsmHost, KeyType: EC},
	} {
		if b, err := Open(cfg); err == nil {
			t.Errorf("Open(%+v) succeeded", cfg)
			b.Close()
		}
	}
}
