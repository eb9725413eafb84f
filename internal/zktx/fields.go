package zktx

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Limits of the text of a uint256.
const (
	maxDecimalDigits = 78
	maxHexDigits     = 64
)

// readUint256 reads an integer: a decimal string, a 0x-hex string or a JSON number
// without fraction and exponent. Leading zeros are fine in hex only, which some
// clients pad to full words; in decimal they could be meant as octal.
func readUint256(v policy.JSONValue) (uint256.Int, error) {
	digits := []byte(v)
	if v.Kind() != policy.KindNumber {
		text, err := v.Text()
		if err != nil {
			return uint256.Int{}, fmt.Errorf("want an unsigned integer, found %s", v)
		}
		if hexDigits, ok := cutPrefix(text); ok {
			return parseHexInteger(hexDigits, v)
		}
		digits = text
	}
	return parseDecimal(digits, v)
}

// parseDecimal reads digits; v is what they are from, for the error.
func parseDecimal(digits []byte, v policy.JSONValue) (x uint256.Int, err error) {
	if len(digits) == 0 || (digits[0] == '0' && len(digits) > 1) {
		return x, fmt.Errorf("want an unsigned integer, found %s", v)
	}
	for _, c := range digits {
		if c < '0' || c > '9' {
			return x, fmt.Errorf("want an unsigned integer, found %s", v)
		}
	}
	if len(digits) > maxDecimalDigits || x.SetFromDecimal(string(digits)) != nil {
		return x, fmt.Errorf("%s does not fit 256 bits", v)
	}
	return x, nil
}

// parseHexInteger reads hex digits; v is what they are from, for the error.
func parseHexInteger(digits []byte, v policy.JSONValue) (x uint256.Int, err error) {
	if len(digits) > maxHexDigits {
		return x, fmt.Errorf("%s has more hex digits than a uint256", v)
	}
	var word [maxHexDigits]byte // digits, with zeros in front
	for i := range word {
		word[i] = '0'
	}
	copy(word[len(word)-len(digits):], digits)
	var b [32]byte
	if _, err := hex.Decode(b[:], word[:]); err != nil || len(digits) == 0 {
		return x, fmt.Errorf("want an unsigned integer, found %s", v)
	}
	x.SetBytes32(b[:])
	return x, nil
}

func readUint64(v policy.JSONValue) (uint64, error) {
	x, err := readUint256(v)
	if err == nil && !x.IsUint64() {
		err = fmt.Errorf("%s does not fit 64 bits", v)
	}
	return x.Uint64(), err
}

// readChainID reads an integer that no chain's replay protection (EIP-155) is void with.
func readChainID(v policy.JSONValue) (uint64, error) {
	id, err := readUint64(v)
	if err == nil && id == 0 {
		err = errors.New("no chain has the id 0")
	}
	return id, err
}

// readAddress reads 0x and 40 hex digits, in any case; in mixed case they have to be
// right by EIP-55.
func readAddress(v policy.JSONValue) (a policy.Address, err error) {
	text, err := v.Text()
	if err == nil {
		err = a.UnmarshalText(text)
	}
	if err != nil {
		return a, fmt.Errorf("want an address, found %s: %w", v, err)
	}
	return a, nil
}

// readAddressWord reads an address that is a uint256 on the wire, as typed data has
// it. The chain cuts it to 160 bits, so more of them are refused, lest two texts
// name one account.
func readAddressWord(v policy.JSONValue) (policy.Address, error) {
	if v.Kind() == policy.KindString && len(v) == len(`"0x"`)+2*len(policy.Address{}) && v[2] == 'x' {
		return readAddress(v)
	}
	x, err := readUint256(v)
	if err != nil {
		return policy.Address{}, err
	}
	if x.BitLen() > 160 {
		return policy.Address{}, fmt.Errorf("%s is above 160 bits, so no address", v)
	}
	return x.Bytes20(), nil
}

// readBytes reads 0x and an even number of hex digits.
func readBytes(v policy.JSONValue) ([]byte, error) {
	text, err := v.Text()
	digits, ok := cutPrefix(text)
	if err != nil || !ok {
		return nil, fmt.Errorf("want 0x-hex bytes, found %s", v)
	}
	if len(digits)%2 != 0 {
		return nil, fmt.Errorf("want 0x-hex bytes, found an odd number of digits, %d", len(digits))
	}
	b := make([]byte, len(digits)/2)
	if n, err := hex.Decode(b, digits); err != nil {
		return nil, fmt.Errorf("want 0x-hex bytes, found something else in byte %d", n)
	}
	return b, nil
}

// readBytesOrArray reads bytes as 0x-hex or as an array of numbers, the form in which
// the ZKsync node's API has them in eip712Meta (Vec<u8>).
func readBytesOrArray(v policy.JSONValue) ([]byte, error) {
	if v.Kind() == policy.KindArray {
		return policy.ReadElements(v, readByte)
	}
	return readBytes(v)
}

func readByte(v policy.JSONValue) (byte, error) {
	x, err := readUint256(v)
	if err != nil || v.Kind() != policy.KindNumber || !x.LtUint64(256) {
		return 0, fmt.Errorf("want a number from 0 to 255, found %s", v)
	}
	return byte(x.Uint64()), nil
}

// readHash reads 0x and 64 hex digits.
func readHash(v policy.JSONValue) (h policy.Hash, err error) {
	text, err := v.Text()
	if err == nil {
		err = h.UnmarshalText(text)
	}
	if err != nil {
		return h, fmt.Errorf("want 32 bytes, found %s: %w", v, err)
	}
	return h, nil
}

// cutPrefix returns what follows 0x.
func cutPrefix(text []byte) ([]byte, bool) {
	if len(text) < 2 || text[0] != '0' || text[1] != 'x' {
		return nil, false
	}
	return text[2:], true
}
