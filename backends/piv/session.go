package piv

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// Commands, and what they are about: SP 800-73-4, part 2, 3; and Yubico's extensions,
// https://docs.yubico.com/yesdk/users-manual/application-piv/apdu/
const (
	insSelect        = 0xa4
	insVerify        = 0x20
	insChange        = 0x24
	insGenerate      = 0x47
	insAuthenticate  = 0x87
	insGetData       = 0xcb
	insPutData       = 0xdb
	insMetadata      = 0xf7
	insSerial        = 0xf8
	insAttest        = 0xf9
	insVersion       = 0xfd
	insSetManagement = 0xff

	refPIN        = 0x80
	refPUK        = 0x81
	refManagement = 0x9b

	algP256   = 0x11
	alg3DES   = 0x03
	algAES128 = 0x08
	algAES192 = 0x0a
	algAES256 = 0x0c
)

// Status words: ISO 7816-4, 5.1.3; SP 800-73-4, part 2, 3.
const (
	swSecurityStatus pcsc.Status = 0x6982
	swBlocked        pcsc.Status = 0x6983
	swConditions     pcsc.Status = 0x6985
	swWrongData      pcsc.Status = 0x6a80
	swNotFound       pcsc.Status = 0x6a82
	swNoReference    pcsc.Status = 0x6a88
)

// Applications: SP 800-73-4, part 1, 2.2; every YubiKey 5 has the other one.
var (
	aidPIV        = []byte{0xa0, 0x00, 0x00, 0x03, 0x08}
	aidManagement = []byte{0xa0, 0x00, 0x00, 0x05, 0x27, 0x47, 0x11, 0x17}
)

// errSecurityStatus: the card wants a PIN, or was not touched.
var errSecurityStatus = errors.New("security status not satisfied")

// session is a card that is open, with its PIV application selected.
type session struct {
	card    *pcsc.Card
	reader  string
	version [3]byte
	serial  uint32
}

// openSerial opens the card with that serial number. Others are looked at and closed again.
func openSerial(client *pcsc.Client, serial uint32) (*session, error) {
	var others []string
	var trouble pcsc.Several
	readers, err := client.Readers()
	if err != nil {
		return nil, err
	}
	for _, r := range readers {
		if !r.Present {
			continue
		}
		s, err := openReader(client, r.Name)
		switch {
		case err != nil:
			trouble = append(trouble, err)
			continue
		case s.serial == serial:
			return s, nil
		}
		others = append(others, fmt.Sprintf("YubiKey %d", s.serial))
		s.close()
	}
	if len(trouble) > 0 {
		return nil, fmt.Errorf("it is not found: %w", trouble)
	}
	if len(others) > 0 {
		return nil, fmt.Errorf("it is not plugged in; instead there is %s", strings.Join(others, ", "))
	}
	return nil, errors.New("it is not plugged in")
}

// openReader opens a card and selects PIV. It has to be a YubiKey 5: earlier ones do not tell their
// serial number there.
func openReader(client *pcsc.Client, reader string) (_ *session, err error) {
	card, err := client.Open(reader)
	if err != nil {
		return nil, fmt.Errorf("card in %s: %w", reader, err)
	}
	s := &session{card: card, reader: reader}
	defer func() {
		if err != nil {
			s.close()
			err = fmt.Errorf("card in %s: %w", reader, err)
		}
	}()
	if _, err := s.do("selecting PIV", pcsc.Command{INS: insSelect, P1: 0x04, Data: aidPIV}); err != nil {
		if errors.Is(err, errAbsent) {
			err = fmt.Errorf("%w; it has no PIV application, or that is switched off over USB: ykman config usb --enable PIV",
				err)
		}
		return nil, err
	}
	version, err := s.do("reading the firmware's version", pcsc.Command{INS: insVersion})
	if err != nil {
		return nil, err
	}
	serial, err := s.do("reading the serial number", pcsc.Command{INS: insSerial})
	if err != nil {
		return nil, err
	}
	if len(version) != 3 || len(serial) != 4 {
		return nil, fmt.Errorf("%w: version %x, serial number %x", pcsc.ErrGarbled, version, serial)
	}
	s.version, s.serial = [3]byte(version), binary.BigEndian.Uint32(serial)
	return s, nil
}

