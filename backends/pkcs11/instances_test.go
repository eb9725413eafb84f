package pkcs11_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// newInstances is a fresh token behind a module that makes another instance of itself for each call of
// C_GetFunctionList, as p11-kit's client does. Nobody initializes the second.
func newInstances(t *testing.T) (pkcs11.SoftHSMToken, pkcs11.Config, *softhsmtest.Faults) {
	t.Helper()
	tok := softhsmtest.NewToken(t)
	ctl := softhsmtest.NewFaults(t, tok)
	cfg := tok.Config()
	cfg.Name = "instances"
	module, err := os.ReadFile(cfg.Module)
	if err != nil {
		t.Fatal(err)
	}
	// loaded for the first time, so that its first list is its first
	cfg.Module = filepath.Join(t.TempDir(), "instances.so")
	if err := os.WriteFile(cfg.Module, module, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Unsetenv("FAULT_INSTANCES") })
	cfg.Env["FAULT_INSTANCES"] = "1"
	return tok.SoftHSMToken, cfg, ctl
}

// Signatures go to the instance that is initialized, also after the backend has connected again, and what goes wrong
// with one has its class.
func TestInstances(t *testing.T) {
	_, cfg, ctl := newInstances(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	backendtest.Verify(t, k, [32]byte{1})
	initialized := ctl.On("Initialize").Calls()
	ctl.On("SignInit").Set(softhsmtest.Return, 0x30, 1) // CKR_DEVICE_ERROR
	backendtest.Verify(t, k, [32]byte{2})
	if ctl.On("Initialize").Calls() == initialized {
		t.Error("the backend has not connected again")
	}
	ctl.On("SignInit").Set(softhsmtest.Return, 0x30, 100)
	if _, err := k.SignDigest(t.Context(), [32]byte{3}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("C_SignInit fails: %v, want ErrNotSigned", err)
	}
	ctl.On("SignInit").Set(softhsmtest.Return, 0, 0)
	ctl.On("Sign").Set(softhsmtest.Lose, 0x30, 1)
	if _, err := k.SignDigest(t.Context(), [32]byte{4}); errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("C_Sign fails: %v, which must not be ErrNotSigned", err)
	}
	backendtest.Verify(t, k, [32]byte{5})
}

// A key-encryption key can't be made through such a module, and the error says what to use.
func TestInstancesHaveNoWrappedKeys(t *testing.T) {
	tok, cfg, _ := newInstances(t)
	err := pkcs11.KEK{Module: cfg.Module, Env: cfg.Env, Token: cfg.TokenLabel, Label: "kek",
		SOPIN: secret.FromFile(tok.SOPINFile)}.Make(t.Context())
	if err == nil || !strings.Contains(err.Error(), "the token's own module") {
		t.Errorf("Make = %v, want an error that says to use the token's own module", err)
	}
}
