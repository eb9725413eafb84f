package openpgp_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// Instructions that faults are meant for.
const (
	insVerify   = 0x20
	insPSO      = 0x2A
	insGenerate = 0x47
	insAuth     = 0x88
	insSelect   = 0xA4
	insGet      = 0xCA
	insPut      = 0xDA
)

// patience bounds waits; it is no measure.
const patience = 20 * time.Second

// recovers waits until k signs again, and holds that to a second from now, when the card is back. Errors
// meanwhile have to be retryable ones, and no handle is left afterwards. A busy machine is given the time of ten
// signatures more.
func recovers(t *testing.T, reader int, k backends.Key) {
	t.Helper()
	began := time.Now()
	for ; ; time.Sleep(5 * time.Millisecond) {
		_, err := k.SignDigest(t.Context(), [32]byte{1})
		if err == nil {
			break
		}
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Fatalf("while recovering: %v", err)
		}
		if time.Since(began) > patience {
			t.Fatalf("still failing after %v: %v", patience, err)
		}
	}
	took := time.Since(began)
	began = time.Now()
	backendtest.Verify(t, k, [32]byte{2})
	if most := time.Second + 10*time.Since(began); took > most {
		t.Errorf("it recovered after %v, want %v at most", took, most)
	}
	isFree(t, reader)
}

// isFree has another program open the card exclusively, as scdaemon does.
func isFree(t *testing.T, reader int) {
	t.Helper()
	pcscd.AwaitFree(t, reader)
	hold(t, reader)()
}

// hold opens the card as another program would.
func hold(t *testing.T, reader int) (release func()) {
	t.Helper()
	c, err := pcsc.Dial()
	if err != nil {
		t.Fatal(err)
	}
	card, err := c.Open(fmt.Sprintf("%s 00 %02d", cardsim.ReaderName, reader))
	if err != nil {
		t.Fatalf("another program opens the card: %v", errors.Join(err, c.Close()))
	}
	return func() {
		if err := errors.Join(card.Close(), c.Close()); err != nil {
			t.Error(err)
		}
	}
}

// signer is a backend with one key, in the slot of that name.
func signer(t *testing.T, c card, slot string) (*openpgp.Backend, backends.Key) {
	t.Helper()
	cfg := config()
	cfg.Slots = []string{slot}
	b := open(t, cfg)
	return b, backendtest.Generate(t, b, "keyward-x")
}

// wantUnavailable wants an error that may be over the next time, and that says so.
func wantUnavailable(t *testing.T, what string, err error, says string) {
	t.Helper()
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), says) {
		t.Errorf("%s: %v, want ErrUnavailable that says %q", what, err, says)
	}
}

func TestUnplugged(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	tests := []struct {
		name   string
		fault  *cardsim.Fault
		signed bool // a signature was made and returned
		tries  int  // of the PIN
	}{
		{"before", nil, false, 0},
		{"before SELECT", &cardsim.Fault{INS: insSelect, Do: cardsim.UnplugBefore}, false, 0},
		{"while reading", &cardsim.Fault{INS: insGet, Do: cardsim.UnplugDuring}, false, 0},
		{"before VERIFY", &cardsim.Fault{INS: insVerify, Do: cardsim.UnplugBefore}, false, 1},
		{"during VERIFY", &cardsim.Fault{INS: insVerify, Do: cardsim.UnplugDuring}, false, 1},
		{"after VERIFY", &cardsim.Fault{INS: insVerify, Do: cardsim.UnplugAfter}, false, 1},
		{"before signing", &cardsim.Fault{INS: insPSO, Do: cardsim.UnplugBefore}, false, 1},
		{"during signing", &cardsim.Fault{INS: insPSO, Do: cardsim.UnplugDuring}, false, 1},
		{"after signing", &cardsim.Fault{INS: insPSO, Do: cardsim.UnplugAfter}, true, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := len(c.PINTries())
			if tt.fault == nil {
				unplug(t, 0)
			} else {
				c.Fail(*tt.fault)
			}
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); tt.signed {
				if err != nil {
					t.Errorf("SignDigest = %v", err)
				}
			} else {
				wantUnavailable(t, "SignDigest", err, "")
			}
			if n := len(c.PINTries()) - before; n != tt.tries {
				t.Errorf("the PIN was tried %d times, want %d", n, tt.tries)
			}
			pcscd.AwaitEmpty(t, 0)
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			wantUnavailable(t, "SignDigest without the card", err, "card 12345678 is not plugged in")
			if st := b.Status(t.Context()); st.State != "unavailable" {
				t.Errorf("Status = %+v, want unavailable", st)
			}
			pcscd.Insert(t, 0, c.Card)
			backendtest.Verify(t, k, [32]byte{2}) // at once: nothing has to be noticed first
			isFree(t, 0)
			if user, _ := c.app.Tries(); user != 3 {
				t.Errorf("%d tries are left, want 3", user)
			}
		})
	}
}

