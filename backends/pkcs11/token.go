package pkcs11

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	p11 "github.com/miekg/pkcs11"
)

// findToken looks for the one token that is meant.
func findToken(mod *module, want choice) (*conn, error) {
	slots, err := mod.GetSlotList(true)
	if err != nil {
		return nil, fmt.Errorf("listing slots: %w", err)
	}
	var found, others []*conn
	var silent error // of the first slot that does not answer
	for _, id := range slots {
		c, err := openSlot(mod, id)
		switch {
		case err != nil:
			silent = cmp.Or(silent, fmt.Errorf("asking slot %d: %w", id, err))
		case c.info.Flags&p11.CKF_TOKEN_INITIALIZED == 0:
		case want.matches(c):
			found = append(found, c)
		default:
			others = append(others, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		if silent != nil {
			return nil, fmt.Errorf("no token %s is present; connect it%s (%w)", want, present(others), silent)
		}
		return nil, fmt.Errorf("no token %s is present; connect it%s", want, present(others))
	}
	return nil, fmt.Errorf("%w %s: add the serial of one of %s to the configuration, or its slot: %s", errTokenAmbiguous,
		want, serials(found), slotNames(found))
}

// openSlot asks a slot and its token what they are.
func openSlot(mod *module, id uint) (*conn, error) {
	info, err := tokenInfo(mod, id)
	if err != nil {
		return nil, err
	}
	slot, err := mod.GetSlotInfo(id)
	if err != nil {
		return nil, err
	}
	return &conn{mod: mod, slotID: id, slot: strings.TrimRight(slot.SlotDescription, " \x00"), info: info,
		keys: newIndex()}, nil
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
		return fmt.Errorf("%w: another one, %s, is in its slot", errLost,
			choice{label: info.Label, serial: info.SerialNumber})
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

// describe names the token for people, on one line whatever bytes it has.
func (c *conn) describe() string {
	return fmt.Sprintf("token %q (%s, serial %s)", c.info.Label,
		printable(strings.TrimSpace(c.info.ManufacturerID+" "+c.info.Model)), printable(c.info.SerialNumber))
}

// printable quotes what would do more than be seen on a terminal.
func printable(s string) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// choice says which token is meant. Empty fields mean any.
type choice struct {
	label, serial string
	slot          string // the slot's description; AnySlot: any
}

// AnySlot is the [Config.Slot] of a module that has one token alone.
const AnySlot = "*"

// matches reports whether a token is meant.
func (w choice) matches(c *conn) bool {
	return (w.label == "" || c.info.Label == w.label) && (w.serial == "" || c.info.SerialNumber == w.serial) &&
		(w.slot == "" || w.slot == AnySlot || c.slot == w.slot)
}

func (w choice) String() string {
	var parts []string
	for _, part := range []struct{ name, value string }{{"label", w.label}, {"serial", w.serial}, {"slot", w.slot}} {
		if part.value != "" {
			parts = append(parts, fmt.Sprintf("%s %q", part.name, part.value))
		}
	}
	return "with " + strings.Join(parts, " and ")
}

// present says which other tokens there are, one of which may be the one that was meant.
func present(others []*conn) string {
	const few = 5
	var list []string
	for _, c := range others[:min(few, len(others))] {
		list = append(list, choice{label: c.info.Label, serial: c.info.SerialNumber}.String())
	}
	switch more := len(others) - len(list); {
	case len(others) == 0:
		return ""
	case more > 0:
		list = append(list, fmt.Sprintf("%d more", more))
	}
	return ", or correct token, serial or slot in config.toml: the module has one " + strings.Join(list, ", one ")
}

func serials(conns []*conn) string {
	var list []string
	for _, c := range conns {
		list = append(list, fmt.Sprintf("%q", c.info.SerialNumber))
	}
	return strings.Join(list, ", ")
}

func slotNames(conns []*conn) string {
	var list []string
	for _, c := range conns {
		list = append(list, fmt.Sprintf("%q", c.slot))
	}
	return strings.Join(list, ", ")
}
