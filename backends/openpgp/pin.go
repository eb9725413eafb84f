package openpgp

import (
	"context"
	"errors"
	"fmt"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// P2 of VERIFY: which PIN, and for what (OpenPGP card 3.4, 7.2.2).
const (
	pwSign  = 0x81 // user PIN, for PSO: COMPUTE DIGITAL SIGNATURE
	pwOther = 0x82 // user PIN, for all else
	pwAdmin = 0x83
)

// Shortest PINs that the specification allows (4.3, "PW"). A shorter one is not shown.
const (
	minUser  = 6
	minAdmin = 8
)

// factoryPINs are what cards come with.
var factoryPINs = map[byte]string{pwSign: "123456", pwOther: "123456", pwAdmin: "12345678"}

// verify shows the PIN that password names, once, if it may be by the retry counter, which was
// read when the card was opened; nobody else has the card since.
func (b *Backend) verify(s *session, password byte) error {
	kdf, err := s.readKDF()
	if err != nil {
		return err
	}
	pins, name := b.cfg.PIN, "PIN"
	if password == pwAdmin {
		pins, name = b.cfg.AdminPIN, "admin PIN"
	}
	if pins == nil {
		return fmt.Errorf("%w: no admin PIN is configured, and without it keys are neither generated nor destroyed",
			backends.ErrLocked)
	}
	err = pins.Try(s.ctx, s.triesOf(password), func(pin []byte) error {
		return s.show(password, pin, kdf)
	})
	if err != nil {
		return fmt.Errorf("card %s, %s: %w", s.data.serial, name, err)
	}
	return nil
}

// triesOf is what the card says of a PIN's tries. It does not say what it counts down from, and an operator may have
// set that, so a mark on disk tells of a try that may have failed.
func (s *session) triesOf(password byte) secret.Tries {
	return secret.Tries{Left: s.tries(password), Device: fmt.Sprintf("OpenPGP card %s, PIN %02X", s.data.serial,
		max(password, pwOther))}
}

// tries is what the retry counter was when the data were read.
func (s *session) tries(password byte) int {
	if password == pwAdmin {
		return s.data.pw.triesAdmin
	}
	return s.data.pw.triesUser
}

// show sends VERIFY. See [secret.PINs] for what its errors say of the try.
func (s *session) show(password byte, pin []byte, kdf *kdf) error {
	if s.ctx.Err() != nil {
		return secret.NotSpent(fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(s.ctx)))
	}
	shortest, longest := minUser, s.data.pw.maxUser
	if password == pwAdmin {
		shortest, longest = minAdmin, s.data.pw.maxAdmin
	}
	if len(pin) < shortest || (kdf == nil && len(pin) > longest) {
		return secret.NotSpent(fmt.Errorf("%w: it has %d bytes, the card wants %d to %d, so it was not tried",
			backends.ErrPINIncorrect, len(pin), shortest, longest))
	}
	if string(pin) == factoryPINs[password] {
		return secret.NotSpent(fmt.Errorf("%w: it is the factory default, which everybody knows, so it was not tried; "+
			"change it with: gpg --card-edit, admin, passwd", backends.ErrPINIncorrect))
	}
	s.shown = password
	sw, err := s.sendPIN(password, pin, kdf)
	if err != nil {
		return err
	}
	if sw == pcsc.OK {
		return nil
	}
	return s.refused(password, sw)
}

// sendPIN sends VERIFY from memory that is wiped.
func (s *session) sendPIN(password byte, pin []byte, kdf *kdf) (sw pcsc.Status, err error) {
	n := len(pin)
	if kdf != nil {
		n = kdf.size()
	}
	buf, err := secret.New(5 + n)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, buf.Close()) }()
	var answer []byte
	err = buf.Use(func(apdu []byte) (err error) {
		copy(apdu, []byte{0, insVerify, 0, password, byte(n)})
		if kdf != nil {
			kdf.derive(apdu[5:], password, pin)
		} else {
			copy(apdu[5:], pin)
		}
		answer, err = s.card.Transmit(apdu)
		return err
	})
	if err != nil {
		return 0, err
	}
	if len(answer) != 2 {
		return 0, fmt.Errorf("%w: VERIFY is answered by %d bytes", pcsc.ErrGarbled, len(answer))
	}
	return pcsc.Status(answer[0])<<8 | pcsc.Status(answer[1]), nil
}

// refused says what sw of VERIFY means. Cards don't agree on it: the YubiKey says 6982 for a
// wrong PIN, others 63Cx. The counter tells.
func (s *session) refused(password byte, sw pcsc.Status) error {
	before := s.tries(password)
	if err := s.refresh(); err != nil {
		return fmt.Errorf("the card refused it (status %v), and then: %w", sw, err)
	}
	left := s.tries(password)
	switch {
	case left == 0:
		return fmt.Errorf("%w: it is blocked now", backends.ErrPINIncorrect)
	case left < before || sw&0xFFF0 == 0x63C0 || sw == swNotSatisfied || sw == swBlocked:
		return fmt.Errorf("%w: the card refused it, and %s", backends.ErrPINIncorrect, secret.TriesLeft(left))
	}
	return secret.NotSpent(&refusal{"checking the PIN", sw})
}

// mayBeTried says, for Status, that a PIN can't be tried with so few tries left.
func mayBeTried(left int) error {
	switch left {
	case 0:
		return fmt.Errorf("%w: the PIN is blocked after too many wrong ones; unblock it with the admin PIN: gpg "+
			"--card-edit, admin, passwd", backends.ErrLocked)
	case 1:
		return fmt.Errorf("%w: one wrong PIN more would block the card; give the right one once with gpg, then run: "+
			"keyward unlock", backends.ErrPINFinalTry)
	}
	return nil
}

// unlocker is what a [secret.Keeper] can do and its stand-in in a child process can't: there the
// parent does it.
type unlocker interface {
	Unlock(ctx context.Context, pin *secret.Buffer) error
	Lock()
}

// Unlock shows the card the user PIN, once.
func (b *Backend) Unlock(ctx context.Context, pin []byte) error {
	var given *secret.Buffer
	if pin != nil {
		var err error
		if given, err = secret.Take(pin); err != nil {
			return b.wrap("unlocking", err)
		}
	}
	if u, ok := b.cfg.PIN.(unlocker); ok {
		if err := u.Unlock(ctx, given); err != nil {
			return b.wrap("unlocking", err)
		}
	}
	if u, ok := b.cfg.AdminPIN.(unlocker); ok { // its source may have been corrected
		if err := u.Unlock(ctx, nil); err != nil {
			return b.wrap("unlocking", err)
		}
	}
	_, err := do(ctx, b, "unlocking", func(s *session) (struct{}, error) {
		return struct{}{}, b.verify(s, pwOther)
	})
	return err
}

// Lock forgets the PINs. The card itself is locked whenever no operation is under way.
func (b *Backend) Lock(ctx context.Context) error {
	if b.life.Err() != nil {
		return b.wrap("locking", errClosed)
	}
	for _, pins := range []secret.PINs{b.cfg.PIN, b.cfg.AdminPIN} {
		if u, ok := pins.(unlocker); ok {
			u.Lock()
		}
	}
	if err := b.takeTurn(ctx); err != nil {
		return b.wrap("locking: the PINs are forgotten, but an operation is still under way", err)
	}
	<-b.turn
	return nil
}
