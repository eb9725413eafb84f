package pkcs11_test

import (
	"testing"

	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// newShim returns a configuration of a fresh token behind the fault module, and what controls that.
func newShim(t *testing.T) (pkcs11.Config, *softhsmtest.Faults) {
	t.Helper()
	tok := softhsmtest.NewToken(t)
	ctl := softhsmtest.NewFaults(t, tok)
	cfg := tok.Config()
	cfg.Name = "shim"
	return cfg, ctl
}
