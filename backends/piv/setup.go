package piv

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/go-piv/piv-go/v2/piv"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// What a card has when it leaves the factory. Everybody knows them.
const (
	DefaultPIN = "123456"
	DefaultPUK = "12345678"
)

// DefaultManagementKey is the factory's.
func DefaultManagementKey() []byte { return bytes.Clone(piv.DefaultManagementKey) }

// Errors of Setup.
var (
	// ErrSlotInUse: the slot has a key, which would be lost.
	ErrSlotInUse = errors.New("the slot has a key already")
	// ErrManagementKey: the card refused the management key. It may be tried again; there is no counter.
	ErrManagementKey = errors.New("wrong management key")
	// ErrNotStored: the card does not have its management key stored where the PIN opens it.
	ErrNotStored = errors.New("no management key is stored on the card")
)

// Setup prepares a card. Each method opens the card and closes it again.
//
// It is for a process that ends soon, which the agent is not: piv-go keeps the PIN in
// strings, and if opening a card fails half-way, the card stays held until the process ends
// (piv-go issue 116).
type Setup struct {
	Serial uint32
	Roots  []byte // PEM; whom to believe an attestation. Nil: Yubico.
}

// open finds the card and opens it with piv-go, calls f, and leaves the card as if it had just been
// plugged in: nothing verified.
func (s *Setup) open(f func(yk *piv.YubiKey) error) error {
	var reader string
	if err := withSerial(s.Serial, func(c *session) error { reader = c.reader; return nil }); err != nil {
		return err
	}
	yk, err := pcsc.WhenFree(func() (*piv.YubiKey, error) { return openGoPIV(reader) })
	if err != nil {
		return s.wrap(err)
	}
	serial, err := yk.Serial()
	if err == nil && serial != s.Serial {
		err = fmt.Errorf("YubiKey %d is in its place", serial)
	}
	if err == nil {
		err = f(yk)
	}
	if err := errors.Join(err, yk.Close()); err != nil {
		return s.wrap(err)
	}
	// piv-go leaves a verified PIN behind; opening and closing the card clears that.
	return withSerial(s.Serial, func(*session) error { return nil })
}

// openGoPIV opens a card with piv-go, of whose errors only the text says that the card is in use.
func openGoPIV(reader string) (*piv.YubiKey, error) {
	yk, err := piv.Open(reader)
	if err != nil && strings.Contains(err.Error(), "because of other connections outstanding") {
		err = fmt.Errorf("%w: %w", pcsc.ErrInUse, err)
	}
	return yk, err
}

func (s *Setup) wrap(err error) error {
	return fmt.Errorf("YubiKey %d: %w", s.Serial, err)
}

// pinError says what err means of a PIN or PUK that was shown.
func pinError(what string, err error) error {
	var auth piv.AuthErr
	if errors.As(err, &auth) {
		return fmt.Errorf("%w: the %s is wrong; %d tries are left", backends.ErrPINIncorrect, what, auth.Retries)
	}
	return err
}

// mayTry refuses to spend the last try of the PIN (refPIN) or PUK (refPUK).
func (s *session) mayTry(what string, ref byte) error {
	left := defaultTries
	switch {
	case s.hasMetadata():
		r, err := s.reference(what, ref)
		if err != nil {
			return err
		}
		left = r.Left
	case ref == refPIN:
		tries, err := s.tries()
		if err != nil {
			return err
		}
		left = tries.Left
	default: // the PUK's counter can't be read before firmware 5.3
	}
	switch left {
	case 0:
		return fmt.Errorf("%w: the %s is blocked", backends.ErrLocked, what)
	case 1:
		return fmt.Errorf("%w: of the %s; give the right one once with ykman", backends.ErrPINFinalTry, what)
	}
	return nil
}

// spendTry shows the PIN, if it is not the last try.
func (s *session) spendTry(pin []byte) error {
	if err := s.mayTry("PIN", refPIN); err != nil {
		return err
	}
	return s.verify(pin)
}

// ChangePIN changes the PIN, of 6 to 8 characters. A wrong old one costs a try; the last one is not spent.
func (s *Setup) ChangePIN(oldPIN, newPIN []byte) error {
	return s.change("PIN", refPIN, oldPIN, newPIN, (*piv.YubiKey).SetPIN)
}

// ChangePUK changes the PUK likewise.
func (s *Setup) ChangePUK(oldPUK, newPUK []byte) error {
	return s.change("PUK", refPUK, oldPUK, newPUK, (*piv.YubiKey).SetPUK)
}

// CheckPIN refuses a PIN or PUK, which what says, that no card has, or that is the factory's.
func CheckPIN(what string, pin []byte) error {
	if len(pin) < 6 || len(pin) > maxPIN {
		return fmt.Errorf("the %s has %d characters, want 6 to %d", what, len(pin), maxPIN)
	}
	if bytes.Equal(pin, []byte(DefaultPIN)) || bytes.Equal(pin, []byte(DefaultPUK)) {
		return fmt.Errorf("the %s is one from the factory, which everybody knows", what)
	}
	return nil
}

