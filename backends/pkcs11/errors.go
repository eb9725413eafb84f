package pkcs11

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// errLost: we found out, other than by a return value, that the connection is no good.
var errLost = errors.New("the token went away")

// isLost reports whether err says that the connection to the token is no good any more,
// so that connecting again may help.
func isLost(err error) bool {
	if errors.Is(err, backends.ErrUnavailable) || needsOperator(err) {
		return false // connecting again was tried, or must not be
	}
	if errors.Is(err, errLost) {
		return true
	}
	var rv p11.Error
	if !errors.As(err, &rv) {
		return false
	}
	switch rv {
	case p11.CKR_GENERAL_ERROR, p11.CKR_HOST_MEMORY, p11.CKR_FUNCTION_FAILED, // of any call (PKCS #11 2.40, 5.1.1)
		p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_DEVICE_MEMORY,
		p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED, p11.CKR_SLOT_ID_INVALID,
		p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_SESSION_COUNT,
		p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_CRYPTOKI_NOT_INITIALIZED:
		return true
	}
	return false
}

// isStale reports whether err says that an object handle names nothing. Another
// process deleted the object, or the token is gone: SoftHSM does not tell which.
func isStale(err error) bool {
	return errors.Is(err, p11.Error(p11.CKR_OBJECT_HANDLE_INVALID)) ||
		errors.Is(err, p11.Error(p11.CKR_KEY_HANDLE_INVALID))
}

// needsOperator reports whether err stays until the operator does something about the PIN.
func needsOperator(err error) bool {
	return errors.Is(err, backends.ErrLocked) || errors.Is(err, backends.ErrPINIncorrect) ||
		errors.Is(err, backends.ErrPINFinalTry)
}

// gaveUp is the error of a wait for what that ended because ctx did.
func gaveUp(ctx context.Context, what string) error {
	return fmt.Errorf("%w: %s: %w", backends.ErrUnavailable, what, context.Cause(ctx))
}

// wrap gives err, of the operation what, the backend's name, and the sentinel if
// it lacks one.
func (b *Backend) wrap(what string, err error) error {
	if (isLost(err) || isStale(err)) && !errors.Is(err, backends.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	return fmt.Errorf("pkcs11 %s: %s: %w", b.cfg.Name, what, err)
}
