package piv

import (
	"bytes"
	"crypto/ecdh"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

// What a card has when it leaves the factory. Everybody knows them.
const (
	DefaultPIN = "123456"
	DefaultPUK = "12345678"
)

// DefaultManagementKey is the factory's.
func DefaultManagementKey() []byte { return bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 3) }

// Errors of Setup.
var (
	// ErrSlotInUse: the slot has a key, which would be lost.
	ErrSlotInUse = errors.New("the slot has a key already")
	// ErrOtherKey is an ErrSlotInUse: session keys can't be sealed to the key, which is not a P-256 key.
	ErrOtherKey = fmt.Errorf("%w, which is not a P-256 key", ErrSlotInUse)
	// ErrManagementKey: the card refused the management key. It may be tried again; there is no counter.
	ErrManagementKey = errors.New("wrong management key")
	// ErrNotTrusted: no attestation by the card is believed, since its own certificate leads to none of the roots.
	ErrNotTrusted = errors.New("the card's attestation certificate is not to be trusted")
	// ErrNotAttested: a key was generated, but the card's attestation of it was not had, or is not believed.
	ErrNotAttested = errors.New("a key was generated, but not attested")
	// ErrNotStored: the card does not have its management key stored where the PIN opens it.
	ErrNotStored = errors.New("no management key is stored on the card")
)

// Setup prepares a card. Each method opens the card and closes it again, with nothing verified. The
// card has what it had before or what was asked for, also if it is pulled; after an error
// [Inspect] tells which.
type Setup struct {
	Serial uint32
	Roots  []byte // PEM; whom to believe an attestation. Nil: Yubico.
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
		return fmt.Errorf("%w: the %s is blocked: %s", backends.ErrLocked, what, unblocking[ref])
	case 1:
		return finalTry(what)
	}
	return nil
}

// unblocking is what to do about a PIN or PUK that has no tries left.
var unblocking = map[byte]string{
	refPIN: "unblock it with the PUK: ykman piv access unblock-pin",
	refPUK: "ykman piv access set-retries 3 3, which needs the PIN and the management key, gives the card the " +
		"factory's PIN and PUK with all tries",
}

// finalTry says of the PIN or PUK that its last try is left.
func finalTry(what string) error {
	return fmt.Errorf("%w: one wrong %s more would block it; give the right one once, e.g. ykman piv access change-%s "+
		"with the same %[2]s as old and new",
		backends.ErrPINFinalTry, what, strings.ToLower(what))
}

// spendTry shows the PIN, if it is not the last try.
func (s *session) spendTry(pin []byte) error {
	if err := s.mayTry("PIN", refPIN); err != nil {
		return err
	}
	return s.verify(pin)
}

// CheckPIN shows the card the PIN. A wrong one costs a try; the last one is not spent.
func (s *Setup) CheckPIN(pin []byte) error {
	return withSerial(s.Serial, func(c *session) error { return c.spendTry(pin) })
}

// CheckTries refuses a card whose PIN, or PUK if that is set, has no try that may be spent. It costs none. The PUK's
// are not told before firmware 5.3.
func (s *Setup) CheckTries(puk bool) error {
	return withSerial(s.Serial, func(c *session) error {
		if puk {
			return c.mayTry("PUK", refPUK)
		}
		return c.mayTry("PIN", refPIN)
	})
}

// ValidRoots refuses roots, as in Setup, that are no certificates.
func ValidRoots(roots []byte) error {
	_, err := rootPool(roots)
	return err
}

// CheckRoots checks that the card's own attestation certificate leads to one of the roots, without which no
// attestation by it is believed.
func (s *Setup) CheckRoots() error { return withSerial(s.Serial, s.checkRoots) }

func (s *Setup) checkRoots(c *session) error {
	roots, err := rootPool(s.Roots)
	if err != nil {
		return err
	}
	card, err := c.attestationCertificate()
	if err != nil {
		return err
	}
	return checkIssuer(card, roots)
}

// CheckManagementKey shows the card the management key: [ErrManagementKey] if it is another one.
func (s *Setup) CheckManagementKey(key []byte) error {
	return withSerial(s.Serial, func(c *session) error { return c.authenticate(key) })
}

