package cardsim

import (
	"bytes"
	"context"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// echo is an applet that answers with the command's data, repeated P1 times, and
// with the status word 9000. INS 01 waits for a touch, INS 20 is a VERIFY that sets verified.
type echo struct {
	aid      []byte
	selects  int
	verified bool
	last     Command
}

func (e *echo) AID() []byte { return e.aid }

func (e *echo) Select() ([]byte, uint16) {
	e.selects++
	return []byte("echo"), SWOK
}

func (e *echo) Process(cmd *Command) ([]byte, uint16) {
	e.last = *cmd
	switch {
	case cmd.INS == insVerify:
		e.verified = true
	case cmd.INS == 0x01 && !cmd.WaitTouch():
		return nil, SWNotSatisfied
	}
	return bytes.Repeat(cmd.Data, int(cmd.P1)), SWOK
}

func (e *echo) Reset() { e.verified = false }

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newEcho(t *testing.T) (*Card, *echo) {
	app := &echo{aid: unhex(t, "f000000001 0203")}
	card := NewCard(app, &echo{aid: unhex(t, "f000000002")})
	want(t, card, "00a40400 05 f000000001", "6563686f 9000")
	return card, app
}

// want sends an APDU and compares the answer; both are in hex.
func want(t *testing.T, card *Card, apdu, answer string) {
	t.Helper()
	got, _ := card.Transmit(t.Context(), unhex(t, apdu))
	if diff := cmp.Diff(hex.EncodeToString(unhex(t, answer)), hex.EncodeToString(got)); diff != "" {
		t.Fatalf("answer to %s (-want +got):\n%s", apdu, diff)
	}
}

func TestParseCommand(t *testing.T) {
	long := strings.Repeat("ab", 300)
	for _, tc := range []struct {
		name, apdu string
		data       string
		le         int
	}{
		{"case 1", "00010000", "", 0},
		{"case 2 short", "0001000010", "", 16},
		{"case 2 short, all", "0001000000", "", 256},
		{"case 3 short", "00010000 02 abcd", "abcd", 0},
		{"case 4 short", "00010000 02 abcd 00", "abcd", 256},
		{"case 2 extended", "00010000 00 0100", "", 256},
		{"case 2 extended, all", "00010000 00 0000", "", 65536},
		{"case 3 extended", "00010000 00 012c" + long, long, 0},
		{"case 4 extended", "00010000 00 012c" + long + "0000", long, 65536},
		{"case 4 extended, short data", "00010000 00 0001 ab 0002", "ab", 2},
	} {
		cmd, err := parseCommand(unhex(t, tc.apdu))
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
		} else if hex.EncodeToString(cmd.Data) != tc.data || cmd.Le != tc.le {
			t.Errorf("%s: data %x, Le %d; want %s, %d", tc.name, cmd.Data, cmd.Le, tc.data, tc.le)
		}
	}
	for _, bad := range []string{"", "000100", "00010000 03 abcd", "00010000 02 abcd 0000", "00010000 00 0003 abcd",
		"00010000 00 0001 ab 00"} {
		if cmd, err := parseCommand(unhex(t, bad)); err == nil {
			t.Errorf("parseCommand(%s) = %+v, want an error", bad, cmd)
		}
	}
}

func TestSelect(t *testing.T) {
	card, app := newEcho(t)
	want(t, card, "0020000001 31", "9000")
	want(t, card, "00a40400 07 f0000000010203", "6563686f 9000")
	if !app.verified || app.selects != 2 {
		t.Errorf("after the same applet was selected again: verified %v, selects %d", app.verified, app.selects)
	}
	for _, unknown := range []string{"04 f0000000", "05 f000000003", "08 f000000001020304"} {
		want(t, card, "00a40400"+unknown, "6a82")
	}
	want(t, card, "00020100 01 05", "05 9000") // the applet before is still selected
}

