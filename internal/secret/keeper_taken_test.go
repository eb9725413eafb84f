//go:build linux

package secret

import (
	"errors"
	"testing"

	"github.com/keyward/keyward/backends"
)

// A PIN that the device took stays good after somebody else's mistake, also if it is read again for each try; another
// one in its place does not.
func TestKeeperTakenPIN(t *testing.T) {
	for name, admin := range map[string]bool{"PIN": false, "admin PIN": true} {
		t.Run(name, func(t *testing.T) {
			pins := []string{"123456", "123456", "123456", "654321"}
			source := from(t, pins...)
			k := NewKeeper(source, 0)
			if admin {
				k = NewAdminKeeper("card", source)
			}
			d := newDevice()
			d.try(t, k, nil, 1)
			if k.pin != nil {
				t.Error("the PIN is held")
			}
			d.tries.Left = 2 // somebody mistyped it in another program
			d.try(t, k, nil, 2)
			d.tries.Left = 1
			d.try(t, k, backends.ErrPINFinalTry, 2)
			d.tries.Left = 2
			d.try(t, k, nil, 3)
			d.tries.Left = 2
			d.try(t, k, backends.ErrLocked, 3) // another PIN is in the source now
		})
	}
	// What the operator does begins anew.
	for name, act := range map[string]func(*Keeper){"lock and unlock": func(k *Keeper) { k.Lock(); k.stop = nil },
		"refused": func(k *Keeper) {
			d := newDevice()
			d.pin = "changed"
			_ = k.Try(t.Context(), d.tries, d.verify)
			k.stop = nil
			wipe(&k.refused, nil)
		}} {
		d := newDevice()
		k := NewKeeper(from(t, "123456"), 0)
		d.try(t, k, nil, 1)
		act(k)
		d.tries.Left = 2
		if err := k.Try(t.Context(), d.tries, d.verify); !errors.Is(err, backends.ErrLocked) || len(d.shown) != 1 {
			t.Errorf("%s: Try = %v after %d PINs, want ErrLocked after 1", name, err, len(d.shown))
		}
	}
}

// A PIN that can't be changed and was taken is right, whatever the counter tells, and leaves no mark.
func TestKeeperFixedPIN(t *testing.T) {
	d := newDevice()
	d.tries = Tries{Left: 20, Device: "d", Fixed: true}
	k := NewKeeper(from(t, "123456"), UntilLock).MarkIn(t.TempDir())
	verify := func(pin []byte) error {
		d.shown = append(d.shown, string(pin))
		if marked := k.marks.stands(d.tries); marked != (len(d.shown) == 1) {
			t.Errorf("try %d: there is a mark: %v", len(d.shown), marked)
		}
		if len(d.shown) == 2 {
			return errors.New("the machine was cut off")
		}
		return nil
	}
	for n, fails := range []bool{false, true, false} {
		if err := k.Try(t.Context(), d.tries, verify); (err != nil) != fails {
			t.Errorf("try %d: %v", n+1, err)
		}
		d.tries.Left-- // for another's mistake
	}
}
