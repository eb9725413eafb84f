package isolated

import (
	"context"
	"fmt"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// unlocker is what a Backend has more if its child's backend takes a PIN.
type unlocker struct{ b *Backend }

// Unlock gives pin to the Keeper, if there is one, so that it does not die with the child.
func (u unlocker) Unlock(ctx context.Context, pin []byte) error {
	b := u.b
	if pin != nil && len(pin) == 0 { // on the wire it is the same as none
		return b.wrap("unlocking", fmt.Errorf("%w: it is empty", backends.ErrPINIncorrect))
	}
	if b.cfg.PINs != nil {
		if err := unlock(ctx, b.cfg.PINs, pin); err != nil {
			return b.wrap("unlocking", err)
		}
		pin = nil
	}
	if b.cfg.AdminPINs != nil { // its source may have been corrected
		if err := unlock(ctx, b.cfg.AdminPINs, nil); err != nil {
			return b.wrap("unlocking", err)
		}
	}
	err := b.do(ctx, opUnlock, pin, nil)
	if err == nil {
		return nil
	}
	if b.cfg.PINs != nil {
		b.cfg.PINs.EndGrant()
	}
	return b.wrap("unlocking", err)
}

// unlock gives pins a PIN, which it wipes, or with nil the operator's leave to try.
func unlock(ctx context.Context, pins *secret.Keeper, pin []byte) error {
	if pin == nil {
		return pins.Unlock(ctx, nil)
	}
	given, err := secret.Take(pin)
	if err != nil {
		return err
	}
	return pins.Unlock(ctx, given)
}

func (u unlocker) Lock(ctx context.Context) error {
	for _, pins := range []*secret.Keeper{u.b.cfg.PINs, u.b.cfg.AdminPINs} {
		if pins != nil {
			pins.Lock()
		}
	}
	if err := u.b.do(ctx, opLock, nil, nil); err != nil {
		return u.b.wrap("locking", err)
	}
	return nil
}

// adminUnlocker is what a Backend has more if its keys take an admin PIN.
type adminUnlocker struct{ b *Backend }

// UnlockAdmin gives pin to the Keeper. The device is shown it when it is needed, and not before.
func (u adminUnlocker) UnlockAdmin(ctx context.Context, pin []byte) error {
	if err := unlock(ctx, u.b.cfg.AdminPINs, pin); err != nil {
		return u.b.wrap("taking the admin PIN", err)
	}
	return nil
}
