package piv_test

import (
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// TestWrongPIN counts tries exactly.
func TestWrongPIN(t *testing.T) {
	for name, firmware := range map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543,
		"5.2.7, without metadata": {5, 2, 7}} {
		t.Run(name, func(t *testing.T) { testWrongPIN(t, firmware) })
	}
}

func testWrongPIN(t *testing.T, firmware cardsim.Firmware) {
	b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
	keeper := secret.NewKeeper(source("000000"), secret.UntilLock)
	p := b.open(t, keeper)
	mark := b.shown(0)
	for range 3 {
		_, err := p.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		wantErr(t, "Generate", err, backends.ErrPINIncorrect, "2 tries are left", "keyward unlock")
	}
	if st := p.Status(t.Context()); st.State != "locked" {
		t.Errorf("Status = %+v, want locked", st)
	}
	wantErr(t, "Unlock with the configured PIN", p.Unlock(t.Context(), nil), backends.ErrPINIncorrect)
	if n := b.shown(mark); n != 1 {
		t.Errorf("the card was shown %d PINs, want 1", n)
	}
	// An agent that starts again leaves it to the operator.
	again := b.open(t, secret.NewKeeper(source("000000"), 0))
	_, err := again.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	wantErr(t, "Generate", err, backends.ErrLocked, "2 of 3 tries")
	wantErr(t, "Unlock with another wrong one", p.Unlock(t.Context(), []byte("111111")), backends.ErrPINIncorrect,
		"1 try is left")
	if st := p.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "last PIN try is not spent") {
		t.Errorf("Status with one try left = %+v, want locked, and why", st)
	}
	wantErr(t, "Unlock with the last try", p.Unlock(t.Context(), []byte("222222")), backends.ErrPINFinalTry)
	wantErr(t, "Unlock with the last try", p.Unlock(t.Context(), []byte(testPIN)), backends.ErrPINFinalTry)
	if st := b.open(t, secret.NewKeeper(source(testPIN), 0)).Status(t.Context()); st.State != "locked" ||
		!strings.Contains(st.Detail, "with the same PIN") {
		t.Errorf("Status of a new agent = %+v, want locked, and what to do", st)
	}
	if n := b.shown(mark); n != 2 {
		t.Errorf("the card was shown %d PINs, want 2", n)
	}
}

// TestPINsThatAreNotTried: the agent shows no PIN that no card has, or that everybody knows.
func TestPINsThatAreNotTried(t *testing.T) {
	b := newBench(t, plain)
	mark := b.shown(0)
	for pin, says := range map[string]string{"12345": "it has 5 bytes", "123456789": "it has 9 bytes",
		piv.DefaultPIN: "factory's"} {
		configured := b.open(t, secret.NewKeeper(source(pin), secret.UntilLock))
		_, err := configured.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		wantErr(t, "Generate", err, backends.ErrPINIncorrect, says, "not tried")
		given := b.open(t, secret.NewKeeper(nil, secret.UntilLock))
		wantErr(t, "Unlock", given.Unlock(t.Context(), []byte(pin)), backends.ErrPINIncorrect, says, "not tried")
	}
	if n := b.shown(mark); n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}
}

// mistype shows the card a wrong PIN, as another program.
func (b *bench) mistype(t *testing.T, times int) {
	t.Helper()
	c, err := pcsc.Dial()
	must(t, err)
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	_, _, err = card.Do(pcsc.Command{INS: 0xa4, P1: 0x04, Data: []byte{0xa0, 0, 0, 3, 8}})
	must(t, err)
	for range times {
		_, _, err = card.Do(pcsc.Command{INS: insVerify, P2: 0x80, Data: []byte("00000000"), NoLe: true})
		must(t, err)
	}
	must(t, card.Close())
	must(t, c.Close())
}

// TestAnothersMistake: a PIN that the card took goes on, although it is read again for each operation and another
// program has mistyped it meanwhile. An agent that starts then leaves it to the operator.
func TestAnothersMistake(t *testing.T) {
	for name, firmware := range map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543,
		"5.2.7, without metadata": {5, 2, 7}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, key{firmware, piv.PINOnce, piv.TouchNever})
			k := backendtest.Generate(t, b.open(t, secret.NewKeeper(source(testPIN), 0)), "keyward-x")
			b.mistype(t, 1)
			_, err := b.open(t, secret.NewKeeper(source(testPIN), 0)).Generate(t.Context(),
				backends.KeyAttributes{Label: "keyward-y"})
			wantErr(t, "Generate by another agent", err, backends.ErrLocked, "2 of 3 tries")
			backendtest.Verify(t, k, [32]byte{1})
			b.mistype(t, 2)
			_, err = k.SignDigest(t.Context(), [32]byte{1})
			wantErr(t, "SignDigest with one try left", err, backends.ErrPINFinalTry)
		})
	}
}

func TestBlockedPIN(t *testing.T) {
	b := newBench(t, plain)
	b.mistype(t, 3)
	mark := b.shown(0)
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	_, err := p.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	wantErr(t, "Generate", err, backends.ErrLocked, "PUK")
	if st := p.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "PUK") {
		t.Errorf("Status = %+v", st)
	}
	wantErr(t, "Unlock", p.Unlock(t.Context(), []byte(testPIN)), backends.ErrLocked)
	if n := b.shown(mark); n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}
}
