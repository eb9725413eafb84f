package pkcs11

import (
	"cmp"
	"fmt"
	"strings"

	p11 "github.com/miekg/pkcs11"
)

// findToken looks for the one token with that label and that serial, "" being any.
func findToken(mod *module, label, serial string) (*conn, error) {
	slots, err := mod.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing slots: %w", err)
	}
	var found []*conn
	var silent error // of the first slot that does not answer
	for _, id := range slots {
		info, err := tokenInfo(mod, id)
		switch {
		case err != nil:
			silent = cmp.Or(silent, fmt.Errorf("asking slot %d: %w", id, err))
		case info.Flags&p11.CKF_TOKEN_INITIALIZED == 0:
		case (label == "" || info.Label == label) && (serial == "" || info.SerialNumber == serial):
			found = append(found, &conn{mod: mod, slotID: id, info: info, keys: newIndex()})
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if silent != nil {
			return nil, fmt.Errorf("no token %s is present; connect it (%w)", wanted(label, serial), silent)
		}
		return nil, fmt.Errorf("no token %s is present; connect it", wanted(label, serial))
	}
	return nil, fmt.Errorf("%w %s: add the serial of one of %s to the configuration", errTokenAmbiguous, wanted(label, serial), serials(found))
}

// tokenInfo is C_GetTokenInfo. Some tokens pad with zero bytes, not with spaces.
func tokenInfo(mod *module, slotID uint) (p11.TokenInfo, error) {
	info, err := mod.GetTokenInfo(slotID)
	for _, s := range []*string{&info.Label, &info.SerialNumber, &info.ManufacturerID, &info.Model} {
		*s = strings.TrimRight(*s, " \x00")
	}
	return info, err
}

// present asks the token whether it is there, still the same, and shows private keys on s.
func (c *conn) present(s p11Session) error {
	info, err := tokenInfo(c.mod, c.slotID)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if info.Label != c.info.Label || info.SerialNumber != c.info.SerialNumber {
		return fmt.Errorf("%w: another one, %s, is in its slot", errLost, wanted(info.Label, info.SerialNumber))
	}
	if info.Flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	session, err := c.mod.GetSessionInfo(s)
	if err != nil {
		return fmt.Errorf("%w: %w", errLost, err)
	}
	if session.State != cksRWUserFunctions {
		return fmt.Errorf("%w: it logged us out", errLost)
	}
	return nil
}

// cksRWUserFunctions is CKS_RW_USER_FUNCTIONS, the state of a read-write p11Session of the
// user who is logged in (PKCS #11 v2.40, 3.3).
const cksRWUserFunctions = 3

// describe names the token for people.
func (c *conn) describe() string {
	return fmt.Sprintf("token %q (%s, serial %s)", c.info.Label,
		strings.TrimSpace(c.info.ManufacturerID+" "+c.info.Model), c.info.SerialNumber)
}

func wanted(label, serial string) string {
	switch {
	case serial == "":
		return fmt.Sprintf("with label %q", label)
	case label == "":
		return fmt.Sprintf("with serial %q", serial)
	}
	return fmt.Sprintf("with label %q and serial %q", label, serial)
}

func serials(conns []*conn) string {
	var list []string
	for _, c := range conns {
		list = append(list, fmt.Sprintf("%q", c.info.SerialNumber))
	}
	return strings.Join(list, ", ")
}
