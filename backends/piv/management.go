package piv

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"

	"github.com/keyward/keyward/internal/pcsc"
)

// The management key is kept on the card as ykman keeps it, which then asks for the PIN alone:
// yubikey-manager, ykman/piv.py, PivmanData and PivmanProtectedData.
const (
	objectAdmin     = 0x5fff00 // anybody can read it
	tagAdmin        = 0x80
	tagAdminFlags   = 0x81
	tagAdminSalt    = 0x82 // of a management key that is derived from the PIN
	flagKeyIsStored = 0x02

	objectProtected = 0x5fc109 // can be read with the PIN only
	tagProtected    = 0x88
	tagProtectedKey = 0x89

	objectAttestation = 0x5fff01
)

// ProtectManagementKey replaces the management key by a random one, which it stores on the card, where
// it can be read with the PIN. old is the key until now. A stored key that is in use already stays,
// whatever old is; so after a failure, run it again.
//
// The key is set last: a card that is pulled before still has the old one, and one that is
// pulled afterwards has the new one stored.
func (s *Setup) ProtectManagementKey(old, pin []byte) error {
	return withSerial(s.Serial, func(c *session) error {
		if err := c.spendTry(pin); err != nil {
			return err
		}
		protected, err := c.field("the PIN-protected data", objectProtected, tagProtected)
		if err != nil {
			return err
		}
		admin, err := c.notedAsStored()
		if err != nil {
			return err
		}
		isStored, err := c.isStored(protected)
		if err != nil {
			return err
		}
		if isStored {
			return c.putAdmin(admin)
		}
		if err := c.authenticate(old); err != nil {
			return err
		}
		key := make([]byte, 24) // AES-192, or 3DES before firmware 5.4
		rand.Read(key)
		defer clear(key)
		if protected, err = withoutTLV(protected, tagProtectedKey); err != nil {
			return err
		}
		protected = appendTLV(protected, tagProtectedKey, key)
		defer clear(protected)
		if err := c.putObject("storing the management key", objectProtected, tagProtected, protected); err != nil {
			return err
		}
		if err := c.putAdmin(admin); err != nil {
			return err
		}
		return c.setManagementKey(key)
	})
}

// ManagementKey reads the management key that ProtectManagementKey, or ykman, stored; [ErrNotStored] if there is
// none, or it was changed since and not stored. The caller wipes it.
func (s *Setup) ManagementKey(pin []byte) (key []byte, err error) {
	err = withSerial(s.Serial, func(c *session) error {
		if err := c.spendTry(pin); err != nil {
			return err
		}
		protected, err := c.field("the PIN-protected data", objectProtected, tagProtected)
		if err != nil {
			return err
		}
		fields, err := parseTLV(protected)
		if err != nil {
			return err
		}
		defer clear(protected)
		stored := fields[tagProtectedKey]
		if len(stored) == 0 {
			return ErrNotStored
		}
		if err := c.authenticate(stored); errors.Is(err, ErrManagementKey) {
			return fmt.Errorf("%w: what is stored is not it: %w", ErrNotStored, err)
		} else if err != nil {
			return err
		}
		key = bytes.Clone(stored)
		return nil
	})
	return key, err
}

// isStored reports whether the management key is the one that is stored, and not the factory's. It is
// authenticated then.
func (s *session) isStored(protected []byte) (bool, error) {
	fields, err := parseTLV(protected)
	if err != nil {
		return false, err
	}
	key := fields[tagProtectedKey]
	if len(key) == 0 || bytes.Equal(key, DefaultManagementKey()) {
		return false, nil
	}
	err = s.authenticate(key)
	if errors.Is(err, ErrManagementKey) {
		return false, nil
	}
	return err == nil, err
}

// notedAsStored is the admin data once it notes that the management key is stored. What else is noted is
// kept, except that the key is derived from the PIN.
func (s *session) notedAsStored() ([]byte, error) {
	admin, err := s.field("the admin data", objectAdmin, tagAdmin)
	if err != nil {
		return nil, err
	}
	fields, err := parseTLV(admin)
	if err != nil {
		return nil, err
	}
	flags := byte(flagKeyIsStored)
	if f := fields[tagAdminFlags]; len(f) == 1 {
		flags |= f[0]
	}
	for _, tag := range []byte{tagAdminFlags, tagAdminSalt} {
		if admin, err = withoutTLV(admin, tag); err != nil {
			return nil, err
		}
	}
	return append(appendTLV(nil, tagAdminFlags, []byte{flags}), admin...), nil
}

// isNotedAsStored reports whether the admin data says that the management key is stored. Data that are none say
// nothing.
func (s *session) isNotedAsStored() (bool, error) {
	object, err := s.object("the admin data", objectAdmin)
	if err != nil && !errors.Is(err, pcsc.ErrGarbled) {
		return false, err
	}
	fields, err := parseTLV(object[tagAdmin])
	flags := fields[tagAdminFlags]
	return err == nil && len(flags) == 1 && flags[0]&flagKeyIsStored != 0, nil
}

func (s *session) putAdmin(admin []byte) error {
	return s.putObject("noting that the management key is stored", objectAdmin, tagAdmin, admin)
}

