package piv_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/syncbuf"
)

const (
	insVerify       = 0x20
	insAuthenticate = 0x87
)

// askVerified asks, as another program, whether the PIN is verified: the status word says.
func (b *bench) askVerified(t *testing.T) pcsc.Status {
	t.Helper()
	c, err := pcsc.Dial()
	must(t, err)
	defer c.Close()
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	defer card.Close()
	_, _, err = card.Do(pcsc.Command{INS: 0xa4, P1: 0x04, Data: []byte{0xa0, 0, 0, 3, 8}})
	must(t, err)
	_, sw, err := card.Do(pcsc.Command{INS: insVerify, P2: 0x80, NoLe: true})
	must(t, err)
	return sw
}

// recovers waits until k signs again, and holds that to a second from now, when the card is back. Errors
// meanwhile have to be retryable ones. A busy machine is given the time of ten signatures more.
func recovers(t *testing.T, k backends.Key) {
	t.Helper()
	began := time.Now()
	for {
		_, err := k.SignDigest(t.Context(), [32]byte{7})
		if err == nil {
			break
		}
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Fatalf("while recovering: %v", err)
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("it does not recover: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	took := time.Since(began)
	began = time.Now()
	_, err := k.SignDigest(t.Context(), [32]byte{8})
	must(t, err)
	if most := time.Second + 10*time.Since(began); took > most {
		t.Errorf("it recovered after %v, want %v at most", took, most)
	}
}

// TestFaults makes the card misbehave at each command that a signature takes: the error is
// retryable, nothing is left held, no PIN is shown more than once, and the next
// signature works.
func TestFaults(t *testing.T) {
	b := newBench(t, plain)
	keeper := secret.NewKeeper(source(testPIN), 0)
	p := b.open(t, keeper)
	k := backendtest.Generate(t, p, "keyward-x")
	const insSelect, insVersion, insSerial, insMetadata = 0xa4, 0xfd, 0xf8, 0xf7
	for _, ins := range []byte{insSelect, insVersion, insSerial, insMetadata, insVerify, insAuthenticate} {
		for name, fault := range map[string]cardsim.FaultKind{
			"garbage": cardsim.Garbage, "short": cardsim.Short, "no status": cardsim.NoStatus,
			"endless": cardsim.Endless, "status": cardsim.Status,
			"unplugged before": cardsim.UnplugBefore, "unplugged during": cardsim.UnplugDuring,
			"unplugged after": cardsim.UnplugAfter,
		} {
			if (fault == cardsim.Garbage || fault == cardsim.Short) && (ins == insSelect || ins == insVerify) ||
				fault == cardsim.Garbage && ins == insVersion {
				continue // these answers are a status word only, or any will do
			}
			mark := b.shown(0)
			b.card.Fail(cardsim.Fault{INS: ins, Do: fault, SW: 0x6f00})
			_, err := k.SignDigest(t.Context(), [32]byte{7})
			// Removed after the last command that matters, or an endless answer to a PIN that was right.
			if fault != cardsim.UnplugAfter || err != nil {
				wantErr(t, name, err, backends.ErrUnavailable, "YubiKey 12345678")
			}
			if n := b.shown(mark); n > 1 {
				t.Errorf("%s at %02x: the card was shown %d PINs", name, ins, n)
			}
			b.card.Heal()
			switch fault {
			case cardsim.UnplugBefore, cardsim.UnplugDuring, cardsim.UnplugAfter:
				b.AwaitEmpty(t, 0)
				b.Insert(t, 0, b.card)
			}
			recovers(t, k)
			b.AwaitFree(t, 0)
		}
	}
}

// TestUnplugged: the card is away between operations, and another one is in its place.
func TestUnplugged(t *testing.T) {
	b := newBench(t, plain)
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	k := backendtest.Generate(t, p, "keyward-x")
	b.Remove(0)
	_, err := k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrUnavailable)
	b.AwaitEmpty(t, 0)
	_, err = k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrUnavailable, "YubiKey 12345678", "not plugged in")
	if st := p.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, "not plugged in") {
		t.Errorf("Status = %+v", st)
	}
	other := cardsim.NewYubiKey(cardsim.Firmware543, 99)
	b.Insert(t, 0, other)
	_, err = k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrUnavailable, "instead there is YubiKey 99")
	if n := len(other.PINTries()); n != 0 {
		t.Errorf("the other card was shown %d PINs", n)
	}
	b.Insert(t, 1, b.card) // into another reader
	recovers(t, k)

	// Out and in again between two polls of pcscd.
	b.Remove(1)
	b.Insert(t, 1, b.card)
	recovers(t, k)
	b.AwaitFree(t, 1)
}