// ChangePIN changes the PIN, of 6 to 8 characters. A wrong old one costs a try; the last one is not spent.
func (s *Setup) ChangePIN(oldPIN, newPIN []byte) error {
	return s.change("PIN", refPIN, oldPIN, newPIN)
}

// ChangePUK changes the PUK likewise. Before firmware 5.3 the last try of it can be spent: its
// counter can't be read.
func (s *Setup) ChangePUK(oldPUK, newPUK []byte) error {
	return s.change("PUK", refPUK, oldPUK, newPUK)
}

// ValidPIN refuses a PIN or PUK, which what says, that no card has, or that is the factory's.
func ValidPIN(what string, pin []byte) error {
	switch {
	case len(pin) < minPIN || len(pin) > maxPIN:
		return fmt.Errorf("the %s has %d characters, want %d to %d", what, len(pin), minPIN, maxPIN)
	case bytes.ContainsFunc(pin, func(r rune) bool { return r <= ' ' || r > '~' }):
		return fmt.Errorf("the %s has something else in it than ASCII letters, digits and punctuation; a file may have "+
			"the line ends of Windows", what)
	case bytes.Equal(pin, []byte(DefaultPIN)) || bytes.Equal(pin, []byte(DefaultPUK)):
		return fmt.Errorf("the %s is one from the factory, which everybody knows", what)
	}
	return nil
}

// change is CHANGE REFERENCE DATA: SP 800-73-4, part 2, 3.2.2. From firmware 5.7 on some PINs are refused:
// https://docs.yubico.com/yesdk/users-manual/application-piv/apdu/change-ref.html
func (s *Setup) change(what string, ref byte, old, changed []byte) error {
	if err := ValidPIN("new "+what, changed); err != nil {
		return err
	}
	if len(old) == 0 || len(old) > maxPIN {
		return fmt.Errorf("%w: the old %s has %d characters", backends.ErrPINIncorrect, what, len(old))
	}
	return withSerial(s.Serial, func(c *session) error {
		if err := c.mayTry(what, ref); err != nil {
			return err
		}
		data := bytes.Repeat([]byte{padding}, 2*maxPIN)
		defer clear(data)
		copy(data, old)
		copy(data[maxPIN:], changed)
		_, sw, err := c.card.Do(pcsc.Command{INS: insChange, P2: ref, Data: data, NoLe: true})
		switch {
		case err == nil && sw == swConditions:
			err = fmt.Errorf("the card's own rules refuse the new one: it is too simple, like 111111, or the card wants 8 "+
				"characters, as a YubiKey FIPS does (status word %v)", sw)
		case err == nil:
			err = verdict(sw)
		}
		if err != nil {
			return fmt.Errorf("changing the %s: %w", what, err)
		}
		return nil
	})
}

