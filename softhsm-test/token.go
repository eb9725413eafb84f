// Package softhsmtest gives each test a SoftHSM token of its own.
package softhsmtest

import (
	"maps"
	"os"
	"testing"
	"time"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
)

// Label is the label of every test token.
const Label = "keyward-test"

// Token is a fresh SoftHSM token that is gone when the test ends.
type Token struct {
	pkcs11.SoftHSMToken
	Dir string            // the files of the token: Dir/tokens, Dir/softhsm2.conf, Dir/pin, Dir/so-pin
	env map[string]string // of the fault module; see NewFaults
}

// Env is what Module needs in the environment.
func (tok *Token) Env() map[string]string {
	env := maps.Clone(tok.env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, tok.SoftHSMToken.Env())
	return env
}

// NewToken makes a token, in memory where /dev/shm can be written to. A machine without SoftHSM
// fails the test. SoftHSM serves one token set at a time in a process, so tests that use it
// must not run in parallel, and a Backend has to be closed before the next NewToken.
func NewToken(t testing.TB) *Token {
	t.Helper()
	module, err := pkcs11.FindSoftHSMModule()
	if err != nil {
		t.Fatal(err)
	}
	dir := tempDir(t)
	tok, err := pkcs11.NewSoftHSMToken(dir, Label, module)
	if err != nil {
		t.Fatal(err)
	}
	return &Token{SoftHSMToken: tok, Dir: dir}
}

// Config is a configuration that uses the token, for a test to change.
func (tok *Token) Config() pkcs11.Config {
	return pkcs11.Config{
		Name:        "softhsm",
		Module:      tok.Module,
		Env:         tok.Env(),
		TokenLabel:  tok.Label,
		TokenSerial: tok.Serial,
		PIN:         secret.FromFile(tok.PINFile),
		OpTimeout:   10 * time.Second,
	}
}

// Open opens a Backend on the token, and closes it when the test ends, if the test did not.
func (tok *Token) Open(t testing.TB) *pkcs11.Backend {
	t.Helper()
	return Open(t, tok.Config())
}

// Open opens a Backend with cfg, and closes it when the test ends, if the test did not.
func Open(t testing.TB, cfg pkcs11.Config) *pkcs11.Backend {
	t.Helper()
	b, err := pkcs11.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("closing the backend: %v", err)
		}
	})
	return b
}

// tempDir makes a directory in memory, or else where tests have theirs.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "keyward-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("removing the token: %v", err)
		}
	})
	return dir
}
