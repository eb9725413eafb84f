package policy

import (
	"encoding/hex"
	"errors"
	"fmt"

	"golang.org/x/crypto/sha3"
)

// keccak256 is Ethereum's hash: Keccak with the padding from before FIPS 202.
func keccak256(data []byte) (h Hash) {
	k := sha3.NewLegacyKeccak256()
	k.Write(data)
	k.Sum(h[:0])
	return h
}

// decodeHex fills dst from text: 0x and exactly two digits a byte, in any case.
func decodeHex(dst, text []byte) error {
	if len(text) != 2+2*len(dst) || text[0] != '0' || text[1] != 'x' {
		return fmt.Errorf("must be 0x and %d hex digits", 2*len(dst))
	}
	if _, err := hex.Decode(dst, text[2:]); err != nil {
		return fmt.Errorf("must be 0x and %d hex digits", 2*len(dst))
	}
	return nil
}

func encodeHex(b []byte) string { return "0x" + hex.EncodeToString(b) }

// IsZero reports whether a is the zero address, which stands for none.
func (a Address) IsZero() bool { return a == Address{} }

// String returns 0x-hex with the checksum of EIP-55.
func (a Address) String() string {
	var room [42]byte
	text, _ := a.AppendText(room[:0])
	return string(text)
}

// MarshalText returns what String does. There is never an error.
func (a Address) MarshalText() ([]byte, error) { return a.AppendText(make([]byte, 0, 42)) }

// AppendText appends what String returns to b. There is never an error.
//
// A letter is a capital where the hash of the lower-case digits has a nibble of 8 or more in its place (EIP-55).
func (a Address) AppendText(b []byte) ([]byte, error) {
	b = append(b, "0x"...)
	b = hex.AppendEncode(b, a[:])
	digits := b[len(b)-2*len(a):]
	sum := keccak256(digits)
	for i, c := range digits {
		nibble := sum[i/2] >> 4
		if i%2 == 1 {
			nibble = sum[i/2] & 0x0f
		}
		if c >= 'a' && nibble >= 8 {
			digits[i] = c - 'a' + 'A'
		}
	}
	return b, nil
}

var errChecksum = errors.New("mixed-case address with a wrong EIP-55 checksum")

// UnmarshalText reads 0x and 40 hex digits. Digits of one case are taken as they are; mixed
// case is a checksum (EIP-55), and a wrong one is an error.
func (a *Address) UnmarshalText(text []byte) error {
	var b Address
	if err := decodeHex(b[:], text); err != nil {
		return err
	}
	if mixedCase(text[2:]) && string(text) != b.String() {
		return errChecksum
	}
	*a = b
	return nil
}

func mixedCase(digits []byte) bool {
	var lower, upper bool
	for _, c := range digits {
		lower = lower || c >= 'a' && c <= 'f'
		upper = upper || c >= 'A' && c <= 'F'
	}
	return lower && upper
}

// String returns lower-case 0x-hex.
func (h Hash) String() string { return encodeHex(h[:]) }

// MarshalText returns what String does. There is never an error.
func (h Hash) MarshalText() ([]byte, error) { return h.AppendText(nil) }

// AppendText appends what String returns to b. There is never an error.
func (h Hash) AppendText(b []byte) ([]byte, error) {
	return hex.AppendEncode(append(b, "0x"...), h[:]), nil
}

// UnmarshalText reads 0x and 64 hex digits in any case.
func (h *Hash) UnmarshalText(text []byte) error {
	var b Hash
	if err := decodeHex(b[:], text); err != nil {
		return err
	}
	*h = b
	return nil
}

// String returns lower-case 0x-hex.
func (s Selector) String() string { return encodeHex(s[:]) }

// MarshalText returns what String does. There is never an error.
func (s Selector) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads 0x and 8 hex digits in any case.
func (s *Selector) UnmarshalText(text []byte) error {
	var b Selector
	if err := decodeHex(b[:], text); err != nil {
		return err
	}
	*s = b
	return nil
}
