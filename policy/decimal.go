package policy

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/holiman/uint256"
)

// Errors of [parseUint] and [parseNumber].
var (
	errNotInteger = errors.New("must be an unsigned integer: decimal digits or 0x-hex")
	errNotExact   = errors.New("a JSON number must be written as plain digits; use a decimal string")
	errTooLarge   = errors.New("does not fit into 256 bits")
)

// Int returns the number.
func (d Decimal) Int() uint256.Int { return uint256.Int(d) }

// String returns decimal digits.
func (d Decimal) String() string { return (*uint256.Int)(&d).Dec() }

// MarshalText returns what String does, so that JSON has a decimal string.
// There is never an error.
func (d Decimal) MarshalText() ([]byte, error) { return d.AppendText(nil) }

// AppendText appends what String returns to b. There is never an error.
func (d Decimal) AppendText(b []byte) ([]byte, error) {
	x := (*uint256.Int)(&d)
	if x.IsUint64() {
		return strconv.AppendUint(b, x.Uint64(), 10), nil
	}
	return append(b, x.Dec()...), nil
}

// UnmarshalText reads decimal digits or 0x-hex.
func (d *Decimal) UnmarshalText(text []byte) error {
	x, err := parseUint(string(text))
	if err != nil {
		return err
	}
	*d = Decimal(x)
	return nil
}

// UnmarshalJSON reads a string as UnmarshalText does, or a JSON number that is
// written as plain digits. null is an error.
func (d *Decimal) UnmarshalJSON(data []byte) error {
	if len(data) == 0 || data[0] != '"' {
		x, err := parseNumber(string(data))
		if err != nil {
			return err
		}
		*d = Decimal(x)
		return nil
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	return d.UnmarshalText([]byte(text))
}

// parseUint reads an unsigned integer of at most 256 bits: decimal digits without
// leading zeros, or 0x and up to 64 hex digits.
func parseUint(text string) (uint256.Int, error) {
	if digits, ok := strings.CutPrefix(text, "0x"); ok {
		return parseHexUint(digits)
	}
	if !plainDigits(text) {
		return uint256.Int{}, errNotInteger
	}
	var x uint256.Int
	if err := x.SetFromDecimal(text); err != nil {
		return uint256.Int{}, errTooLarge
	}
	return x, nil
}

func parseHexUint(digits string) (uint256.Int, error) {
	if digits == "" {
		return uint256.Int{}, errNotInteger
	}
	if len(digits) > 64 {
		return uint256.Int{}, errTooLarge
	}
	b, err := hex.DecodeString(strings.Repeat("0", 64-len(digits)) + digits)
	if err != nil {
		return uint256.Int{}, errNotInteger
	}
	return *new(uint256.Int).SetBytes32(b), nil
}

// parseNumber reads a JSON number. A fraction or an exponent is an error even where its
// value is whole: software that writes those has likely rounded.
func parseNumber(literal string) (uint256.Int, error) {
	if !plainDigits(literal) {
		return uint256.Int{}, errNotExact
	}
	return parseUint(literal)
}

func plainDigits(text string) bool {
	if text == "" || len(text) > 1 && text[0] == '0' {
		return false
	}
	for _, c := range []byte(text) {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}
