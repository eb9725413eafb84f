package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"fmt"

	"github.com/keyward/keyward/backends"
)

// words are for errors: what differs between a device's PINs.
type words struct {
	needed error  // of a PIN that only the operator has
	give   string // the command that gives one, or has its source read again
	Remedies
}

// Remedies say what an operator does about tries that are used up.
type Remedies struct {
	Blocked string // no try is left
	Final   string // the last one is left; the command that gives the PIN again is added
}

// NewAdminKeeper returns a Keeper for the admin PIN of a backend, which is held for no longer than a try.
func NewAdminKeeper(backend string, source Source) *Keeper {
	k := NewKeeper(source, 0)
	k.words.needed = backends.ErrAdminPINNeeded
	k.words.Blocked = "only a reset of the device helps, which deletes its keys"
	if source == nil {
		k.words.give += " --backend " + backend + " --admin-pin"
	}
	return k
}

// Explain replaces the remedies in errors. It returns the Keeper, which was not used yet.
func (k *Keeper) Explain(r Remedies) *Keeper {
	k.words.Remedies = r
	return k
}

// mayTry says why no PIN may be tried now.
func (k *Keeper) mayTry(left Tries, marked bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stop != nil {
		return k.stop
	}
	// Also when few tries are left, since what the counter tells now it may not tell later.
	if k.doubt != nil && (left.Left == Unknown || left.Left < k.doubt.left.Left) {
		k.stop = fmt.Errorf("%w: a try of the PIN was cut short and seems to have failed; give it with: %s",
			backends.ErrLocked, k.words.give)
	}
	if left.Left == 0 || left.Left == 1 {
		k.endGrantLocked()
	}
	switch {
	case left.Left == 0:
		return fmt.Errorf("%w: the PIN is blocked after too many wrong ones; %s", backends.ErrLocked, k.words.Blocked)
	case left.Left == 1:
		return fmt.Errorf("%w: one wrong PIN more would block the device; %s, then run: %s", backends.ErrPINFinalTry,
			k.words.Final, k.words.give)
	case k.stop != nil:
		return k.stop
	case marked && !k.granted:
		k.stop = fmt.Errorf("%w: an earlier try of the PIN may have failed, so none is tried without you; give it with: %s",
			backends.ErrLocked, k.words.give)
		return k.stop
	case k.taken == [32]byte{} && k.othersFailedLocked(left):
		return k.othersFailed(left)
	}
	return nil
}

// othersFailedLocked: somebody's try failed, so a PIN that the device did not take yet is tried only for the operator.
// k.mu is held.
func (k *Keeper) othersFailedLocked(left Tries) bool {
	return !k.granted && !k.proven && left.Left != Unknown && left.Left < left.Full
}

func (k *Keeper) othersFailed(left Tries) error {
	return fmt.Errorf("%w: a wrong PIN was tried (%d of %d tries are left), so none is tried without you; give it with: %s",
		backends.ErrLocked, left.Left, left.Full, k.words.give)
}

// mayShow says why the PIN that was fetched may not be tried, after mayTry left that open.
func (k *Keeper) mayShow(pin *Buffer, left Tries) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.othersFailedLocked(left) {
		return nil
	}
	digest, err := k.digest(pin)
	if err != nil {
		return err
	}
	if !hmac.Equal(digest[:], k.taken[:]) {
		return k.othersFailed(left)
	}
	return nil
}

// digest returns the PIN's HMAC under a key of this Keeper, to compare the PIN with another after its buffer is gone. A
// reader of this process's memory can find so short a PIN from it. That reader gains nothing: the process can read each
// compared PIN from its source at any time.
func (k *Keeper) digest(pin *Buffer) (digest [32]byte, err error) {
	mac := hmac.New(sha256.New, k.key[:])
	err = pin.Use(func(p []byte) error { mac.Write(p); return nil })
	return [32]byte(mac.Sum(nil)), err
}

// mayRepeat says why source's PIN may not be tried, if it is the one that was refused. That stands until the
// next Unlock: a counter that rises later is no act of the operator.
func (k *Keeper) mayRepeat(pin *Buffer, left Tries) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	risen := left.Left != Unknown && k.before != Unknown && left.Left >= k.before
	if !pin.Equal(k.refused) || k.granted && risen {
		return nil
	}
	if k.stop == nil {
		k.stop = k.sameLocked()
	}
	return k.stop
}

// sameLocked is why the source's PIN is not tried if it is the one that was refused. k.mu is held.
func (k *Keeper) sameLocked() error {
	remedy := "give it once with the device's own tool, then run: " + k.words.give
	if k.before == Unknown {
		remedy = "start the agent again and run: " + k.words.give
	}
	return fmt.Errorf("%w: the configured PIN is the one that the device refused, so it is not tried again; correct "+
		"it, then run: %s; or if the device's PIN was changed to it, %s",
		backends.ErrPINIncorrect, k.words.give, remedy)
}
