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
	var given *secret.Buffer
	if pin != nil {
		var err error
		if given, err = secret.Take(pin); err != nil {
			return b.wrap("unlocking", err)
		}
	}
	if err := b.unlock(ctx, given, operator); err != nil {
		return b.wrap("unlocking", err)
	}
	return nil
}

// unlock connects anew with pin, which it owns from now on; nil: with what the
// source gives.
func (b *Backend) unlock(ctx context.Context, pin *secret.Buffer, by trigger) error {
	a, err := b.beginUnlock(ctx, pin, by)
	if err != nil {
		return errors.Join(err, pin.Close())
	}
	return a.wait(ctx)
}

// beginUnlock starts an attempt when none is under way any more.
func (b *Backend) beginUnlock(ctx context.Context, pin *secret.Buffer, by trigger) (*attempt, error) {
	for {
		if err := b.waitAttempt(ctx); err != nil {
			return nil, err
		}
		b.mu.Lock()
		if b.closing {
			b.mu.Unlock()
			return nil, errClosed
		}
		if b.attempt != nil { // somebody was quicker
			b.mu.Unlock()
			continue
		}
		old := b.pin
		b.conn, b.pin, b.refused = nil, pin, nil
		a := b.beginLocked(ctx, by)
		b.mu.Unlock()
		b.forget(old)
		return a, nil
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
	// Finalizing logs out, ends all p11Sessions, and works where C_Logout may not.
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
			pin := b.pin
			b.conn, b.pin, b.refused = nil, nil, errLockedByOperator
			b.mu.Unlock()
			b.forget(pin)
			return nil
		}
		b.mu.Unlock()
		if err := b.waitAttempt(ctx); err != nil {
			return err
		}
	}
}

// fetchPIN asks the source, if the PIN is not known yet. It is called in an attempt, but with
// no lane held: a person may take long to answer.
func (b *Backend) fetchPIN(ctx context.Context) error {
	b.mu.Lock()
	known, wrong := b.pin != nil, b.wrongPIN
	b.mu.Unlock()
	if known || b.cfg.PIN == nil {
		return nil
	}
	pin, err := b.cfg.PIN(ctx)
	if err != nil {
		return fmt.Errorf("%w: getting the PIN: %w", backends.ErrLocked, err)
	}
	if pin.Equal(wrong) {
		return errors.Join(fmt.Errorf("%w: the configured PIN is the one that the token refused, so it is not tried again; correct it, then run: keyward unlock", backends.ErrPINIncorrect), pin.Close())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pin = pin
	return nil
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
	b.mu.Lock()
	pin := b.pin
	b.mu.Unlock()
	var err error
	switch {
	case c.info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0:
		err = b.mod.Login(s, p11.CKU_USER, "") // the token asks on its own keypad
	case b.cfg.PINs != nil:
		return b.cfg.PINs.Try(ctx, secret.Tries{Left: secret.Unknown}, func(p []byte) error {
			err := b.loginResult(c, b.mod.Login(s, p11.CKU_USER, unsafe.String(unsafe.SliceData(p), len(p))))
			switch {
			case errors.Is(err, backends.ErrPINIncorrect):
				return fmt.Errorf("%w: %s refused it", backends.ErrPINIncorrect, c.describe())
			case err != nil:
				return secret.NotSpent(err) // the token said something else
			}
			return nil
		})
	case pin == nil:
		return fmt.Errorf("%w: %s needs its PIN; %s", backends.ErrLocked, c.describe(), hint)
	default:
		err = pin.Use(func(p []byte) error {
			// The binding copies the PIN to C memory for the time of the call; this
			// string is no further copy.
			return b.mod.Login(s, p11.CKU_USER, unsafe.String(unsafe.SliceData(p), len(p)))
		})
	}
	return b.loginResult(c, err)
}

// mayTryPIN says, by the token's flags, whether a PIN may be tried (PKCS #11 v2.40, 3.2, table 6).
func mayTryPIN(flags uint, by trigger) error {
	switch {
	case flags&p11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: too many wrong PINs were tried; reset the user PIN with the security officer's PIN, then run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("%w: the token has no user PIN yet; set one, then run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_TO_BE_CHANGED != 0:
		return fmt.Errorf("%w: the user PIN has to be changed first; change it, then run: keyward unlock", backends.ErrLocked)
	case flags&p11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one wrong PIN more would lock the token; log in once with the device's own tool, then run: keyward unlock", backends.ErrPINFinalTry)
	case flags&p11.CKF_USER_PIN_COUNT_LOW != 0 && by == automatic:
		return fmt.Errorf("%w: a wrong PIN was tried, so no PIN is tried without you; %s", backends.ErrLocked, hint)
	}
	return nil
}

// loginResult says what err of C_Login means, and forgets a PIN that was refused.
func (b *Backend) loginResult(c *conn, err error) error {
	var rv p11.Error
	errors.As(err, &rv)
	switch rv {
	case p11.CKR_OK:
		if err != nil {
			return fmt.Errorf("logging in to %s: %w", c.describe(), err)
		}
		b.setWrongPIN(nil)
		return nil
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE:
		b.mu.Lock()
		pin := b.pin
		b.pin = nil
		b.mu.Unlock()
		b.setWrongPIN(pin)
		return fmt.Errorf("%w: %s refused it, and it is not tried again; correct the PIN, then run: keyward unlock", backends.ErrPINIncorrect, c.describe())
	case p11.CKR_PIN_LOCKED, p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED:
		return fmt.Errorf("%w: %s does not take the PIN any more (%w); reset it with the security officer's PIN, then run: keyward unlock", backends.ErrLocked, c.describe(), err)
	case p11.CKR_USER_ALREADY_LOGGED_IN:
		// Not taken for a login: the PIN was not looked at.
		return fmt.Errorf("%s is logged in by other code in this process", c.describe())
	}
	return fmt.Errorf("logging in to %s: %w", c.describe(), err)
}

// setWrongPIN remembers the PIN that the token refused last; nil: none.
func (b *Backend) setWrongPIN(pin *secret.Buffer) {
	b.mu.Lock()
	old := b.wrongPIN
	b.wrongPIN = pin
	b.mu.Unlock()
	b.forget(old)
}

// forget wipes a PIN; nil: nothing.
func (b *Backend) forget(pin *secret.Buffer) {
	if err := pin.Close(); err != nil {
		b.log.Warn("forgetting a PIN", "error", err)
	}
}