func (s *Setup) change(what string, ref byte, old, changed []byte, set func(*piv.YubiKey, string, string) error) error {
	if err := CheckPIN(what, changed); err != nil {
		return err
	}
	if err := withSerial(s.Serial, func(c *session) error { return c.mayTry(what, ref) }); err != nil {
		return err
	}
	return s.open(func(yk *piv.YubiKey) error {
		return pinError(what, set(yk, string(old), string(changed)))
	})
}

// managementError says what err means of a management key that was shown.
func managementError(err error) error {
	var auth piv.AuthErr
	var sw interface{ Status() uint16 }
	if errors.As(err, &auth) || errors.As(err, &sw) && pcsc.Status(sw.Status()) == swSecurityStatus {
		return fmt.Errorf("%w: %w", ErrManagementKey, err)
	}
	return err
}

// Generate makes a P-256 key in the slot and checks the card's attestation of it. The policies can't
// be changed afterwards. A key that is in the slot is kept, and the error is [ErrSlotInUse],
// unless replace is set: everything that is sealed to it is then lost for ever.
//
// Before firmware 5.3 a card does not tell of imported keys: only a generated one is kept.
func (s *Setup) Generate(management []byte, slot Slot, pin PINPolicy, touch TouchPolicy, replace bool) (*AttestedKey, error) {
	if !slot.valid() {
		return nil, fmt.Errorf("slot %v: want 9d, or 82 to 95", slot)
	}
	if err := CheckPolicies(pin, touch); err != nil {
		return nil, err
	}
	if !replace {
		if err := s.CheckEmpty(slot); err != nil {
			return nil, err
		}
	}
	var key *AttestedKey
	err := s.open(func(yk *piv.YubiKey) error {
		public, err := yk.GenerateKey(management, slot.goPIV(), piv.Key{
			Algorithm: piv.AlgorithmEC256, PINPolicy: pinPolicies[pin], TouchPolicy: touchPolicies[touch],
		})
		if err != nil {
			return managementError(err)
		}
		if key, err = s.attest(yk, slot); err != nil {
			return fmt.Errorf("a key was generated in slot %v, but: %w", slot, err)
		}
		generated, ok := public.(*ecdsa.PublicKey)
		if !ok {
			return fmt.Errorf("the card generated a %T", public)
		}
		point, err := generated.ECDH()
		if err != nil || !point.Equal(key.Public) || key.PINPolicy != pin || key.TouchPolicy != touch {
			return fmt.Errorf("the card generated another key than it attests, which is %v", key)
		}
		return nil
	})
	return key, err
}

// CheckEmpty returns [ErrSlotInUse] for a slot with a key; before firmware 5.3, only for a generated one.
func (s *Setup) CheckEmpty(slot Slot) error {
	var described bool
	err := withSerial(s.Serial, func(c *session) error {
		if described = c.hasMetadata(); !described {
			return nil
		}
		key, err := c.slotKey(byte(slot))
		if errors.Is(err, errAbsent) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: slot %v, %s", ErrSlotInUse, slot, key.Algorithm)
	})
	if err != nil || described {
		return err
	}
	return s.open(func(yk *piv.YubiKey) error {
		_, err := yk.Attest(slot.goPIV())
		if errors.Is(err, piv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		return fmt.Errorf("%w: slot %v", ErrSlotInUse, slot)
	})
}

// Attest has the card state what the key in the slot is, and checks that.
func (s *Setup) Attest(slot Slot) (key *AttestedKey, err error) {
	if !slot.valid() {
		return nil, fmt.Errorf("slot %v: want 9d, or 82 to 95", slot)
	}
	err = s.open(func(yk *piv.YubiKey) error {
		key, err = s.attest(yk, slot)
		return err
	})
	return key, err
}

func (s *Setup) attest(yk *piv.YubiKey, slot Slot) (*AttestedKey, error) {
	roots, err := rootPool(s.Roots)
	if err != nil {
		return nil, err
	}
	var statement, card *x509.Certificate
	if statement, err = yk.Attest(slot.goPIV()); err != nil {
		return nil, fmt.Errorf("attesting slot %v: %w", slot, err)
	}
	if card, err = yk.AttestationCertificate(); err != nil {
		return nil, fmt.Errorf("reading the card's attestation certificate: %w", err)
	}
	key, err := checkAttestation(statement, card, roots)
	if err != nil {
		return nil, err
	}
	if key.Serial != s.Serial || key.Slot != slot {
		return nil, fmt.Errorf("the card attests %v instead of slot %v", key, slot)
	}
	return key, nil
}