// authenticate shows the management key to the card, which shows that it has it too: SP 800-73-4, part 2,
// A.1. [ErrManagementKey]: the card has another one.
func (s *session) authenticate(key []byte) error {
	algorithm := byte(alg3DES) // the only one before firmware 5.4
	wrong := ErrManagementKey
	if s.hasMetadata() {
		m, err := s.metadata("the management key", refManagement)
		if err != nil {
			return err
		}
		if len(m[0x01]) != 1 {
			return fmt.Errorf("%w: a management key of algorithm %x", pcsc.ErrGarbled, m[0x01])
		}
		algorithm = m[0x01][0]
		if policies := m[0x02]; len(policies) == 2 && touchCodes[policies[1]] != TouchNever {
			wrong = fmt.Errorf("%w, or the touch that it takes was not given: touch the card while it blinks", ErrManagementKey)
		}
	}
	block, err := newBlock(algorithm, key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrManagementKey, err)
	}
	n := block.BlockSize()
	witness, err := s.exchange(algorithm, appendTLV(nil, 0x80, nil), 0x80, n)
	if err != nil {
		return err
	}
	block.Decrypt(witness, witness)
	challenge := make([]byte, n)
	rand.Read(challenge)
	response, err := s.exchange(algorithm, appendTLV(appendTLV(nil, 0x80, witness), 0x81, challenge), 0x82, n)
	if errors.Is(err, errSecurityStatus) {
		return fmt.Errorf("%w: %w", wrong, err)
	}
	if err != nil {
		return err
	}
	block.Encrypt(challenge, challenge)
	if subtle.ConstantTimeCompare(response, challenge) != 1 {
		return fmt.Errorf("%w: the card does not have the management key that it took", pcsc.ErrGarbled)
	}
	return nil
}

// exchange is GENERAL AUTHENTICATE with the management key; the answer has the tag and n bytes.
func (s *session) exchange(algorithm byte, template []byte, tag byte, n int) ([]byte, error) {
	answer, err := s.do("showing the management key", pcsc.Command{
		INS: insAuthenticate, P1: algorithm, P2: refManagement, Data: appendTLV(nil, 0x7c, template),
	})
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
	if len(inner[tag]) != n {
		return nil, fmt.Errorf("%w: %d bytes in answer to a management key, want %d", pcsc.ErrGarbled, len(inner[tag]), n)
	}
	return inner[tag], nil
}

// newBlock is the cipher of a management key: SP 800-78-4, table 6-2.
func newBlock(algorithm byte, key []byte) (cipher.Block, error) {
	sizes := map[byte]int{alg3DES: 24, algAES128: 16, algAES192: 24, algAES256: 32}
	switch size, ok := sizes[algorithm]; {
	case !ok:
		return nil, fmt.Errorf("the card's is of algorithm %02x", algorithm)
	case len(key) != size:
		return nil, fmt.Errorf("it has %d bytes, and the card's has %d", len(key), size)
	case algorithm == alg3DES:
		return des.NewTripleDESCipher(key)
	}
	return aes.NewCipher(key)
}

// setManagementKey sets a key of 24 bytes:
// https://docs.yubico.com/yesdk/users-manual/application-piv/apdu/set-mgmt-key.html
func (s *session) setManagementKey(key []byte) error {
	algorithm := byte(alg3DES)
	if s.version[0] > 5 || s.version[0] == 5 && s.version[1] >= 4 {
		algorithm = algAES192
	}
	data := append([]byte{algorithm}, appendTLV(nil, refManagement, key)...)
	defer clear(data)
	_, err := s.do("setting the management key", pcsc.Command{INS: insSetManagement, P1: 0xff, P2: 0xff, Data: data,
		NoLe: true})
	return err
}

// object is GET DATA (SP 800-73-4, part 2, 3.1.2); nil: there is none.
func (s *session) object(what string, number int) (map[byte][]byte, error) {
	answer, err := s.do("reading "+what, pcsc.Command{INS: insGetData, P1: 0x3f, P2: 0xff,
		Data: appendTLV(nil, 0x5c, objectID(number))})
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	outer, err := parseTLV(answer)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	inner, err := parseTLV(outer[0x53])
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", what, err)
	}
	return inner, nil
}

// field reads an object that has one field; nil: there is none.
func (s *session) field(what string, number int, tag byte) ([]byte, error) {
	fields, err := s.object(what, number)
	if err != nil || len(fields) == 0 {
		return nil, err
	}
	value, ok := fields[tag]
	if !ok || len(fields) != 1 {
		return nil, fmt.Errorf("object %x holds something else than %s, which would be lost", number, what)
	}
	return value, nil
}

// putObject writes an object of one field: SP 800-73-4, part 2, 3.3.1.
func (s *session) putObject(what string, number int, tag byte, value []byte) error {
	data := appendTLV(appendTLV(nil, 0x5c, objectID(number)), 0x53, appendTLV(nil, tag, value))
	defer clear(data)
	_, err := s.do(what, pcsc.Command{INS: insPutData, P1: 0x3f, P2: 0xff, Data: data, NoLe: true})
	return err
}

func objectID(number int) []byte { return []byte{byte(number >> 16), byte(number >> 8), byte(number)} }
