//go:build linux

package secret

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyward/keyward/backends"
)

// device is a device with a retry counter.
type device struct {
	pin   string
	tries Tries
	shown []string // PINs that it was shown
	lose  bool     // it takes the PIN, and its answer is lost
}

func newDevice() *device { return &device{pin: "123456", tries: Tries{Left: 3, Full: 3}} }

func (d *device) verify(pin []byte) error {
	d.shown = append(d.shown, string(pin))
	d.tries.Left--
	if string(pin) == d.pin {
		d.tries.Left = d.tries.Full
	}
	switch {
	case d.lose:
		return errors.New("the card was pulled")
	case string(pin) != d.pin:
		return fmt.Errorf("%w: %d tries are left", backends.ErrPINIncorrect, d.tries.Left)
	}
	return nil
}

// try tries the PIN and wants an error, and a number of PINs shown to the device since it was made.
func (d *device) try(t *testing.T, k *Keeper, want error, shown int) {
	t.Helper()
	if err := k.Try(t.Context(), d.tries, d.verify); !errors.Is(err, want) {
		t.Errorf("Try = %v, want %v", err, want)
	}
	if len(d.shown) != shown {
		t.Errorf("the device was shown %q, want %d PINs", d.shown, shown)
	}
}

func pinned(t *testing.T, pin string) *Buffer { return take(t, []byte(pin)) }

// from is a source of one PIN after the other, the last for ever.
func from(t *testing.T, pins ...string) Source {
	return func(context.Context) (*Buffer, error) {
		pin := pins[0]
		if len(pins) > 1 {
			pins = pins[1:]
		}
		return pinned(t, pin), nil
	}
}

func unlock(t *testing.T, k *Keeper, pin *Buffer) {
	t.Helper()
	if err := k.Unlock(t.Context(), pin); err != nil {
		t.Fatalf("Unlock: %v", err)
	}
}

// The device's PIN was changed to the one that it had refused, which filled the counter.
// Each leave of the operator is good for one look at the counter. What it shows later counts for nothing.
// Whatever happens, a wrong PIN costs one try, and one more for each act of the operator; and the last
// try is nobody's.
// Ready reads the source, once, and keeps nothing of it.
func TestKeeperReadyReadsTheSource(t *testing.T) {
	var read []*Buffer
	gone := errors.New("no such file")
	missing := true
	k := NewKeeper(func(context.Context) (*Buffer, error) {
		if missing {
			return nil, gone
		}
		pin := pinned(t, "123456")
		read = append(read, pin)
		return pin, nil
	}, UntilLock)
	if err := k.Ready(t.Context()); !errors.Is(err, gone) || !errors.Is(err, backends.ErrLocked) {
		t.Errorf("Ready without the file = %v, want ErrLocked and %v", err, gone)
	}
	missing = false
	if err := k.Ready(t.Context()); err != nil || len(read) != 1 || reveal(read[0]) != "" || k.pin != nil {
		t.Errorf("Ready = %v, and the source was read %d times; want once, and it wiped", err, len(read))
	}
	d := newDevice()
	d.try(t, k, nil, 1)
	if err := k.Ready(t.Context()); err != nil || len(read) != 2 {
		t.Errorf("Ready with a PIN held = %v, and the source was read %d times, want 2", err, len(read))
	}

	// A source that hangs holds up nobody but who asks.
	k = NewKeeper(func(context.Context) (*Buffer, error) { k.Lock(); return nil, gone }, 0)
	if err := k.Ready(t.Context()); !errors.Is(err, gone) {
		t.Errorf("Ready = %v, want %v", err, gone)
	}
}

// The PIN of an environment variable outlives being asked for.
func TestKeeperReadyKeepsThePINOfTheEnvironment(t *testing.T) {
	t.Setenv("TEST_PIN", "123456")
	d := newDevice()
	k := NewKeeper(FromEnv("TEST_PIN"), 0)
	for shown := range 3 {
		if err := k.Ready(t.Context()); err != nil {
			t.Errorf("Ready = %v", err)
		}
		d.try(t, k, nil, shown+1)
	}
}

