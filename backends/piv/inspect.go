package piv

import (
	"bytes"
	"crypto/ecdh"
	"errors"
	"fmt"

	"github.com/keyward/keyward/internal/pcsc"
)

// Card is a YubiKey that is plugged in.
type Card struct {
	Reader   string `json:"reader"`
	Serial   uint32 `json:"serial,omitempty"`   // 0: see Err
	Firmware string `json:"firmware,omitempty"` // "5.4.3"
	Err      error  `json:"-"`                  // why it can't be used; nil: it can
}

// Cards lists what is plugged in, also what can't be used. Each card is opened for a moment; no
// PIN is tried.
func Cards() ([]Card, error) {
	client, err := pcsc.Dial()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	readers, err := client.Readers()
	if err != nil {
		return nil, err
	}
	var cards []Card
	for _, r := range readers {
		if !r.Present {
			continue
		}
		card := Card{Reader: r.Name}
		s, err := openReader(client, r.Name)
		if err == nil {
			card.Serial, card.Firmware = s.serial, s.firmware()
			s.close()
		}
		card.Err = err
		cards = append(cards, card)
	}
	return cards, nil
}

func (s *session) firmware() string {
	return fmt.Sprintf("%d.%d.%d", s.version[0], s.version[1], s.version[2])
}

// Inventory is what is on a card.
type Inventory struct {
	Card `json:"-"`
	// Described: the card tells what follows, which it does from firmware 5.3 on. If not, all of it is zero.
	Described     bool      `json:"-"`
	PIN           Reference `json:"pin"`
	PUK           Reference `json:"puk"`
	ManagementKey Reference `json:"managementKey"`        // it has no tries
	Stored        bool      `json:"managementKeyStored"`  // the card is noted to keep it under the PIN
	Slots         []SlotKey `json:"slots,omitempty"`      // 9a, 9c, 9d, 9e and 82 to 95, those with a key
	Unreadable    []string  `json:"unreadable,omitempty"` // what the card does not describe as it should, and why
}

// Reference is a PIN, or what is like one.
type Reference struct {
	Absent  bool `json:"absent,omitempty"` // the card has none, as a YubiKey Bio has no PUK
	Default bool `json:"default"`          // it is the one from the factory, which everybody knows
	Left    int  `json:"left,omitempty"`   // tries
	Full    int  `json:"full,omitempty"`
}

// SlotKey is a key in a slot.
type SlotKey struct {
	Slot      Slot        `json:"slot"` // here also those that are none of ours
	Algorithm string      `json:"algorithm"`
	PIN       PINPolicy   `json:"pinPolicy,omitempty"`   // "" if it is none of ours
	Touch     TouchPolicy `json:"touchPolicy,omitempty"` // "" likewise
	Generated bool        `json:"generated"`             // in the card; false: imported

	public []byte // the point; nil: of a key on no curve
}

// Is reports whether it is the key with that public key.
func (k *SlotKey) Is(public *ecdh.PublicKey) bool { return bytes.Equal(k.public, public.Bytes()) }

func (k *SlotKey) String() string {
	origin, text := "imported, so a copy may be elsewhere", k.Algorithm
	if k.Generated {
		origin = "generated on the card"
	}
	text += ", " + origin
	if k.PIN != "" && k.Touch != "" {
		text += fmt.Sprintf(", PIN policy %s, touch policy %s", k.PIN, k.Touch)
	}
	return text
}

// Inspect reads what is on the card. No PIN is tried: that a PIN is the factory's, the card says itself.
func Inspect(serial uint32) (*Inventory, error) {
	inv := &Inventory{}
	err := withSerial(serial, func(s *session) (err error) {
		inv.Card = Card{Reader: s.reader, Serial: s.serial, Firmware: s.firmware()}
		if inv.Described = s.hasMetadata(); !inv.Described {
			return nil
		}
		return inv.read(s)
	})
	if err != nil {
		return nil, err
	}
	return inv, nil
}

// withSerial calls f with the card opened.
func withSerial(serial uint32, f func(*session) error) error {
	client, err := pcsc.Dial()
	if err != nil {
		return err
	}
	defer client.Close()
	s, err := pcsc.WhenFree(func() (*session, error) { return openSerial(client, serial) })
	if err != nil {
		return fmt.Errorf("YubiKey %d: %w", serial, err)
	}
	defer s.close()
	if err := f(s); err != nil {
		return fmt.Errorf("YubiKey %d: %w", serial, err)
	}
	return nil
}