// Generate makes a P-256 key in the slot and checks the card's attestation of it. The policies can't
// be changed afterwards. A key that is in the slot is kept, and the error is [ErrSlotInUse],
// unless replace is set: everything that is sealed to it is then lost for ever.
//
// Before firmware 5.3 a card does not tell of imported keys: only a generated one is kept.
func (s *Setup) Generate(management []byte, slot Slot, pin PINPolicy, touch TouchPolicy,
	replace bool) (key *AttestedKey, err error) {
	if !slot.valid() {
		return nil, fmt.Errorf("slot %v: want 9d, or 82 to 95", slot)
	}
	if err := CheckPolicies(pin, touch); err != nil {
		return nil, err
	}
	err = withSerial(s.Serial, func(c *session) error {
		if !replace {
			if err := c.mustBeEmpty(slot); err != nil {
				return err
			}
		}
		if err := s.checkRoots(c); err != nil { // before the key that is there is lost
			return err
		}
		if err := c.authenticate(management); err != nil {
			return err
		}
		public, err := c.generate(slot, codeOf(pinCodes, pin), codeOf(touchCodes, touch))
		if err != nil {
			return err
		}
		if key, err = s.attest(c, slot); err != nil {
			return fmt.Errorf("%w: %w", ErrNotAttested, err)
		}
		if !public.Equal(key.Public) || key.PINPolicy != pin || key.TouchPolicy != touch {
			return fmt.Errorf("%w: the card attests %v instead", ErrNotAttested, key)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// CheckEmpty returns [ErrSlotInUse] for a slot with a key; before firmware 5.3, only for a generated one.
func (s *Setup) CheckEmpty(slot Slot) error {
	return withSerial(s.Serial, func(c *session) error { return c.mustBeEmpty(slot) })
}

// mustBeEmpty refuses a slot with a key.
func (s *session) mustBeEmpty(slot Slot) error {
	if s.hasMetadata() {
		key, err := s.slotKey(byte(slot))
		if errors.Is(err, errAbsent) {
			return nil
		}
		if err != nil {
			return err
		}
		if key.Algorithm != algorithms[algP256] {
			return fmt.Errorf("%w: slot %v, %s", ErrOtherKey, slot, key.Algorithm)
		}
		return fmt.Errorf("%w: slot %v, %s", ErrSlotInUse, slot, key.Algorithm)
	}
	_, sw, err := s.card.Do(pcsc.Command{INS: insAttest, P1: byte(slot)})
	switch {
	case err != nil:
		return err
	case sw == pcsc.OK:
		return fmt.Errorf("%w: slot %v", ErrSlotInUse, slot)
	case sw == swWrongData || errors.Is(swError(sw), errAbsent): // nothing to attest
		return nil
	}
	return fmt.Errorf("whether slot %v has a key: %w", slot, swError(sw))
}

// generate is GENERATE ASYMMETRIC KEY PAIR (SP 800-73-4, part 2, 3.3.2), with policies:
// https://docs.yubico.com/yesdk/users-manual/application-piv/apdu/generate-pair.html
func (s *session) generate(slot Slot, pin, touch byte) (*ecdh.PublicKey, error) {
	template := []byte{0x80, 1, algP256, 0xaa, 1, pin, 0xab, 1, touch}
	answer, err := s.do("generating a key", pcsc.Command{INS: insGenerate, P2: byte(slot),
		Data: appendTLV(nil, 0xac, template)})
	if err != nil {
		return nil, err
	}
	value, ok := bytes.CutPrefix(answer, []byte{0x7f}) // the tag is 7f49
	if !ok {
		return nil, fmt.Errorf("%w: it is no public key", pcsc.ErrGarbled)
	}
	outer, err := parseTLV(value)
	if err != nil {
		return nil, err
	}
	inner, err := parseTLV(outer[0x49])
	if err != nil {
		return nil, err
	}
	public, err := ecdh.P256().NewPublicKey(inner[0x86])
	if err != nil {
		return nil, fmt.Errorf("%w: the public key: %w", pcsc.ErrGarbled, err)
	}
	return public, nil
}

// Attest has the card state what the key in the slot is, and checks that.
func (s *Setup) Attest(slot Slot) (key *AttestedKey, err error) {
	if !slot.valid() {
		return nil, fmt.Errorf("slot %v: want 9d, or 82 to 95", slot)
	}
	err = withSerial(s.Serial, func(c *session) error {
		key, err = s.attest(c, slot)
		return err
	})
	return key, err
}

// attest is Yubico's ATTEST, which answers with a certificate:
// https://developers.yubico.com/PIV/Introduction/Yubico_extensions.html
func (s *Setup) attest(c *session, slot Slot) (*AttestedKey, error) {
	roots, err := rootPool(s.Roots)
	if err != nil {
		return nil, err
	}
	der, err := c.do(fmt.Sprintf("attesting slot %v", slot), pcsc.Command{INS: insAttest, P1: byte(slot)})
	if err != nil {
		return nil, err
	}
	statement, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("attesting slot %v: %w", slot, err)
	}
	card, err := c.attestationCertificate()
	if err != nil {
		return nil, err
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

// attestationCertificate is the certificate of the key that the card attests with.
func (s *session) attestationCertificate() (*x509.Certificate, error) {
	object, err := s.object("the card's attestation certificate", objectAttestation)
	if err != nil {
		return nil, err
	}
	if len(object[0x70]) == 0 {
		return nil, fmt.Errorf("%w: the card has no attestation certificate in slot f9, so it attests nothing: it was "+
			"deleted, or the card is not a YubiKey; use another card", backends.ErrRefused)
	}
	card, err := x509.ParseCertificate(object[0x70]) // SP 800-73-4, part 1, table 10
	if err != nil {
		return nil, fmt.Errorf("the card's attestation certificate: %w", err)
	}
	return card, nil
}