// TestKeyReplaced: the same card, but somebody generated another key in the slot, or emptied it. Before firmware 5.3
// that shows only when the key is used.
func TestKeyReplaced(t *testing.T) {
	old := cardsim.Firmware{5, 2, 7}
	for _, tt := range []struct {
		name   string
		key    key
		lose   func(t *testing.T, b *bench)
		want   string
		status string // "": the card does not tell
	}{
		{"replaced", plain, replaceKey, "slot 9d holds another key", "slot 9d holds another key"},
		{"emptied", key{cardsim.Firmware571, piv.PINOnce, piv.TouchNever}, emptySlot, "slot 9d is empty", "slot 9d is empty"},
		{"5.2.7, replaced", key{old, piv.PINOnce, piv.TouchNever}, replaceKey, "slot 9d holds another key", ""},
		{"5.2.7, replaced, PIN always", key{old, piv.PINAlways, piv.TouchNever}, replaceKey, "slot 9d holds another key", ""},
		{"5.2.7, emptied", key{old, piv.PINOnce, piv.TouchNever}, emptySlot, "slot 9d is empty", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, tt.key)
			p := b.open(t, secret.NewKeeper(source(testPIN), 0))
			k := backendtest.Generate(t, p, "keyward-x")
			tt.lose(t, b)
			mark := b.shown(0)
			_, err := k.SignDigest(t.Context(), [32]byte{7})
			wantErr(t, "SignDigest", err, backends.ErrRefused, tt.want)
			if errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("SignDigest = %v, which is retryable", err)
			}
			if tt.status != "" {
				if n := b.shown(mark); n != 0 {
					t.Errorf("the card was shown %d PINs", n)
				}
				if st := p.Status(t.Context()); st.State != "unavailable" || !strings.Contains(st.Detail, tt.status) {
					t.Errorf("Status = %+v, want it to say %q", st, tt.status)
				}
			}
			// What is sealed is of no more use, and can be deleted.
			must(t, p.Destroy(t.Context(), k.URI()))
			_, err = p.Key(t.Context(), k.URI())
			wantErr(t, "Key after Destroy", err, backends.ErrKeyNotFound)
		})
	}
}

// replaceKey generates another key in the bench's slot.
func replaceKey(t *testing.T, b *bench) {
	t.Helper()
	s := &piv.Setup{Serial: b.serial, Roots: roots()}
	management, err := s.ManagementKey([]byte(testPIN))
	must(t, err)
	_, err = s.Generate(management, 0x9d, piv.PINOnce, piv.TouchNever, true)
	must(t, err)
}

// emptySlot resets the card's PIV application, and gives it the bench's PIN again.
func emptySlot(t *testing.T, b *bench) {
	t.Helper()
	b.card.FactoryReset()
	must(t, (&piv.Setup{Serial: b.serial, Roots: roots()}).ChangePIN([]byte(piv.DefaultPIN), []byte(testPIN)))
}

// TestHeldByAnother: another program has the card open.
func TestHeldByAnother(t *testing.T) {
	b := newBench(t, plain)
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	k := backendtest.Generate(t, p, "keyward-x")
	c, err := pcsc.Dial()
	must(t, err)
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	_, err = k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrUnavailable, "in use by another program", "scdaemon")
	must(t, card.Close())
	must(t, c.Close())
	recovers(t, k)
}

func TestPCSCDKilled(t *testing.T) {
	b := newBench(t, plain)
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	k := backendtest.Generate(t, p, "keyward-x")
	b.Kill()
	_, err := k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrUnavailable, "pcscd")
	must(t, b.Restart())
	recovers(t, k)
	b.AwaitFree(t, 0)
}

// TestHungCard: the child is ended, and the next signature has a new one.
func TestHungCard(t *testing.T) {
	b := newBench(t, plain)
	p := b.isolate(t, secret.NewKeeper(source(testPIN), secret.UntilLock), isolated.Config{Grace: 100 * time.Millisecond})
	k := backendtest.Generate(t, p, "keyward-x")
	for _, ins := range []byte{insVerify, insAuthenticate} {
		mark := b.shown(0)
		b.card.Fail(cardsim.Fault{INS: ins, Do: cardsim.Hang})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err := k.SignDigest(ctx, [32]byte{7})
		cancel()
		wantErr(t, "SignDigest", err, backends.ErrUnavailable)
		if n := b.shown(mark); n > 1 {
			t.Errorf("the card was shown %d PINs", n)
		}
		// pcscd itself waits for a card that hangs; it is pulled and comes back.
		b.Remove(0)
		b.card.Heal()
		b.AwaitEmpty(t, 0)
		b.Insert(t, 0, b.card)
		b.AwaitFree(t, 0)
		recovers(t, k)
	}
}

