package pkcs11

import (
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"
)

// A Token is what a module says of a token, without a login.
type Token struct {
	Slot         string   `json:"slot"` // the slot's description
	Label        string   `json:"label"`
	Serial       string   `json:"serial"`
	Manufacturer string   `json:"manufacturer"`
	Model        string   `json:"model"`
	Flags        []string `json:"flags"` // those of [tokenFlags] that are set
}

// tokenFlags are the flags of a token that an operator has to know (PKCS #11 v2.40, table 6).
var tokenFlags = []struct {
	bit  uint
	name string
}{
	{p11.CKF_TOKEN_INITIALIZED, "initialized"},
	{p11.CKF_LOGIN_REQUIRED, "login required"},
	{p11.CKF_USER_PIN_INITIALIZED, "PIN set"},
	{p11.CKF_WRITE_PROTECTED, "write protected"},
	{p11.CKF_USER_PIN_COUNT_LOW, PINCountLow},
	{p11.CKF_USER_PIN_FINAL_TRY, PINFinalTry},
	{p11.CKF_USER_PIN_LOCKED, PINLocked},
	{p11.CKF_USER_PIN_TO_BE_CHANGED, "PIN to be changed"},
}

// Flags of a [Token] that say how many tries its PIN has left.
const (
	PINCountLow = "PIN tries low"
	PINFinalTry = "last PIN try"
	PINLocked   = "PIN locked"
)

// Tokens lists the initialized tokens of the module at path, with env in its environment. It logs in nowhere. A slot
// that does not answer is left out if another one does. The module must not be in use in this process.
func Tokens(path string, env map[string]string) (tokens []Token, err error) {
	mod, err := acquireModule(path, env)
	if err != nil {
		return nil, err
	}
	defer mod.release()
	if err := mod.initialize(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, mod.finalize()) }()
	slots, err := mod.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing slots: %w", err)
	}
	var silent error
	for _, id := range slots {
		c, err := openSlot(mod, id)
		if err != nil {
			silent = errors.Join(silent, fmt.Errorf("asking slot %d: %w", id, err))
			continue
		}
		if c.info.Flags&p11.CKF_TOKEN_INITIALIZED != 0 {
			tokens = append(tokens, c.token())
		}
	}
	if tokens == nil {
		return nil, silent
	}
	return tokens, nil
}

func (c *conn) token() Token {
	t := Token{Slot: c.slot, Label: c.info.Label, Serial: c.info.SerialNumber, Manufacturer: c.info.ManufacturerID,
		Model: c.info.Model, Flags: []string{}}
	for _, f := range tokenFlags {
		if c.info.Flags&f.bit != 0 {
			t.Flags = append(t.Flags, f.name)
		}
	}
	return t
}
