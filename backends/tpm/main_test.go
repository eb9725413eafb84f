package tpm

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/swtpm"
)

// newKey makes a storage key, with that PIN if it is not "".
func newKey(t testing.TB, emulator *swtpm.TPM, pin string) Key {
	t.Helper()
	s := Setup{Device: emulator.Socket}
	if pin != "" {
		s.PIN = buffer(t, pin)
		defer s.PIN.Close()
	}
	k, err := s.Create(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func buffer(t testing.TB, text string) *secret.Buffer {
	t.Helper()
	b, err := secret.Take([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// openTest opens a backend, in a directory of its own if cfg has none.
func openTest(t testing.TB, emulator *swtpm.TPM, cfg Config) *Backend {
	t.Helper()
	cfg.Name, cfg.Device = "test", emulator.Socket
	if cfg.Dir == "" {
		cfg.Dir = filepath.Join(t.TempDir(), "keys")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = time.Minute
	}
	b, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// pins is a Keeper of a PIN, as the agent makes it.
func pins(t testing.TB, pin string) *secret.Keeper {
	t.Helper()
	source := func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(pin)) }
	k := Explained(secret.NewKeeper(source, secret.UntilLock)).MarkIn(filepath.Join(t.TempDir(), "pins"))
	t.Cleanup(func() { k.Close() })
	return k
}

// direct calls f with the TPM.
func direct(t testing.TB, emulator *swtpm.TPM, f func(c *conn)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := dial(ctx, emulator.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	f(c)
}

// failedTries is the TPM's count.
func failedTries(t testing.TB, emulator *swtpm.TPM) (l Lockout) {
	t.Helper()
	direct(t, emulator, func(c *conn) {
		var err error
		if l, err = readLockout(c); err != nil {
			t.Fatal(err)
		}
	})
	return l
}

func clearTPM(t testing.TB, emulator *swtpm.TPM) {
	t.Helper()
	direct(t, emulator, func(c *conn) {
		if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout,
			Auth: tpm2.PasswordAuth(nil)}}).Execute(c); err != nil {
			t.Fatal(err)
		}
	})
}

func TestBackend(t *testing.T) {
	emulator := swtpm.Start(t)
	for name, cfg := range map[string]Config{
		"no PIN": {Key: newKey(t, emulator, "")},
		"PIN and PCRs": {Key: newKey(t, emulator, "four words and more"), PINs: pins(t, "four words and more"),
			PCRs: 1<<7 | 1<<14},
		"kept open": {Key: newKey(t, emulator, ""), CacheFor: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			backendtest.Run(t, backendtest.Options{Signatures: 16}, func(t *testing.T) backends.Backend {
				cfg.Dir = ""
				return openTest(t, emulator, cfg)
			})
		})
	}
	if l := failedTries(t, emulator); l.Failed != 0 {
		t.Errorf("%d PIN tries failed, want none", l.Failed)
	}
}
