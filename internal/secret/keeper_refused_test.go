package secret

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
)

func TestKeeperRefusedPINIsNotTriedAgain(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "000000"), 0)
	d.try(t, k, backends.ErrPINIncorrect, 1)
	for range 3 {
		d.try(t, k, backends.ErrPINIncorrect, 1)
	}
	if err := k.Ready(t.Context()); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("Ready = %v, want ErrPINIncorrect", err)
	}
	unlock(t, k, nil) // the source still has the wrong one
	d.try(t, k, backends.ErrPINIncorrect, 1)
	unlock(t, k, pinned(t, "123456"))
	d.try(t, k, nil, 2)
	// Without the operator the source is asked, and it has the wrong one as before.
	d.try(t, k, backends.ErrPINIncorrect, 2)
	if err := k.Ready(t.Context()); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("Ready = %v, want ErrPINIncorrect", err)
	}
}

func TestKeeperRefusedPINThatBecameRight(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "000000"), 0)
	d.try(t, k, backends.ErrPINIncorrect, 1)
	d.pin, d.tries.Left = "000000", 3
	d.try(t, k, backends.ErrPINIncorrect, 1) // not without the operator
	unlock(t, k, nil)
	d.try(t, k, nil, 2)
	if err := k.Ready(t.Context()); err != nil {
		t.Errorf("Ready = %v", err)
	}
	d.try(t, k, nil, 3)
}

func TestKeeperDoesNotRepeatARefusedPIN(t *testing.T) {
	for _, tt := range []struct {
		before, after int
		want          error
		says          string
	}{
		{3, 2, backends.ErrPINIncorrect, "give it once with the device's own tool, then run: keyward unlock"},
		{5, 3, backends.ErrPINIncorrect, "own tool"},
		{3, 1, backends.ErrPINFinalTry, "own tool"},
		{3, 0, backends.ErrLocked, "blocked"},
		{3, Unknown, backends.ErrPINIncorrect, "own tool"},
		{Unknown, 3, backends.ErrPINIncorrect, "start the agent again"},
		{Unknown, Unknown, backends.ErrPINIncorrect, "start the agent again"},
	} {
		d := newDevice()
		d.tries.Left = tt.before
		k := NewKeeper(from(t, "000000"), UntilLock)
		d.try(t, k, backends.ErrPINIncorrect, 1)
		unlock(t, k, nil)
		d.tries.Left = tt.after
		err := k.Try(t.Context(), d.tries, d.verify)
		if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%d, then %d: Try = %v, want %v that says %q", tt.before, tt.after, err, tt.want, tt.says)
		}
		if err := k.Ready(t.Context()); !errors.Is(err, backends.ErrPINIncorrect) {
			t.Errorf("%d, then %d: Ready = %v, want ErrPINIncorrect", tt.before, tt.after, err)
		}
		if tt.want == backends.ErrPINIncorrect {
			d.tries.Left = 5
			d.try(t, k, backends.ErrPINIncorrect, 1)
		}
		if len(d.shown) != 1 {
			t.Errorf("%d, then %d: the device was shown %q", tt.before, tt.after, d.shown)
		}
	}
}

func TestKeeperSpendsNoTryOfItsOwnAccord(t *testing.T) {
	for seed := range uint64(2000) {
		random := rand.New(rand.NewPCG(seed, 0))
		d := newDevice()
		k := NewKeeper(from(t, "000000"), []time.Duration{0, UntilLock}[seed%2])
		leave, wrong, story := 1, 0, []string{}
		try := func(verify func([]byte) error) {
			_ = k.Try(t.Context(), d.tries, func(pin []byte) error {
				if d.tries.Left <= 1 {
					t.Errorf("seed %d: the last try is spent after %q", seed, story)
				}
				if string(pin) != d.pin {
					wrong++
				}
				return verify(pin)
			})
			if wrong > leave {
				t.Fatalf("seed %d: %d wrong PINs were tried, with leave for %d, after %q", seed, wrong, leave, story)
			}
		}
		for range 20 {
			switch step := random.IntN(7); step {
			case 0:
				story = append(story, "unlock")
				unlock(t, k, nil)
				leave++
			case 1:
				story = append(story, "unlock with the right one")
				unlock(t, k, pinned(t, d.pin))
				leave++
			case 2:
				story = append(story, "the right one is given elsewhere")
				d.tries.Left = d.tries.Full
			case 3:
				story = append(story, "a wrong one is tried elsewhere")
				d.tries.Left = max(d.tries.Left-1, 1)
			case 4:
				story = append(story, "the answer is lost")
				d.lose = true
				try(d.verify)
				d.lose = false
				try(d.verify) // before the counter tells another story
			case 5:
				story = append(story, "ready?")
				_ = k.Ready(t.Context())
			default:
				story = append(story, "try")
				try(d.verify)
			}
		}
		if err := k.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestKeeperForgetsWhatWasNotTried(t *testing.T) {
	for _, left := range []int{0, 1} {
		for name, source := range map[string]Source{"no source": nil, "source": from(t, "000000")} {
			d := newDevice()
			k := NewKeeper(source, UntilLock)
			shown, want := 0, backends.ErrLocked
			if source != nil {
				d.try(t, k, backends.ErrPINIncorrect, 1)
				shown, want = 1, backends.ErrPINIncorrect
			}
			unlock(t, k, pinned(t, "777777"))
			d.tries.Left = left
			if err := k.Try(t.Context(), d.tries, d.verify); err == nil {
				t.Errorf("%s, %d left: Try succeeds", name, left)
			}
			d.tries.Left = d.tries.Full
			if err := k.Ready(t.Context()); !errors.Is(err, want) {
				t.Errorf("%s, %d left before: Ready = %v, want %v", name, left, err, want)
			}
			d.try(t, k, want, shown)
		}
	}
	// One that the device took is kept: others spent the tries.
	d := newDevice()
	k := NewKeeper(nil, UntilLock)
	unlock(t, k, pinned(t, "123456"))
	d.try(t, k, nil, 1)
	d.tries.Left = 1
	d.try(t, k, backends.ErrPINFinalTry, 1)
	unlock(t, k, nil)
	d.try(t, k, backends.ErrPINFinalTry, 1)
	d.tries.Left = 3
	d.try(t, k, nil, 2)
}

func TestKeeperEndGrant(t *testing.T) {
	d := newDevice()
	k := NewKeeper(nil, UntilLock)
	unlock(t, k, pinned(t, "000000"))
	k.EndGrant()
	d.try(t, k, backends.ErrLocked, 0)
	unlock(t, k, pinned(t, "123456"))
	d.try(t, k, nil, 1)
	k.EndGrant()
	d.try(t, k, nil, 2)
	unlock(t, k, nil)
	k.EndGrant() // the device has taken this one
	d.try(t, k, nil, 3)
}

func TestKeeperSlipKeepsTheRefusedPIN(t *testing.T) {
	d := newDevice()
	k := NewKeeper(from(t, "000000"), 0)
	d.try(t, k, backends.ErrPINIncorrect, 1)
	unlock(t, k, pinned(t, "12"))
	err := k.Try(t.Context(), d.tries, func([]byte) error {
		return NotSpent(fmt.Errorf("%w: too short", backends.ErrPINIncorrect))
	})
	if !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("Try of a slip = %v, want ErrPINIncorrect", err)
	}
	unlock(t, k, nil)
	d.try(t, k, backends.ErrPINIncorrect, 1)
}
