package tpm

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// explain gives the error of an operation with the TPM its class, if it has none. nil stays nil.
func explain(what string, err error) error {
	if err == nil {
		return nil
	}
	var code tpm2.TPMRC
	switch {
	case isClassified(err):
		return fmt.Errorf("%s: %w", what, err)
	case !errors.As(err, &code):
		return fmt.Errorf("%w: %s: %w", backends.ErrUnavailable, what, err)
	case code == tpm2.TPMRCInitialize:
		return fmt.Errorf("%w: %s: the TPM was not started; an emulator needs --flags startup-clear: %w",
			backends.ErrUnavailable, what, err)
	case code == tpm2.TPMRCFailure:
		return fmt.Errorf("%w: %s: the TPM failed its own tests; it works again only after a restart of the machine, if "+
			"at all: %w", backends.ErrUnavailable, what, err)
	}
	return fmt.Errorf("%w: %s: %w", backends.ErrUnavailable, what, err)
}

// isClassified reports whether err is an error of package backends.
func isClassified(err error) bool {
	for _, class := range []error{
		backends.ErrUnavailable, backends.ErrRefused, backends.ErrKeyDamaged, backends.ErrLocked, backends.ErrPINIncorrect,
		backends.ErrPINFinalTry,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// verdict is what the outcome of a command that used a PIN says of the PIN; see [secret.PINs]. The TPM looks at
// the auth value before it does the command, so an answer that is no error of authorization cost no try.
func verdict(err error) error {
	var code tpm2.TPMRC
	switch {
	case err == nil:
		return nil
	case errors.Is(err, tpm2.TPMRCAuthFail):
		return fmt.Errorf("%w: the TPM refused it", backends.ErrPINIncorrect)
	case errors.Is(err, tpm2.TPMRCLockout):
		return secret.NotSpent(fmt.Errorf("%w: the TPM is locked after too many wrong PINs or passwords, of any program; %s",
			backends.ErrLocked, remedies.Blocked))
	case errors.As(err, &code), errors.Is(err, errNoRoom), errors.Is(err, backends.ErrBusy):
		return secret.NotSpent(err)
	}
	return err
}

// remedies are what an operator can do about PIN tries that are used up.
var remedies = secret.Remedies{
	Blocked: "wait until the TPM gives a try back, see: keyward tpm status; or, with the lockout password, run: " +
		"tpm2_dictionarylockout --clear-lockout",
	Final: "wait until the TPM gives a try back, see: keyward tpm status; or, with the lockout password, run: " +
		"tpm2_dictionarylockout --clear-lockout",
}

// Explained has a storage key's Keeper say what an operator can do about a TPM's tries. It returns the Keeper, which
// was not used yet.
func Explained(k *secret.Keeper) *secret.Keeper { return k.Explain(remedies) }
