package cardsim

import (
	"bytes"
	"testing"
)

// What parses is within the input, and encodes to something that parses to the same.
func FuzzTLV(f *testing.F) {
	f.Add([]byte{0x5c, 3, 0x5f, 0xc1, 0x05})
	f.Add([]byte{0x7f, 0x49, 0x81, 0x80})
	f.Add([]byte{0x53, 0x82, 0, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := parseTLVs(b)
		if err != nil {
			return
		}
		var again []byte
		for _, o := range all {
			if len(o.Value) > 0xffff {
				return // appendTLV does not write such objects
			}
			again = appendTLV(again, o.Tag, o.Value)
		}
		parsed, err := parseTLVs(again)
		if err != nil || len(parsed) != len(all) {
			t.Fatalf("%x became %x: %d objects, %v", b, again, len(parsed), err)
		}
		for i, o := range parsed {
			if o.Tag != all[i].Tag || !bytes.Equal(o.Value, all[i].Value) {
				t.Fatalf("object %d of %x: %x, was %x", i, b, o, all[i])
			}
		}
	})
}

// No bytes that a program can send upset the card.
func FuzzTransmit(f *testing.F) {
	f.Add([]byte{0, 0xcb, 0x3f, 0xff, 3, 0x5c, 1, 0x7e, 0})
	f.Add([]byte{0, 0x87, 0x03, 0x9b, 4, 0x7c, 2, 0x80, 0})
	f.Add([]byte{0, 0x47, 0, 0x9d, 5, 0xac, 3, 0x80, 1, 0x11})
	f.Add([]byte{0x10, 0xfe, 0x11, 0x9d, 0, 0, 1, 6})
	card := NewYubiKey(Firmware571, 1)
	card.SetTouchTimeout(1)
	card.applets[0].(*PIV).admin = true
	f.Fuzz(func(t *testing.T, apdu []byte) {
		card.Transmit(t.Context(), []byte("\x00\xa4\x04\x00\x05\xa0\x00\x00\x03\x08"))
		if cmd, err := parseCommand(apdu); err == nil && (cmd.INS == insGenerate || cmd.INS == insAttest) {
			return // slow
		}
		card.applets[0].(*PIV).admin = true
		if answer, unplug := card.Transmit(t.Context(), apdu); len(answer) < 2 || unplug {
			t.Fatalf("answer %x, unplug %v", answer, unplug)
		}
	})
}
