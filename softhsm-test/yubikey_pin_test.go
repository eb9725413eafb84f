package softhsmtest

import (
	"bytes"
	"testing"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// TestYubiKeySetupBlocked: a PIN that is blocked is found before anybody is asked for it.
func TestYubiKeySetupBlocked(t *testing.T) {
	for name, firmware := range map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543, "5.2.7": {5, 2, 7}} {
		t.Run(name, func(t *testing.T) {
			b := newYubiKeyBench(t, firmware)
			b.block(0x20, bytes.Repeat([]byte("9"), 8))
			b.refusesUnplanned([]string{"error: YubiKey 4711: device locked: the PIN is blocked: unblock it with the PUK: " +
				"ykman piv access unblock-pin"})
		})
	}
	t.Run("the PUK", func(t *testing.T) {
		b := newYubiKeyBench(t, cardsim.Firmware543)
		b.block(0x2c, bytes.Repeat([]byte("9"), 16))
		b.refusesUnplanned([]string{"the PUK is blocked: ykman piv access set-retries 3 3"})
		if inv := b.inventory(); !inv.PIN.Default {
			t.Error("the PIN was changed")
		}
	})
}

// block spends the tries of the PIN or the PUK.
func (b *yubiKeyBench) block(ins byte, wrong []byte) {
	b.t.Helper()
	c, err := pcsc.Dial()
	b.must(err)
	defer c.Close()
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	b.must(err)
	defer card.Close()
	for _, cmd := range []pcsc.Command{
		{INS: 0xa4, P1: 0x04, Data: []byte{0xa0, 0, 0, 3, 8}},
		{INS: ins, P2: 0x80, Data: wrong, NoLe: true}, {INS: ins, P2: 0x80, Data: wrong, NoLe: true},
		{INS: ins, P2: 0x80, Data: wrong, NoLe: true},
	} {
		_, _, err := card.Do(cmd)
		b.must(err)
	}
}