// TestTouch: while the card blinks, the status and the log say so; not being touched is a
// retryable error that says it.
func TestTouch(t *testing.T) {
	b := newBench(t, key{cardsim.Firmware543, piv.PINOnce, piv.TouchAlways})
	logs := &syncbuf.Buffer{}
	p := b.isolate(t, secret.NewKeeper(source(testPIN), 0),
		isolated.Config{Logger: slog.New(slog.NewTextHandler(logs, nil))})
	b.card.AutoTouch(true)
	k := backendtest.Generate(t, p, "keyward-x")
	b.card.AutoTouch(false)

	signed := make(chan error, 1)
	sign := func() { _, err := k.SignDigest(t.Context(), [32]byte{7}); signed <- err }
	go sign()
	must(t, b.card.AwaitBlink(t.Context()))
	for p.(backends.Waiter).Waiting() == "" {
		time.Sleep(time.Millisecond)
	}
	if st := p.(backends.Prober).Status(t.Context()); !strings.Contains(st.Detail, "touch") {
		t.Errorf("Status = %+v, want it to ask for a touch", st)
	}
	// Another request waits its turn, and says for what.
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, err := k.SignDigest(ctx, [32]byte{8})
	cancel()
	wantErr(t, "a second request", err, backends.ErrUnavailable)
	b.card.Touch()
	must(t, <-signed)
	if what := p.(backends.Waiter).Waiting(); what != "" {
		t.Errorf("Waiting = %q after the touch", what)
	}
	if !strings.Contains(logs.String(), "touch its metal contact") {
		t.Errorf("the log lacks the touch:\n%s", logs)
	}

	b.card.SetTouchTimeout(500 * time.Millisecond)
	_, err = k.SignDigest(t.Context(), [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrNotTouched, "not touched in time")
	b.card.AutoTouch(true)
	recovers(t, k)
	if tries := b.card.PINTries(); tries[len(tries)-1].SW != cardsim.SWOK {
		t.Error("a PIN was refused")
	}
}

// TestPulledAfterTheVerdict: the card takes a wrong PIN's try and is pulled before it answers. The
// PIN is not shown again.
func TestPulledAfterTheVerdict(t *testing.T) {
	b := newBench(t, plain)
	p := b.isolate(t, secret.NewKeeper(source("000000"), secret.UntilLock), isolated.Config{})
	mark := b.shown(0)
	b.card.Fail(cardsim.Fault{INS: insVerify, Do: cardsim.UnplugDuring})
	_, err := p.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	wantErr(t, "Generate", err, backends.ErrUnavailable)
	b.AwaitEmpty(t, 0)
	b.Insert(t, 0, b.card)
	for range 3 {
		_, err := p.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
		wantErr(t, "Generate", err, backends.ErrLocked, "keyward unlock")
	}
	if n := b.shown(mark); n != 1 {
		t.Errorf("the card was shown %d PINs, want 1", n)
	}
	must(t, p.(backends.Unlocker).Unlock(t.Context(), []byte(testPIN)))
	backendtest.Verify(t, backendtest.Generate(t, p, "keyward-x"), [32]byte{1})
}

// TestLeftVerified: another program left its PIN verified, and a card before firmware 5.3 says that instead of the
// tries that are left.
func TestLeftVerified(t *testing.T) {
	b := newBench(t, key{cardsim.Firmware{5, 2, 7}, piv.PINOnce, piv.TouchNever})
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	c, err := pcsc.Dial()
	must(t, err)
	card, err := c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	_, _, err = card.Do(pcsc.Command{INS: 0xa4, P1: 0x04, Data: []byte{0xa0, 0, 0, 3, 8}})
	must(t, err)
	_, sw, err := card.Do(pcsc.Command{INS: insVerify, P2: 0x80, Data: []byte(testPIN + "\xff\xff"), NoLe: true})
	must(t, errors.Join(err, card.Leave(), c.Close()))
	if sw != pcsc.OK {
		t.Fatalf("the other program's PIN: %v", sw)
	}
	backendtest.Verify(t, backendtest.Generate(t, p, "keyward-x"), [32]byte{1})
}
