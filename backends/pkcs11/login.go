package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"unsafe"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
	p11 "github.com/miekg/pkcs11"
)

// hint ends the sentences that ask for the PIN.
const hint = "give it with: keyward unlock"

// Unlock logs in with pin, or with the PIN from the configured source if pin is nil.
//
// It always connects anew: a token that is logged in does not check the PIN of
// another login, so it is logged out first. After a wrong PIN the token is locked.
func (b *Backend) Unlock(ctx context.Context, pin []byte) error {
	if err := b.givePIN(ctx, pin); err != nil {
		return b.wrap("unlocking", err)
	}
	if err := b.unlock(ctx, operator); err != nil {
		if b.keeper != nil {
			b.keeper.EndGrant()
		}
		return b.wrap("unlocking", err)
	}
	return nil
}

// givePIN gives pin to the Keeper, or with nil the operator's leave to try. Without a Keeper here the parent has it.
func (b *Backend) givePIN(ctx context.Context, pin []byte) error {
	var given *secret.Buffer
	if pin != nil {
		var err error
		if given, err = secret.Take(pin); err != nil {
			return err
		}
	}
	if b.keeper == nil {
		return given.Close()
	}
	return b.keeper.Unlock(ctx, given)
}

// unlock connects again.
func (b *Backend) unlock(ctx context.Context, by trigger) error {
	a, err := b.beginUnlock(ctx, by)
	if err != nil {
		return err
	}
	return a.wait(ctx)
}

// beginUnlock starts an attempt when none is under way any more.
func (b *Backend) beginUnlock(ctx context.Context, by trigger) (*attempt, error) {
	for {
		if err := b.waitAttempt(ctx); err != nil {
			return nil, err
		}
		b.mu.Lock()
		switch {
		case b.closing:
			b.mu.Unlock()
			return nil, errClosed
		case b.attempt == nil:
			b.conn, b.refused = nil, nil
			a := b.beginLocked(ctx, by)
			b.mu.Unlock()
			return a, nil
		}
		b.mu.Unlock() // another call was quicker
	}
}

// errLockedByOperator stands until Unlock.
var errLockedByOperator = fmt.Errorf("%w by the operator; unlock it with: keyward unlock", backends.ErrLocked)

// Lock forgets the PIN and logs out. New calls are refused at once; if those in flight do not
// end before ctx does, the error says that the token is still logged in.
func (b *Backend) Lock(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.OpTimeout)
	defer cancel()
	if err := b.beginLock(ctx); err != nil {
		return b.wrap("locking", err)
	}
	refill, err := b.drain(ctx)
	if err != nil {
		return b.wrap("locking: no new calls are made, but the token is still logged in", err)
	}
	defer refill()
	defer b.watch("locking")()
	if b.current() != nil { // unlocked meanwhile
		return nil
	}
	if err := b.mod.finalize(); err != nil {
		return b.wrap("locking", err)
	}
	return nil
}

// beginLock waits for an attempt under way, whose success would undo the locking, and
// then refuses new calls.
func (b *Backend) beginLock(ctx context.Context) error {
	for {
		b.mu.Lock()
		switch {
		case b.closing:
			b.mu.Unlock()
			return errClosed
		case b.attempt == nil:
			b.conn, b.refused = nil, errLockedByOperator
			b.mu.Unlock()
			if b.keeper != nil {
				b.keeper.Lock()
			}
			return nil
		}
		b.mu.Unlock()
		if err := b.waitAttempt(ctx); err != nil {
			return err
		}
	}
}

// login logs in on s, if the token asks for that, whose flags were read just before.
// The caller holds all lanes.
func (b *Backend) login(ctx context.Context, c *conn, s p11Session, by trigger) error {
	if c.info.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if err := mayTryPIN(c.info.Flags, by); err != nil {
		return fmt.Errorf("%s: %w", c.describe(), err)
	}
	if c.info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0 {
		return c.loginResult(c.tryLogin(s, "")) // the token asks on its own keypad
	}
	device := fmt.Sprintf("%s %q %q", c.info.SerialNumber, c.info.Label, c.info.ManufacturerID)
	return b.cfg.PINs.Try(ctx, secret.Tries{Left: secret.Unknown, Device: device}, func(pin []byte) error {
		// The binding copies the PIN to C memory for the time of the call; this string is no further copy.
		return c.loginResult(c.tryLogin(s, unsafe.String(unsafe.SliceData(pin), len(pin))))
	})
}

// tryLogin is C_Login, for a token that may be logged in still: a module that is a stub of one in another process does
// not log out when it is finalized. Then the PIN was not looked at, so the token is logged out first.
func (c *conn) tryLogin(s p11Session, pin string) error {
	err := c.mod.Login(s, p11.CKU_USER, pin)
	if !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		return err
	}
	if err := c.mod.Logout(s); err != nil {
		return secret.NotSpent(fmt.Errorf("logging out: %w", err))
	}
	return c.mod.Login(s, p11.CKU_USER, pin)
}

// mayTryPIN says, by the token's flags, whether a PIN may be tried (PKCS #11 v2.40, 3.2, table 6).
func mayTryPIN(flags uint, by trigger) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: too many wrong PINs were tried; reset the user PIN with the security officer's PIN, then "+
			"run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("%w: the token has no user PIN yet; set one, then run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return fmt.Errorf("%w: the user PIN has to be changed first; change it, then run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one wrong PIN more would lock the token; log in once with the device's own tool, then run: "+
			"keyward unlock", backends.ErrPINFinalTry)
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && by == automatic:
		return fmt.Errorf("%w: a wrong PIN was tried, so no PIN is tried without you; %s", backends.ErrLocked, hint)
	}
	return nil
}

// loginResult says what err of C_Login means. Unless it says that the PIN certainly was not looked at, it may have cost
// a try: some modules answer a wrong PIN with CKR_GENERAL_ERROR or CKR_DEVICE_ERROR.
func (c *conn) loginResult(err error) error {
	if err == nil || errors.Is(err, secret.ErrNotSpent) {
		return err
	}
	var rv p11.Error
	errors.As(err, &rv)
	switch rv {
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE:
		return fmt.Errorf("%w: %s refused it", backends.ErrPINIncorrect, c.describe())
	case p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED:
		return fmt.Errorf("%w: %s does not take the PIN any more (%w); reset it with the security officer's PIN, then "+
			"run: keyward unlock", backends.ErrLocked, c.describe(), err)
	case p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_SESSION_CLOSED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_TOKEN_NOT_RECOGNIZED,
		p11.CKR_SLOT_ID_INVALID, p11.CKR_CRYPTOKI_NOT_INITIALIZED, p11.CKR_USER_ALREADY_LOGGED_IN,
		p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN:
		return secret.NotSpent(fmt.Errorf("logging in to %s: %w", c.describe(), err))
	}
	return fmt.Errorf("%w: logging in to %s failed (%w), which may have cost a PIN try, so none is made without you; %s",
		backends.ErrLocked, c.describe(), err, hint)
}
