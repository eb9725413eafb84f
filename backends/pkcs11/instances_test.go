package pkcs11_test

import (
	"testing"

	"github.com/keyward/keyward/backends/backendtest"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// TestInstances: a module may make another instance of itself for each call of C_GetFunctionList, as p11-kit's client does. Signatures
// go to the one that is initialized.
func TestInstances(t *testing.T) {
	cfg, _ := newShim(t)
	cfg.Env["FAULT_INSTANCES"] = "1"
	b := softhsmtest.Open(t, cfg)
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
}