// TestReplugged: out and in again before pcscd looks.
func TestReplugged(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	_, k := signer(t, c, "sig")
	for range 3 {
		pcscd.Replug(0, c.Card)
		recovers(t, 0, k)
	}
	if user, _ := c.app.Tries(); user != 3 {
		t.Errorf("%d tries are left, want 3", user)
	}
}

// TestWrongCard: another card is neither used nor troubled, and the right one is found wherever it is.
func TestWrongCard(t *testing.T) {
	c := insert(t, cardsim.OpenPGPConfig{})
	_, k := signer(t, c, "sig")
	unplug(t, 0)
	other := insert(t, cardsim.OpenPGPConfig{Serial: 87654321})
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	wantUnavailable(t, "SignDigest", err, "card 12345678 was not found; there is")
	if !strings.Contains(err.Error(), "87654321") {
		t.Errorf("the error does not name the card that is there: %v", err)
	}
	pcscd.Insert(t, 1, c.Card)
	t.Cleanup(func() { unplug(t, 1) })
	recovers(t, 1, k)
	isFree(t, 0)
	if n := len(other.PINTries()); n != 0 {
		t.Errorf("the other card was shown %d PINs", n)
	}
	n := len(other.Log())
	backendtest.Verify(t, k, [32]byte{3})
	if got := len(other.Log()); got != n {
		t.Errorf("the other card got %d commands, though it was known where ours is", got-n)
	}
}

// TestTwin: a card with the right serial number, but without the key.
func TestTwin(t *testing.T) {
	c := insert(t, cardsim.OpenPGPConfig{})
	_, k := signer(t, c, "sig")
	unplug(t, 0)
	twin := insert(t, cardsim.OpenPGPConfig{})
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest = %v, want ErrKeyNotFound", err)
	}
	signer(t, twin, "sig")
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("SignDigest with another key in the slot = %v, want ErrKeyNotFound", err)
	}
	if tries := twin.PINTries(); len(tries) != 1 || tries[0].P2 != 0x83 { // for generating
		t.Errorf("the twin was shown PINs: %+v", tries)
	}
}

func TestHungCard(t *testing.T) {
	for name, end := range map[string]func(card){
		"it answers in the end": func(c card) { c.Heal() },
		"it is pulled": func(c card) {
			pcscd.Remove(0)
			pcscd.AwaitEmpty(t, 0)
			c.Heal()
			pcscd.Insert(t, 0, c.Card)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := given(t, cardsim.OpenPGPConfig{})
			b, k := signer(t, c, "aut")
			c.Fail(cardsim.Fault{INS: insAuth, Do: cardsim.Hang})
			ctx, giveUp := context.WithCancelCause(t.Context())
			before := c.Count(insAuth)
			go func() {
				for c.Count(insAuth) == before && ctx.Err() == nil { // until the card hangs, however busy the machine is
					time.Sleep(time.Millisecond)
				}
				giveUp(context.DeadlineExceeded)
			}()
			_, err := k.SignDigest(ctx, [32]byte{1})
			wantUnavailable(t, "SignDigest", err, "did not answer in time")
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			defer cancel()
			if _, err := b.Keys(ctx, ""); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("Keys meanwhile = %v, want DeadlineExceeded", err)
			}
			if st := b.Status(t.Context()); st.State != "unavailable" {
				t.Errorf("Status meanwhile = %+v, want unavailable", st)
			}
			end(c)
			recovers(t, 0, k)
		})
	}
}

