package piv_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// secretCode is the PIN or the PUK, as Setup sees it.
type secretCode struct {
	name           string
	current, fresh string
	change         func(s *piv.Setup, old, changed []byte) error
	left           func(*piv.Inventory) int
}

var secretCodes = []secretCode{
	{"PIN", piv.DefaultPIN, newPIN, (*piv.Setup).ChangePIN, func(i *piv.Inventory) int { return i.PIN.Left }},
	{"PUK", piv.DefaultPUK, testPUK, (*piv.Setup).ChangePUK, func(i *piv.Inventory) int { return i.PUK.Left }},
}

// TestWrongOldPIN counts the tries that a wrong PIN or PUK costs. The last one is not spent, not even by the
// right one, and a change gives all back.
func TestWrongOldPIN(t *testing.T) {
	for _, code := range secretCodes {
		t.Run(code.name, func(t *testing.T) {
			b := newCard(t, cardsim.Firmware543)
			s := &piv.Setup{Serial: b.serial}
			wantLeft := func(want int) {
				t.Helper()
				if got := code.left(b.inspect(t)); got != want {
					t.Errorf("%d tries are left, want %d", got, want)
				}
			}
			wrong, right, fresh := []byte("000000"), []byte(code.current), []byte(code.fresh)
			wantErr(t, "the first wrong one", code.change(s, wrong, fresh), backends.ErrPINIncorrect, code.name,
				"2 tries are left")
			wantLeft(2)
			must(t, code.change(s, right, fresh))
			wantLeft(3)
			wantErr(t, "the one before", code.change(s, right, []byte("999999")), backends.ErrPINIncorrect, "2 tries are left")
			wantErr(t, "the second wrong one", code.change(s, wrong, []byte("999999")), backends.ErrPINIncorrect,
				"1 try is left")
			wantLeft(1)
			for _, last := range [][]byte{wrong, fresh} {
				wantErr(t, "with the last try", code.change(s, last, []byte("999999")), backends.ErrPINFinalTry,
					"one wrong "+code.name+" more would block it", "ykman piv access change-"+strings.ToLower(code.name)+
						" with the same "+code.name)
			}
			wantLeft(1)
			b.wantClean(t, "wrong ones")
		})
	}
}

// TestWrongPINOfManagementKey: it costs a try, whatever it is for, and nothing changes.
func TestWrongPINOfManagementKey(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	s := &piv.Setup{Serial: b.serial}
	wantErr(t, "ProtectManagementKey", s.ProtectManagementKey(piv.DefaultManagementKey(), []byte("000000")),
		backends.ErrPINIncorrect, "2 tries are left")
	_, err := s.ManagementKey([]byte("000000"))
	wantErr(t, "ManagementKey", err, backends.ErrPINIncorrect, "1 try is left")
	for _, pin := range []string{"000000", piv.DefaultPIN} {
		wantErr(t, "ProtectManagementKey", s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(pin)),
			backends.ErrPINFinalTry)
		_, err = s.ManagementKey([]byte(pin))
		wantErr(t, "ManagementKey", err, backends.ErrPINFinalTry)
	}
	if inv := b.inspect(t); inv.PIN.Left != 1 || !inv.ManagementKey.Default {
		t.Errorf("the card has %+v", inv)
	}
	b.wantClean(t, "wrong PINs")
}

// TestWrongPINWithoutMetadata: the PIN's counter can be read on any firmware.
func TestWrongPINWithoutMetadata(t *testing.T) {
	b := newCard(t, cardsim.Firmware{5, 2, 7})
	s := &piv.Setup{Serial: b.serial}
	for _, left := range []string{"2 tries are left", "1 try is left"} {
		wantErr(t, "ChangePIN", s.ChangePIN([]byte("000000"), []byte(newPIN)), backends.ErrPINIncorrect, left)
	}
	wantErr(t, "ChangePIN", s.ChangePIN([]byte(piv.DefaultPIN), []byte(newPIN)), backends.ErrPINFinalTry)
	if sw := b.askVerified(t); sw != 0x63c1 {
		t.Errorf("the card says %v, want one try", sw)
	}
	wantErr(t, "ChangePUK", s.ChangePUK([]byte("000000"), []byte(testPUK)), backends.ErrPINIncorrect, "2 tries are left")
	must(t, s.ChangePUK([]byte(piv.DefaultPUK), []byte(testPUK)))
}