func TestKeeperNeverSpendsTheLastTry(t *testing.T) {
	for _, tt := range []struct {
		left int
		want error
	}{{1, backends.ErrPINFinalTry}, {0, backends.ErrLocked}} {
		d := newDevice()
		d.tries.Left = tt.left
		k := NewKeeper(from(t, "123456"), UntilLock)
		d.try(t, k, tt.want, 0)
		unlock(t, k, pinned(t, "123456")) // not for the operator either
		d.try(t, k, tt.want, 0)
	}
	var zero Tries
	if err := NewKeeper(from(t, "1"), 0).Try(t.Context(), zero, nil); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("Try with zero Tries = %v, want ErrLocked", err)
	}
}

// What the operator gave while no try was left is not tried when the counter is full again: unlock failed.
// Unlock's caller failed before the PIN was tried: it is not tried later. One that was is kept.
// A slip that the device was not shown does not make the one that it refused another one.
// A service that is started again and again must not spend a try each time.
func TestKeeperLeavesALowCounterToTheOperator(t *testing.T) {
	d := newDevice()
	d.try(t, NewKeeper(from(t, "000000"), 0), backends.ErrPINIncorrect, 1)
	k := NewKeeper(from(t, "000000"), 0)
	d.try(t, k, backends.ErrLocked, 1)
	unlock(t, k, nil)
	d.try(t, k, backends.ErrPINIncorrect, 2)
	d.try(t, NewKeeper(from(t, "123456"), 0), backends.ErrPINFinalTry, 2)
}

func TestKeeperTriesAProvenPINWhenOthersFailed(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "123456"), UntilLock)
	d.try(t, k, nil, 1)
	d.tries.Left = 2 // somebody mistyped it in another program
	d.try(t, k, nil, 2)
	d.tries.Left, d.pin = 2, "654321"
	d.try(t, k, backends.ErrPINIncorrect, 3) // it was proven, but has been changed since
	d.try(t, k, backends.ErrPINIncorrect, 3)
}

func TestKeeperDoubtfulTry(t *testing.T) {
	d := newDevice()
	d.lose = true
	k := NewKeeper(from(t, "000000"), UntilLock)
	if err := k.Try(t.Context(), d.tries, d.verify); err == nil {
		t.Fatal("Try succeeded")
	}
	d.lose = false
	d.tries.Full = 0 // so that the other rule does not catch it
	d.try(t, k, backends.ErrLocked, 1)
	d.tries = Tries{Left: 3, Full: 3}
	d.try(t, k, backends.ErrLocked, 1) // it stands until Unlock
	unlock(t, k, pinned(t, "123456"))
	d.try(t, k, nil, 2)

	// What the counter told once, when the last try was left, is not forgotten.
	d = newDevice()
	d.tries, d.lose = Tries{Left: 2}, true
	k = NewKeeper(from(t, "000000"), UntilLock)
	_ = k.Try(t.Context(), d.tries, d.verify)
	d.try(t, k, backends.ErrPINFinalTry, 1)
	d.tries = Tries{Left: 3, Full: 3}
	d.try(t, k, backends.ErrLocked, 1)

	// The PIN was right, or never reached the device.
	d = newDevice()
	d.lose = true
	k = NewKeeper(from(t, "123456"), 0)
	_ = k.Try(t.Context(), d.tries, d.verify)
	d.lose = false
	d.try(t, k, nil, 2)

	// The device has no counter.
	d = newDevice()
	d.lose = true
	k = NewKeeper(from(t, "123456"), 0)
	_ = k.Try(t.Context(), Tries{Left: Unknown}, d.verify)
	if err := k.Try(t.Context(), Tries{Left: Unknown}, d.verify); !errors.Is(err, backends.ErrLocked) ||
		len(d.shown) != 1 {
		t.Errorf("Try = %v after %d PINs, want ErrLocked after 1", err, len(d.shown))
	}
}

func TestKeeperHold(t *testing.T) {
	for _, tt := range []struct {
		hold  time.Duration
		later time.Duration
		want  error
	}{
		{0, 0, backends.ErrLocked},
		{time.Hour, 59 * time.Minute, nil},
		{time.Hour, 61 * time.Minute, backends.ErrLocked},
		{UntilLock, 1000 * time.Hour, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := newDevice()
			k := NewKeeper(nil, tt.hold)
			d.try(t, k, backends.ErrLocked, 0)
			unlock(t, k, pinned(t, "123456"))
			time.Sleep(2 * time.Hour) // before its first try it waits
			d.try(t, k, nil, 1)
			time.Sleep(tt.later)
			synctest.Wait()
			want := 1
			if tt.want == nil {
				want = 2
			}
			d.try(t, k, tt.want, want)
			k.Close()
			d.try(t, k, backends.ErrLocked, want)
		})
	}
}