// TestHungCardDoesNotHoldClose: Close says that it left a card open, and can be called again.
func TestHungCardDoesNotHoldClose(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	cfg := config()
	cfg.Timeout = 300 * time.Millisecond
	b, err := openpgp.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.Fail(cardsim.Fault{INS: insSelect, Do: cardsim.Hang})
	_, err = b.Keys(t.Context(), "")
	wantUnavailable(t, "Keys", err, "did not answer in time")
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "hangs") {
		t.Errorf("Close = %v, want an error that says that the card hangs", err)
	}
	c.Heal()
	pcscd.AwaitFree(t, 0)
	if err := b.Close(); err != nil {
		t.Errorf("second Close = %v", err)
	}
}

// TestNonsense: no answer, however odd, becomes a signature, costs a second try of the PIN, or
// leaves the card open; and it is over when the card is well again.
func TestNonsense(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	for name, kind := range map[string]cardsim.FaultKind{
		"garbage": cardsim.Garbage, "short": cardsim.Short, "no status word": cardsim.NoStatus, "endless": cardsim.Endless,
		"6F00": cardsim.Status, "9000 and nothing": cardsim.Status + 100,
	} {
		for _, ins := range []byte{insSelect, insGet, insGenerate, insVerify, insPSO} {
			t.Run(fmt.Sprintf("%s to %02X", name, ins), func(t *testing.T) {
				fault := cardsim.Fault{INS: ins, Do: kind, SW: cardsim.SWInternal}
				if kind > cardsim.Status+99 {
					fault.Do, fault.SW = cardsim.Status, cardsim.SWOK
				}
				before := len(c.PINTries())
				c.Fail(fault)
				_, err := k.SignDigest(t.Context(), [32]byte{1})
				c.Heal()
				// VERIFY and SELECT have no data to garble.
				if noData := ins == insVerify || ins == insSelect; err == nil &&
					!(noData && (kind == cardsim.Garbage || kind == cardsim.Short || fault.SW == cardsim.SWOK)) {
					t.Error("SignDigest succeeded")
				}
				if n := len(c.PINTries()) - before; n > 1 {
					t.Errorf("the PIN was tried %d times", n)
				}
				recovers(t, 0, k)
				if user, _ := c.app.Tries(); user != 3 {
					t.Errorf("%d tries are left, want 3", user)
				}
			})
		}
	}
	if st := b.Status(t.Context()); st.State != "ready" {
		t.Errorf("Status = %+v", st)
	}
}

func TestInUse(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	release := hold(t, 0)
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	wantUnavailable(t, "SignDigest", err, "in use by another program")
	if !strings.Contains(err.Error(), "scdaemon") || !strings.Contains(err.Error(), "ykman") {
		t.Errorf("the error does not name the usual ones: %v", err)
	}
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "in use") {
		t.Errorf("Status = %+v", st)
	}
	release()
	backendtest.Verify(t, k, [32]byte{2})
	isFree(t, 0)
}

func TestServiceKilled(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	pcscd.Kill()
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	wantUnavailable(t, "SignDigest", err, "pcscd")
	if st := b.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "pcscd") {
		t.Errorf("Status = %+v", st)
	}
	if err := pcscd.Restart(); err != nil {
		t.Fatal(err)
	}
	recovers(t, 0, k)

	// While a command runs.
	c.Fail(cardsim.Fault{INS: insPSO, Do: cardsim.Hang})
	failed := make(chan error, 1)
	go func() {
		_, err := k.SignDigest(t.Context(), [32]byte{1})
		failed <- err
	}()
	for log := c.Log(); log[len(log)-1].INS != insPSO; log = c.Log() {
		time.Sleep(time.Millisecond)
	}
	pcscd.Kill()
	wantUnavailable(t, "SignDigest in flight", <-failed, "")
	c.Heal()
	if err := pcscd.Restart(); err != nil {
		t.Fatal(err)
	}
	recovers(t, 0, k)
}

// TestNothingIsLeaked: each operation gives back its connection to the service, however it ends.
func TestNothingIsLeaked(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	_, k := signer(t, c, "sig")
	files := func() int {
		t.Helper()
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	before := files()
	for range 10 {
		backendtest.Verify(t, k, [32]byte{1})
		for _, ins := range []byte{insSelect, insGet, insVerify, insPSO} {
			c.Fail(cardsim.Fault{INS: ins, Do: cardsim.NoStatus})
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); err == nil {
				t.Error("SignDigest succeeded")
			}
		}
	}
	if n := files() - before; n > 5 { // of what else the process does
		t.Errorf("%d files more are open after 50 operations", n)
	}
}
