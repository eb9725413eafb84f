package transit

import (
	"context"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/backends/transit/transitfake"
	"github.com/keyward/keyward/internal/secret"
)

const (
	testKey   = "keyward"
	rootToken = "hvs.given"
)

// fakeVault is a fake that is being served. It has the transit key [testKey] and accepts [rootToken].
type fakeVault struct {
	*transitfake.Server
	url string
}

func newFake(t testing.TB) *fakeVault {
	t.Helper()
	f := &fakeVault{Server: &transitfake.Server{}}
	server := httptest.NewServer(f.Server)
	t.Cleanup(server.Close)
	f.url = server.URL
	f.SetKey(testKey, nil)
	f.AddToken(rootToken, 0, false)
	return f
}

// credential is a secret that a test can replace, and that counts how often it is asked for.
type credential struct {
	value atomic.Pointer[string]
	asked atomic.Int64
}

func (c *credential) set(value string) { c.value.Store(&value) }

func (c *credential) source(context.Context) (*secret.Buffer, error) {
	c.asked.Add(1)
	return secret.Take([]byte(*c.value.Load()))
}

func given(value string) secret.Source {
	c := &credential{}
	c.set(value)
	return c.source
}

func (f *fakeVault) config() Config {
	return Config{
		Name: "test", Address: f.url, Key: testKey, Timeout: 30 * time.Second,
		Auth: Auth{Method: "token", Secret: given(rootToken)},
	}
}

func open(t testing.TB, cfg Config) *sealed.Backend {
	t.Helper()
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "keys")
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// Faults of tests.
var (
	cutHard      = transitfake.Fault{CutHard: true}
	sealedAnswer = transitfake.Fault{Status: 503, Errors: []string{"Vault is sealed"}}
	garbled      = answering(`{"auth": {`)
	empty        = answering(`{}`)
)

func answering(body string) transitfake.Fault { return transitfake.Fault{Status: 200, Body: body} }