func TestKeeperLock(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "123456"), UntilLock)
	d.try(t, k, nil, 1)
	held := k.pin
	k.Lock()
	if got := reveal(held); got != "" {
		t.Errorf("PIN after Lock = %q", got)
	}
	d.try(t, k, backends.ErrLocked, 1)
	unlock(t, k, nil)
	d.try(t, k, nil, 2)

	// Locked while the device thinks: the PIN is not held.
	err := k.Try(t.Context(), d.tries, func(pin []byte) error { k.Lock(); return d.verify(pin) })
	if err != nil || k.pin != nil {
		t.Errorf("Try during Lock = %v, PIN held: %v", err, k.pin != nil)
	}
	d.try(t, k, backends.ErrLocked, 3)

	// Locked while the source is asked: nothing is tried.
	k = NewKeeper(func(context.Context) (*Buffer, error) { k.Lock(); return pinned(t, "123456"), nil }, 0)
	d.try(t, k, backends.ErrLocked, 3)
}

// The operator unlocks all devices after having given one its PIN.
func TestKeeperUnlockKeepsTheOperatorsPIN(t *testing.T) {
	d := newDevice()
	k := NewKeeper(nil, UntilLock)
	unlock(t, k, pinned(t, "123456"))
	unlock(t, k, nil)
	d.try(t, k, nil, 1)
	k.Lock()
	unlock(t, k, nil)
	d.try(t, k, backends.ErrLocked, 1)
}

func TestAdminKeeper(t *testing.T) {
	for _, tt := range []struct {
		source Source
		left   int
		says   string
	}{
		{nil, 3, "keyward unlock --backend yubi --admin-pin"},
		{nil, 2, "keyward unlock --backend yubi --admin-pin"},
		{nil, 0, "only a reset"},
		{from(t, "000000"), 3, "then run: keyward unlock"},
	} {
		d := newDevice()
		d.tries.Left = tt.left
		err := NewAdminKeeper("yubi", tt.source).Try(t.Context(), d.tries, d.verify)
		if err == nil || !strings.Contains(err.Error(), tt.says) || tt.source != nil &&
			strings.Contains(err.Error(), "--admin-pin") {
			t.Errorf("Try with %d left = %v, want an error with %q", tt.left, err, tt.says)
		}
	}
}

func TestKeeperTriesTakeTurns(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "123456"), 0)
	err := k.Try(t.Context(), d.tries, func(pin []byte) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := k.Try(ctx, d.tries, d.verify); !errors.Is(err, backends.ErrUnavailable) ||
			!errors.Is(err, context.Canceled) {
			t.Errorf("a second try = %v, want ErrUnavailable and Canceled", err)
		}
		if err := k.Unlock(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("Unlock during a try = %v, want Canceled", err)
		}
		return d.verify(pin)
	})
	if err != nil {
		t.Errorf("Try = %v", err)
	}
	d.try(t, k, nil, 2)
}

func TestKeeperSourceFails(t *testing.T) {
	d := newDevice()
	gone := errors.New("no such file")
	k := NewKeeper(func(context.Context) (*Buffer, error) { return nil, gone }, 0)
	d.try(t, k, gone, 0)
	d.try(t, k, backends.ErrLocked, 0)
}

func TestKeeperTryThatSpentNone(t *testing.T) {
	busy := errors.New("the module is busy")
	notSpent := func([]byte) error { return NotSpent(busy) }
	d := newDevice()
	d.tries.Left = 2
	k := NewKeeper(nil, 0)
	unlock(t, k, pinned(t, "123456"))
	err := k.Try(t.Context(), d.tries, notSpent)
	if !errors.Is(err, busy) || !errors.Is(err, ErrNotSpent) || err.Error() != busy.Error() {
		t.Errorf("Try = %v, want %v and ErrNotSpent", err, busy)
	}
	d.try(t, k, nil, 1) // the operator's try is still there
}