// TestBlocked: what is blocked is not tried.
func TestBlocked(t *testing.T) {
	for name, firmware := range firmwares {
		t.Run(name, func(t *testing.T) { testBlocked(t, firmware) })
	}
}

func testBlocked(t *testing.T, firmware cardsim.Firmware) {
	b := newCard(t, firmware)
	wrong := []byte("00000000")
	for range 3 {
		b.raw(t, pcsc.Command{INS: insVerify, P2: 0x80, Data: wrong, NoLe: true},
			pcsc.Command{INS: insUnblock, P2: 0x80, Data: append(wrong, wrong...), NoLe: true})
	}
	mark, changes := b.shown(0), b.card.Count(insChange)
	s := &piv.Setup{Serial: b.serial}
	wantErr(t, "CheckTries", s.CheckTries(false), backends.ErrLocked, "the PIN is blocked", "ykman piv access unblock-pin")
	wantErr(t, "ChangePIN", s.ChangePIN([]byte(piv.DefaultPIN), []byte(newPIN)), backends.ErrLocked, "PIN is blocked")
	wantErr(t, "ProtectManagementKey", s.ProtectManagementKey(piv.DefaultManagementKey(), []byte(piv.DefaultPIN)),
		backends.ErrLocked)
	_, err := s.ManagementKey([]byte(piv.DefaultPIN))
	wantErr(t, "ManagementKey", err, backends.ErrLocked)
	if n := b.shown(mark) + b.card.Count(insChange) - changes; n != 0 {
		t.Errorf("a blocked PIN was tried %d times", n)
	}
	want := backends.ErrLocked
	if firmware == (cardsim.Firmware{5, 2, 7}) { // does not tell of the PUK before it is tried
		want = backends.ErrPINIncorrect
		must(t, s.CheckTries(true))
	} else {
		wantErr(t, "CheckTries of the PUK", s.CheckTries(true), want, "the PUK is blocked", "ykman piv access set-retries")
	}
	wantErr(t, "ChangePUK", s.ChangePUK([]byte(piv.DefaultPUK), []byte(testPUK)), want, "PUK", "blocked")
}

// TestBadNewPIN: the card is not asked.
func TestBadNewPIN(t *testing.T) {
	b := newCard(t, cardsim.Firmware543)
	s := &piv.Setup{Serial: b.serial}
	for _, code := range secretCodes {
		for _, bad := range []string{"", "12345", "123456789", piv.DefaultPIN, piv.DefaultPUK, "12345\xff",
			"\xff\xff\xff\xff\xff\xff"} {
			if err := code.change(s, []byte(code.current), []byte(bad)); err == nil {
				t.Errorf("the new %s %q is taken", code.name, bad)
			}
		}
		for _, bad := range []string{"", "123456789"} {
			if err := code.change(s, []byte(bad), []byte(code.fresh)); err == nil {
				t.Errorf("the old %s %q is taken", code.name, bad)
			}
		}
	}
	if n := b.card.Count(insChange); n != 0 {
		t.Errorf("the card was asked %d times", n)
	}
	for _, pin := range [][]byte{nil, bytes.Repeat([]byte{'1'}, 9)} {
		wantErr(t, "ProtectManagementKey", s.ProtectManagementKey(piv.DefaultManagementKey(), pin), backends.ErrPINIncorrect)
	}
	if inv := b.inspect(t); inv.PIN.Left != 3 || inv.PUK.Left != 3 {
		t.Errorf("tries were spent: %+v", inv)
	}
}
