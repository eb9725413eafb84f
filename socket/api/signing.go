package api

import (
	"encoding/hex"
	"errors"
	"strings"

	"github.com/keyward/keyward/policy"
)

// Bytes is bytes whose JSON form is 0x-hex, lower case.
type Bytes []byte

// String gives the 0x-hex form.
func (b Bytes) String() string { return "0x" + hex.EncodeToString(b) }

// MarshalText gives the 0x-hex form.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText reads the 0x-hex form.
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(string(text), "0x")
	if !ok {
		return errors.New("want 0x-hex")
	}
	decoded, err := hex.DecodeString(digits)
	if err != nil {
		return err
	}
	*b = decoded
	return nil
}

// SignedTransaction is the result of session_signTransaction: all that a client needs to send it.
type SignedTransaction struct {
	Raw             Bytes       `json:"raw"`  // what eth_sendRawTransaction takes
	Hash            policy.Hash `json:"hash"` // on chain
	Signature       Bytes       `json:"signature"`
	CustomSignature Bytes       `json:"customSignature,omitempty"` // agw: what Raw has in the signature's place
	Digest          policy.Hash `json:"digest"`
	Session         string      `json:"session"`
	SessionHash     policy.Hash `json:"sessionHash"`
	PeriodIDs       []uint64    `json:"periodIds,omitempty"` // agw: those in CustomSignature
}

// Verdict is the result of session_simulate.
type Verdict struct {
	Allow     bool        `json:"allow"`
	Reason    string      `json:"reason,omitempty"`  // the denial's stable word
	Message   string      `json:"message,omitempty"` // the denial in words, the chain's own first
	Denial    *Denial     `json:"denial,omitempty"`
	Charges   []Charge    `json:"charges"` // what signing would count now
	PeriodIDs []uint64    `json:"periodIds,omitempty"`
	Digest    policy.Hash `json:"digest"`
	Session   string      `json:"session"`
}

// Charge is one amount that a transaction counts against one limit.
type Charge struct {
	Tracker policy.Tracker `json:"tracker"`
	Limit   policy.Decimal `json:"limit"`
	Amount  policy.Decimal `json:"amount"`
}
