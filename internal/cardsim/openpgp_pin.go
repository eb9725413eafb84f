package cardsim

import (
	"bytes"
	"crypto/subtle"
)

// pin is a PIN and its retry counter.
type pin struct {
	value []byte // nil: none is set, which is so for the resetting code at first
	tries int    // left
	full  int
}

// Tries is what the retry counters of the user PIN and the admin PIN are.
func (o *OpenPGP) Tries() (user, admin int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.pins[pw1Sign].tries, o.pins[pw3].tries
}

// FactoryReset makes the application as it was when the card was new.
func (o *OpenPGP) FactoryReset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.factory()
}

// SetPINs replaces both PINs, as their owner did after buying the card.
func (o *OpenPGP) SetPINs(user, admin string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pins[pw1Sign].set([]byte(user))
	o.pins[pw3].set([]byte(admin))
}

// Verified tells if a PIN is verified now.
func (o *OpenPGP) Verified() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.verified) != 0
}

func (p *pin) set(value []byte) {
	p.value = bytes.Clone(value)
	p.tries = p.full
}

// check compares, and counts.
func (o *OpenPGP) check(p *pin, value []byte) uint16 {
	if p.tries == 0 || p.value == nil {
		return SWBlocked
	}
	if subtle.ConstantTimeCompare(p.value, value) == 1 {
		p.tries = p.full
		return SWOK
	}
	p.tries--
	switch {
	case !o.cfg.Generic:
		return SWNotSatisfied // as YubiKeys do
	case p.tries == 0:
		return SWBlocked
	}
	return SWVerifyFailed | uint16(p.tries)
}

// pinOf is the PIN that P2 names: the user PIN has two modes.
func (o *OpenPGP) pinOf(p2 byte) *pin {
	switch p2 {
	case pw1Sign, pw1Other:
		return o.pins[pw1Sign]
	case pw3:
		return o.pins[pw3]
	}
	return nil
}

// verify is 7.2.2.
func (o *OpenPGP) verify(cmd *Command) uint16 {
	p := o.pinOf(cmd.P2)
	switch {
	case p == nil || cmd.P1 != 0 && cmd.P1 != 0xFF || cmd.P1 == 0xFF && len(cmd.Data) != 0:
		return SWWrongP1P2
	case cmd.P1 == 0xFF:
		delete(o.verified, cmd.P2)
		return SWOK
	case len(cmd.Data) == 0 && o.verified[cmd.P2]:
		return SWOK
	case len(cmd.Data) == 0:
		return SWVerifyFailed | uint16(p.tries)
	}
	delete(o.verified, cmd.P2)
	sw := o.check(p, cmd.Data)
	if sw == SWOK {
		o.verified[cmd.P2] = true
	}
	return sw
}

// change is CHANGE REFERENCE DATA, 7.2.3: the old PIN, and right after it the new one.
func (o *OpenPGP) change(cmd *Command) uint16 {
	p := o.pinOf(cmd.P2)
	if p == nil || cmd.P1 != 0 || cmd.P2 == pw1Other {
		return SWWrongP1P2
	}
	n := len(p.value)
	if len(cmd.Data) < n+shortest(cmd.P2) || len(cmd.Data)-n > openpgpMaxPIN {
		return SWWrongLength
	}
	sw := o.check(p, cmd.Data[:n])
	if sw == SWOK {
		p.set(cmd.Data[n:])
		o.verified = map[byte]bool{}
	}
	return sw
}

// unblock is RESET RETRY COUNTER, 7.2.4: with the resetting code (P1 0) or the admin PIN (P1 2).
func (o *OpenPGP) unblock(cmd *Command) uint16 {
	value := cmd.Data
	switch {
	case cmd.P2 != pw1Sign || cmd.P1 != 0 && cmd.P1 != 2:
		return SWWrongP1P2
	case cmd.P1 == 2 && !o.verified[pw3]:
		return SWNotSatisfied
	case cmd.P1 == 0:
		rc := o.pins[codeRC]
		if len(value) < len(rc.value) {
			return SWWrongLength
		}
		if sw := o.check(rc, value[:len(rc.value)]); sw != SWOK {
			return sw
		}
		value = value[len(rc.value):]
	}
	if len(value) < shortest(pw1Sign) || len(value) > openpgpMaxPIN {
		return SWWrongLength
	}
	o.pins[pw1Sign].set(value)
	return SWOK
}

// shortest is the least length of a PIN: 4.3.
func shortest(p2 byte) int {
	if p2 == pw3 {
		return 8
	}
	return 6
}

// setTries is Yubico's SET PIN RETRIES.
func (o *OpenPGP) setTries(data []byte) uint16 {
	if len(data) != 3 || bytes.IndexByte(data, 0) >= 0 {
		return SWWrongData
	}
	if !o.verified[pw3] {
		return SWNotSatisfied
	}
	for i, p := range []*pin{o.pins[pw1Sign], o.pins[codeRC], o.pins[pw3]} {
		p.full = int(data[i])
		if p.value != nil {
			p.tries = p.full
		}
	}
	return SWOK
}