// read reads all that the card tells. What is absent is left out, and what is odd is noted: neither hides the rest. A
// card that does not answer is an error.
func (inv *Inventory) read(s *session) error {
	for _, r := range []struct {
		what string
		ref  byte
		to   *Reference
	}{{"the PIN", refPIN, &inv.PIN}, {"the PUK", refPUK, &inv.PUK},
		{"the management key", refManagement, &inv.ManagementKey}} {
		var err error
		if *r.to, err = s.reference(r.what, r.ref); inv.note(r.what, err) != nil {
			return err
		}
	}
	stored, err := s.isNotedAsStored()
	if inv.note("where the management key is kept", err) != nil {
		return err
	}
	inv.Stored = stored
	slots := []byte{0x9a, 0x9c, 0x9d, 0x9e}
	for slot := byte(0x82); slot <= 0x95; slot++ {
		slots = append(slots, slot)
	}
	for _, slot := range slots {
		key, err := s.slotKey(slot)
		if errors.Is(err, errAbsent) {
			continue
		}
		if inv.note(fmt.Sprintf("slot %02x", slot), err) != nil {
			return err
		}
		if err == nil {
			inv.Slots = append(inv.Slots, *key)
		}
	}
	return nil
}

// note keeps an answer that makes no sense, or a refusal, in mind, and returns any other error.
func (inv *Inventory) note(what string, err error) error {
	var refused refusal
	if err == nil || !errors.Is(err, pcsc.ErrGarbled) && !errors.As(err, &refused) {
		return err
	}
	inv.Unreadable = append(inv.Unreadable, fmt.Sprintf("%s: %v", what, err))
	return nil
}

// reference reads GET METADATA's tags 05 (default) and 06 (tries in all, tries left).
func (s *session) reference(what string, ref byte) (r Reference, err error) {
	m, err := s.metadata(what, ref)
	if errors.Is(err, errAbsent) {
		return Reference{Absent: true}, nil
	}
	if err != nil {
		return r, err
	}
	if d := m[0x05]; len(d) != 1 || d[0] > 1 {
		return r, fmt.Errorf("%w: whether %s is the default: %x", pcsc.ErrGarbled, what, d)
	}
	r.Default = m[0x05][0] == 1
	if tries := m[0x06]; len(tries) == 2 {
		r.Full, r.Left = int(tries[0]), int(tries[1])
	}
	return r, nil
}

// Algorithms of GET METADATA's tag 01.
var algorithms = map[byte]string{
	0x06: "RSA 1024", 0x07: "RSA 2048", 0x05: "RSA 3072", 0x16: "RSA 4096",
	algP256: "P-256", 0x14: "P-384", 0xe0: "Ed25519", 0xe1: "X25519",
}

// Policies as the card knows them: https://docs.yubico.com/yesdk/users-manual/application-piv/apdu/metadata.html
var (
	pinCodes   = map[byte]PINPolicy{1: PINNever, 2: PINOnce, 3: PINAlways}
	touchCodes = map[byte]TouchPolicy{1: TouchNever, 2: TouchAlways, 3: TouchCached}
)

// codeOf is the code of a policy; 0: it has none.
func codeOf[P comparable](codes map[byte]P, policy P) byte {
	for code, p := range codes {
		if p == policy {
			return code
		}
	}
	return 0
}

// slotKey describes a key; errAbsent: the slot is empty.
func (s *session) slotKey(slot byte) (*SlotKey, error) {
	m, err := s.metadata(fmt.Sprintf("slot %02x", slot), slot)
	if err != nil {
		return nil, err
	}
	if len(m[0x01]) != 1 || len(m[0x02]) != 2 || len(m[0x03]) != 1 {
		return nil, fmt.Errorf("%w: slot %02x is described by %x", pcsc.ErrGarbled, slot, m)
	}
	key := &SlotKey{Slot: Slot(slot), Algorithm: algorithms[m[0x01][0]], Generated: m[0x03][0] == 1}
	if key.Algorithm == "" {
		key.Algorithm = fmt.Sprintf("algorithm %02x", m[0x01][0])
	}
	key.PIN, key.Touch = pinCodes[m[0x02][0]], touchCodes[m[0x02][1]]
	if public, err := parseTLV(m[0x04]); err == nil { // what is garbled is nobody's key
		key.public = public[0x86]
	}
	return key, nil
}