func TestPowerAndOtherAppletClearTheSecurityStatus(t *testing.T) {
	card, app := newEcho(t)
	want(t, card, "0020000001 31", "9000")
	want(t, card, "00a40400 05 f000000002", "6563686f 9000")
	if app.verified {
		t.Error("another applet was selected, and the PIN is still verified")
	}
	want(t, card, "00a40400 05 f000000001", "6563686f 9000")
	for _, control := range []byte{vpcdOff, vpcdOn, vpcdReset} {
		app.verified = true
		serve(t.Context(), card, []byte{control})
		if app.verified {
			t.Errorf("control %d: the PIN is still verified", control)
		}
	}
	want(t, card, "00020000", "6d00") // nothing is selected
	if answer, _ := serve(t.Context(), card, []byte{vpcdATR}); !bytes.Equal(answer, YubiKeyATR) {
		t.Errorf("ATR %x", answer)
	}
}

func TestChaining(t *testing.T) {
	card, app := newEcho(t)
	want(t, card, "10020100 02 0102", "9000")
	want(t, card, "10020100 02 0304", "9000")
	want(t, card, "00020100 01 05", "0102030405 9000")
	if app.last.CLA != 0 {
		t.Errorf("CLA %02x reached the applet", app.last.CLA)
	}
	want(t, card, "10020100 02 0102", "9000")
	want(t, card, "00030100 01 05", "05 9000") // another command: the chain is forgotten
	want(t, card, "00020100 01 06", "06 9000")
	block := "10020100 00 0800" + strings.Repeat("00", 2048)
	want(t, card, block, "9000")
	want(t, card, block, "9000")
	want(t, card, "00020100 01 05", "6700")
}

func TestGetResponse(t *testing.T) {
	card, _ := newEcho(t)
	hundred := strings.Repeat("ab", 100)
	want(t, card, "00020600 64"+hundred, strings.Repeat("ab", 256)+"6100")
	want(t, card, "00c0000000", strings.Repeat("ab", 256)+"6158")
	want(t, card, "00c0000008", strings.Repeat("ab", 8)+"6150")
	want(t, card, "00c0000050", strings.Repeat("ab", 80)+"9000")
	want(t, card, "00c0000000", "6985")
	want(t, card, "00020600 000064"+hundred+"0000", strings.Repeat(hundred, 6)+"9000")
	want(t, card, "00020600 64"+hundred, strings.Repeat("ab", 256)+"6100")
	want(t, card, "00020100 01 05", "05 9000") // another command: the rest is forgotten
	want(t, card, "00c0000000", "6985")
}

func TestFaults(t *testing.T) {
	card, app := newEcho(t)
	card.Fail(Fault{INS: 0x02, Do: Status, SW: 0x6f00, Skip: 1, Times: 2})
	card.Fail(Fault{INS: 0x02, Do: Short})
	card.Fail(Fault{INS: 0x02, Do: NoStatus})
	want(t, card, "00030100 01 05", "05 9000")
	want(t, card, "00020100 01 05", "05 9000")
	want(t, card, "00020100 01 06", "6f00")
	want(t, card, "00020100 01 06", "6f00")
	if app.last.Data[0] != 5 {
		t.Error("a command with a Status fault ran")
	}
	want(t, card, "00020100 04 01020304", "0102 9000")
	want(t, card, "00020100 01 07", "90")
	if app.last.Data[0] != 7 {
		t.Error("a command with a NoStatus fault did not run")
	}
	want(t, card, "00020100 01 05", "05 9000")

	card.Fail(Fault{INS: 0x02, Do: Lie})
	want(t, card, "00020100 01 05", "05 9000")
	card.Fail(Fault{
		INS: 0x02, Do: Lie, Ask: func(cmd *Command) { cmd.P1, cmd.Data[0] = 2, 6 },
		Answer: func(data []byte) []byte { return append(data, 7) },
	})
	want(t, card, "00020100 01 05", "060607 9000")
	want(t, card, "00020100 01 05", "05 9000")

	card.Fail(Fault{INS: 0x02, Do: Garbage})
	apdu := unhex(t, "00020100 20"+strings.Repeat("00", 32))
	if got, _ := card.Transmit(t.Context(), apdu); len(got) != 34 || bytes.Contains(got, make([]byte, 32)) {
		t.Errorf("garbage: %x", got)
	}

	card.Fail(Fault{INS: 0x02, Do: Endless})
	more := strings.Repeat("00", 16) + "6110"
	want(t, card, "00020100 01 05", more)
	for range 100 {
		want(t, card, "00c0000000", more)
	}
	want(t, card, "00020100 01 05", "05 9000")
	want(t, card, "00c0000000", "6985")
}