// close lets others use the card, with nothing verified: to select another application clears
// the security status of this one (SP 800-73-4, part 1, 4.1). What fails here is released
// with the client.
func (s *session) close() {
	_, sw, err := s.card.Do(pcsc.Command{INS: insSelect, P1: 0x04, Data: aidManagement})
	if err == nil && sw != pcsc.OK {
		_ = s.card.Close() // no YubiKey: a reset does it too
		return
	}
	_ = s.card.Leave()
}

// do sends a command that has to succeed.
func (s *session) do(what string, cmd pcsc.Command) ([]byte, error) {
	data, sw, err := s.card.Do(cmd)
	if err == nil {
		err = swError(sw)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return data, nil
}

func swError(sw pcsc.Status) error {
	switch sw {
	case pcsc.OK:
		return nil
	case swSecurityStatus:
		return fmt.Errorf("%w (status word %v)", errSecurityStatus, sw)
	case swNotFound, swNoReference:
		return fmt.Errorf("%w (status word %v)", errAbsent, sw)
	}
	return refusal(sw)
}

// refusal is a status word that says no more than that the card refuses.
type refusal pcsc.Status

func (r refusal) Error() string { return fmt.Sprintf("status word %v", pcsc.Status(r)) }

// errAbsent: the card has no such key, object or application.
var errAbsent = errors.New("not on the card")

// hasMetadata: from firmware 5.3 on, the card describes its keys and PINs.
func (s *session) hasMetadata() bool {
	return s.version[0] > 5 || s.version[0] == 5 && s.version[1] >= 3
}

// metadata describes a key, the PIN, the PUK or the management key.
func (s *session) metadata(what string, ref byte) (map[byte][]byte, error) {
	data, err := s.do("reading about "+what, pcsc.Command{INS: insMetadata, P2: ref})
	if err != nil {
		return nil, err
	}
	return parseTLV(data)
}

// checkKey refuses a card whose slot holds another key than the attested one. Before firmware 5.3
// that shows only when the key is used.
func (s *session) checkKey(key *AttestedKey) error {
	if !s.hasMetadata() {
		return nil
	}
	m, err := s.metadata("slot "+key.Slot.String(), byte(key.Slot))
	if errors.Is(err, errAbsent) {
		return isEmpty(key.Slot)
	}
	if err != nil {
		return err
	}
	point, err := parseTLV(m[0x04])
	if err != nil {
		return err
	}
	if !bytes.Equal(point[0x86], key.Public.Bytes()) {
		return holdsAnother(key.Slot)
	}
	return nil
}

// checkAttested is checkKey before firmware 5.3, for a key that was used without success: the card takes its time to
// attest. It does not attest a key that was imported, which is not noticed.
func (s *session) checkAttested(key *AttestedKey) error {
	if s.hasMetadata() {
		return nil
	}
	der, sw, err := s.card.Do(pcsc.Command{INS: insAttest, P1: byte(key.Slot)})
	if err != nil || sw != pcsc.OK {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: the attestation of slot %v: %w", pcsc.ErrGarbled, key.Slot, err)
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); ok {
		if point, err := public.Bytes(); err == nil && bytes.Equal(point, key.Public.Bytes()) {
			return nil
		}
	}
	return holdsAnother(key.Slot)
}

// A key that is gone does not come back, and what is sealed to it stays to be deleted: so it is an ErrRefused. Neither
// ErrUnavailable, which is tried again, nor ErrKeyNotFound, by which callers of Destroy take the session's key for
// deleted.
func isEmpty(slot Slot) error {
	return fmt.Errorf("%w: slot %v is empty: the key that was attested is gone", backends.ErrRefused, slot)
}

func holdsAnother(slot Slot) error {
	return fmt.Errorf("%w: slot %v holds another key than the one that was attested", backends.ErrRefused, slot)
}

// defaultTries is how many tries a card has if it does not say.
const defaultTries = 3

// tries reads the PIN's retry counter. It costs none.
func (s *session) tries() (secret.Tries, error) {
	if s.hasMetadata() {
		m, err := s.metadata("the PIN", refPIN)
		if err != nil {
			return secret.Tries{}, err
		}
		n := m[0x06]
		if len(n) != 2 {
			return secret.Tries{}, fmt.Errorf("%w: a retry counter of %d bytes", pcsc.ErrGarbled, len(n))
		}
		return secret.Tries{Left: int(n[1]), Full: int(n[0])}, nil
	}
	// VERIFY without data: SP 800-73-4, part 2, 3.2.1.
	_, sw, err := s.card.Do(pcsc.Command{INS: insVerify, P2: refPIN, NoLe: true})
	switch {
	case err != nil:
		return secret.Tries{}, err
	case sw == pcsc.OK: // another program left it verified, so it was right
		return secret.Tries{Left: defaultTries, Full: defaultTries}, nil
	case sw&0xfff0 == 0x63c0:
		return secret.Tries{Left: int(sw & 0xf), Full: defaultTries}, nil
	case sw == swBlocked:
		return secret.Tries{}, nil
	}
	return secret.Tries{}, fmt.Errorf("reading the retry counter: status word %v", sw)
}

// A PIN on the card: SP 800-73-4, part 2, 2.4.3.
const (
	minPIN  = 6
	maxPIN  = 8
	padding = 0xff
)

// verify shows the PIN to the card; see [secret.PINs].
func (s *session) verify(pin []byte) error {
	if len(pin) < minPIN || len(pin) > maxPIN {
		return secret.NotSpent(fmt.Errorf("%w: it has %d bytes, a PIV PIN has %d to %d, so it was not tried",
			backends.ErrPINIncorrect, len(pin), minPIN, maxPIN))
	}
	apdu, err := secret.New(5 + maxPIN)
	if err != nil {
		return secret.NotSpent(err)
	}
	defer apdu.Close()
	var answer []byte
	err = apdu.Use(func(b []byte) (err error) {
		copy(b, []byte{0x00, insVerify, 0x00, refPIN, maxPIN})
		for i := range b[5:] {
			b[5+i] = padding
		}
		copy(b[5:], pin)
		answer, err = s.card.Transmit(b)
		return err
	})
	if err == nil && len(answer) != 2 {
		err = fmt.Errorf("%w: %d bytes in answer to a PIN", pcsc.ErrGarbled, len(answer))
	}
	if err == nil {
		err = verdict(pcsc.Status(binary.BigEndian.Uint16(answer)))
	}
	if err != nil {
		return fmt.Errorf("verifying the PIN: %w", err)
	}
	return nil
}

// verdict is what a status word says of a PIN or PUK.
func verdict(sw pcsc.Status) error {
	switch {
	case sw == pcsc.OK:
		return nil
	case sw&0xfff0 == 0x63c0:
		return fmt.Errorf("%w: %s", backends.ErrPINIncorrect, secret.TriesLeft(int(sw&0xf)))
	case sw == swBlocked:
		return fmt.Errorf("%w: no tries are left, so it is blocked", backends.ErrPINIncorrect)
	}
	return swError(sw)
}

// ecdh has the card compute the shared secret of its key and peer (SP 800-73-4, part 2, A.5).
func (s *session) ecdh(slot Slot, peer *ecdh.PublicKey) ([]byte, error) {
	data := appendTLV(nil, 0x7c, append([]byte{0x82, 0x00}, appendTLV(nil, 0x85, peer.Bytes())...))
	answer, err := s.do("using the key", pcsc.Command{INS: insAuthenticate, P1: algP256, P2: byte(slot), Data: data})
	if errors.Is(err, errAbsent) {
		return nil, isEmpty(slot)
	}
	if err != nil {
		return nil, err
	}
	outer, err := parseTLV(answer)
	if err != nil {
		return nil, err
	}
	inner, err := parseTLV(outer[0x7c])
	if err != nil {
		return nil, err
	}
	if len(inner[0x82]) != 32 {
		return nil, fmt.Errorf("%w: a shared secret of %d bytes", pcsc.ErrGarbled, len(inner[0x82]))
	}
	return inner[0x82], nil
}
