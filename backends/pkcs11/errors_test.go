package pkcs11

import (
	"errors"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"github.com/keyward/keyward/backends"
)

// What every call may return (PKCS #11 2.40, 5.1.1) says that the device is unavailable: the app may try again.
func TestUniversalErrors(t *testing.T) {
	for _, rv := range []uint{p11.CKR_GENERAL_ERROR, p11.CKR_HOST_MEMORY, p11.CKR_FUNCTION_FAILED} {
		if err := (&Backend{}).wrap("signing", p11.Error(rv)); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("wrap = %v, want ErrUnavailable", err)
		}
	}
}