func TestUnplugFaults(t *testing.T) {
	for _, tc := range []struct {
		kind FaultKind
		ran  bool
		want string
	}{{UnplugBefore, false, ""}, {UnplugDuring, true, ""}, {UnplugAfter, true, "059000"}} {
		card, app := newEcho(t)
		card.Fail(Fault{INS: 0x02, Do: tc.kind})
		got, unplug := card.Transmit(t.Context(), unhex(t, "00020100 01 05"))
		if hex.EncodeToString(got) != tc.want || !unplug || (app.last.INS == 2) != tc.ran {
			t.Errorf("kind %d: answer %x, unplug %v, ran %v", tc.kind, got, unplug, app.last.INS == 2)
		}
	}
}

func TestHang(t *testing.T) {
	card, _ := newEcho(t)
	card.Fail(Fault{INS: 0x02, Do: Hang, Times: 2})
	apdu := unhex(t, "00020100 01 05")
	answers := make(chan []byte)
	go func() {
		got, _ := card.Transmit(t.Context(), apdu)
		answers <- got
	}()
	for card.Count(0x02) == 0 {
		time.Sleep(time.Millisecond)
	}
	for answered := false; !answered; { // it hangs only a moment after it was counted
		card.Release()
		select {
		case got := <-answers:
			answered = true
			if hex.EncodeToString(got) != "059000" {
				t.Errorf("released: %x", got)
			}
		case <-time.After(time.Millisecond):
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, unplug := card.Transmit(ctx, apdu); got != nil || unplug {
		t.Errorf("without power: %x, unplug %v", got, unplug)
	}
}

func TestTouch(t *testing.T) {
	card, _ := newEcho(t)
	if card.Touch() {
		t.Error("a touch that nothing waited for was taken")
	}
	blinks := make(chan error)
	go func() {
		err := card.AwaitBlink(t.Context())
		if err == nil && !card.Touch() {
			t.Error("the card blinks, and the touch was not taken")
		}
		blinks <- err
	}()
	want(t, card, "00010100 01 05", "05 9000")
	if err := <-blinks; err != nil {
		t.Error(err)
	}
	card.SetTouchTimeout(time.Millisecond)
	want(t, card, "00010100 01 05", "6982")
	card.AutoTouch(true)
	want(t, card, "00010100 01 05", "05 9000")
	card.AutoTouch(false)
	card.SetTouchTimeout(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, _ := card.Transmit(ctx, unhex(t, "00010100 01 05")); got != nil {
		t.Errorf("without power: %x", got)
	}
}

func TestLogHasNoData(t *testing.T) {
	card, _ := newEcho(t)
	want(t, card, "0020000000", "9000")
	want(t, card, "0020000006 313233343536", "9000")
	card.Fail(Fault{INS: 0x20, Do: Status, SW: 0x63c2})
	want(t, card, "0020000006 313233343537", "63c2")
	tries := card.PINTries()
	if len(tries) != 2 || tries[0].SW != SWOK || tries[1].SW != 0x63c2 || tries[1].Lc != 6 {
		t.Errorf("tries: %+v", tries)
	}
	if n := len(card.Log()); n != 4 || card.Count(insVerify) != 3 {
		t.Errorf("%d entries, %d VERIFYs", n, card.Count(insVerify))
	}
}
