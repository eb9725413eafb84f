package openpgp

import (
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common"
)

// uri names a key: openpgp:serial=05555555;slot=sig;signer=0x…
type uri struct {
	serial string         // eight hex digits, upper case, as the card and gpg show it
	slot   *slot          // which of the card's keys
	signer common.Address // of the public key, so that a slot's next key is another
}

func (u uri) String() string {
	return fmt.Sprintf("openpgp:serial=%s;slot=%s;signer=0x%x", u.serial, u.slot.name, u.signer[:])
}

// parseURI reads what String gives, and nothing else.
func parseURI(s string) (uri, error) {
	malformed := fmt.Errorf("key URI %q: want openpgp:serial=SERIAL;slot=sig|aut;signer=0xADDRESS", s)
	rest, ok := strings.CutPrefix(s, "openpgp:serial=")
	serial, rest, ok2 := strings.Cut(rest, ";slot=")
	name, signer, ok3 := strings.Cut(rest, ";signer=0x")
	raw, err := hex.DecodeString(signer)
	if !ok || !ok2 || !ok3 || err != nil || len(raw) != common.AddressLength || slotNamed(name) == nil {
		return uri{}, malformed
	}
	u := uri{serial: serial, slot: slotNamed(name), signer: common.Address(raw)}
	if full, err := parseSerial(serial); err != nil || full != serial || u.String() != s {
		return uri{}, malformed
	}
	return u, nil
}

// parseSerial completes a serial number as it is printed on a YubiKey, or
// shown by gpg --card-status, to eight digits.
func parseSerial(s string) (string, error) {
	if len(s) == 0 || len(s) > 8 {
		return "", fmt.Errorf("serial number %q: want up to 8 digits, as printed on the card or shown by gpg --card-status",
			s)
	}
	full := strings.ToUpper(strings.Repeat("0", 8-len(s)) + s)
	if _, err := hex.DecodeString(full); err != nil {
		return "", fmt.Errorf("serial number %q: want digits, as printed on the card or shown by gpg --card-status", s)
	}
	return full, nil
}
