package secret

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyward/keyward/backends"
)

// A PIN that is used all the time leaves memory as soon as one that is not.
func TestKeeperHoldIsNotProlonged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, reads := newDevice(), 0
		k := NewKeeper(func(context.Context) (*Buffer, error) { reads++; return pinned(t, "123456"), nil }, time.Hour)
		for i := range 6 { // at 0, 15, 30 and 45 minutes with the PIN that is held, at 61 and 76 with another
			if i == 4 {
				time.Sleep(time.Minute)
			}
			d.try(t, k, nil, i+1)
			time.Sleep(15 * time.Minute)
			synctest.Wait()
		}
		if reads != 2 {
			t.Errorf("the source was read %d times in 91 minutes, want 2", reads)
		}
		k.Close()
	})
}

// Each refused PIN is remembered, not the first alone; and none stays in memory after Close.
func TestKeeperRemembersTheLastRefusedPIN(t *testing.T) {
	d := newDevice()
	d.tries = Tries{Left: 8, Full: 8}
	k := NewKeeper(from(t, "000000", "111111"), 0)
	d.try(t, k, backends.ErrPINIncorrect, 1)
	unlock(t, k, pinned(t, "111111"))
	d.try(t, k, backends.ErrPINIncorrect, 2)
	unlock(t, k, nil)
	d.try(t, k, backends.ErrPINIncorrect, 2) // the source gives 111111, which was refused
	refused := k.refused
	if got := reveal(refused); got != "111111" {
		t.Fatalf("the Keeper remembers %q", got)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if got := reveal(refused); got != "" {
		t.Errorf("after Close the refused PIN is %q still", got)
	}
}
