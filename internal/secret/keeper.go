package secret

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
)

// UntilLock holds a PIN until [Keeper.Lock].
const UntilLock = time.Duration(math.MaxInt64)

// Tries is what a device says of its PIN's retry counter. It is read before each try,
// because reading it costs none.
type Tries struct {
	Left int // 0: blocked; [Unknown]: the device does not say
	Full int // what Left is after a right PIN; 0: unknown
	// Device names a device whose counter does not show how a try went, for [Keeper.MarkIn]. "": it shows that.
	Device string
	// Fixed: the device's PIN can't be changed, so one that it took is right for good.
	Fixed bool
}

// Unknown is Tries.Left of a device without a readable counter.
const Unknown = -1

// TriesLeft says that n tries are left.
func TriesLeft(n int) string {
	if n == 1 {
		return "1 try is left"
	}
	return fmt.Sprintf("%d tries are left", n)
}

// ErrNotSpent: the device answered, and no try was spent. See [NotSpent].
var ErrNotSpent = errors.New("no PIN try was spent")

// NotSpent marks err, which keeps its text, as [ErrNotSpent].
func NotSpent(err error) error { return &notSpent{err} }

type notSpent struct{ err error }

func (e *notSpent) Error() string   { return e.err.Error() }
func (e *notSpent) Unwrap() []error { return []error{e.err, ErrNotSpent} }

// PINs gives out a device's PIN, one try at a time. There are two: [Keeper], and
// the stand-in for its parent's Keeper that a child process has.
type PINs interface {
	// Try calls verify with the PIN, once, unless the PIN must not be tried now. verify shows it
	// to the device and returns nil if the device took it, an error that is
	// [backends.ErrPINIncorrect] if it was refused, one that is [ErrNotSpent] if neither, and any
	// other if it is not known what became of the try.
	//
	// Errors: verify's; ErrLocked, ErrPINIncorrect or ErrPINFinalTry of package backends
	// if the operator has to act; ErrUnavailable if ctx is done first.
	Try(ctx context.Context, left Tries, verify func(pin []byte) error) error
	// Ready returns nil if a PIN can be had without the operator, else what he has to do. It may read
	// the PIN where it is configured, and shows it to nothing.
	Ready(ctx context.Context) error
}

// Keeper holds a device's PIN, and the rules for spending tries:
//
//   - A PIN that was refused is not tried again until the operator acts, which is Unlock. The source's is
//     tried once more then only if the device took a PIN since, which its counter shows: it may have been
//     changed to that one.
//   - The last try is never spent, whoever asks.
//   - A counter that is not full means that somebody's try failed. Then only the operator may spend a try,
//     or a PIN that this device took since it was given. That holds for the PIN of a source too, which is
//     compared with the last one that was taken.
//   - A try whose outcome is not known (the card was pulled, the process that
//     showed the PIN died) counts as refused if the counter went down, or can't be read. With
//     [Keeper.MarkIn] it does so after a restart too.
//
// It is safe for concurrent use; tries take turns.
type Keeper struct {
	source Source        // nil: only Unlock brings a PIN
	hold   time.Duration // of a PIN in memory
	words  words
	marks  marks
	key    [32]byte // of digests

	turn chan struct{} // holds one element during a try; never taken with mu held

	mu      sync.Mutex // not held during a try or a wait
	pin     *Buffer    // nil: to be had from source
	proven  bool       // the device took pin before
	taken   [32]byte   // digest of the last PIN that the device took since the operator acted; zero: it took none
	granted bool       // the operator acted, and no try was made since
	doubt   *doubt     // a try whose outcome is not known; nil: none
	stop    error      // why no PIN is tried until Unlock; nil: one may be
	refused *Buffer    // the last one that was; nil: none
	before  int        // Tries.Left when refused was tried
	forget  *time.Timer
}

// doubt is a try from its beginning until its outcome is known.
type doubt struct {
	left    Tries // before it
	granted bool  // it was the operator's
}

var _ PINs = (*Keeper)(nil)

// NewKeeper returns a Keeper that gets the PIN from source, which asks no person, or from Unlock alone if
// source is nil. hold is how long a PIN that the device took stays in memory: 0 is for
// that one try, [UntilLock] until Lock. A PIN from Unlock waits for its first try however long, unless
// the counter forbids that or [Keeper.EndGrant] comes first.
func NewKeeper(source Source, hold time.Duration) *Keeper {
	k := &Keeper{source: source, hold: hold, turn: make(chan struct{}, 1), words: words{
		needed: fmt.Errorf("%w: the device needs its PIN", backends.ErrLocked),
		give:   "keyward unlock",
		Remedies: Remedies{"unblock it with the PUK or admin PIN, then run: keyward unlock",
			"give the right one once with the device's own tool"},
	}}
	_, _ = rand.Read(k.key[:]) // never fails
	return k
}

// MarkIn has the Keeper note each try of a device with Tries.Device in a file in dir, before it is made, unless
// the device took the PIN before and has a counter. The note is removed when the device took the PIN, or when no try
// was spent. While it stands, also after a restart, only Unlock allows a try, and each time one. It returns the Keeper,
// which was not used yet.
func (k *Keeper) MarkIn(dir string) *Keeper {
	k.marks.dir = dir
	return k
}

// Try implements [PINs].
func (k *Keeper) Try(ctx context.Context, left Tries, verify func(pin []byte) error) error {
	release, err := k.takeTurn(ctx)
	if err != nil {
		return err
	}
	defer release()
	earlier := k.marks.stands(left)
	if err := k.mayTry(left, earlier); err != nil {
		return err
	}
	pin, err := k.fetch(ctx, left)
	if err != nil {
		return err
	}
	if err := k.mayShow(pin, left); err != nil {
		return errors.Join(err, pin.Close())
	}
	proven, err := k.begin(left)
	if err != nil {
		return errors.Join(err, pin.Close())
	}
	if proven && left.Left != Unknown { // at the next start it is tried again, which costs none
		return k.settle(pin, pin.Use(verify))
	}
	return k.settle(pin, k.marked(left, earlier, func() error { return pin.Use(verify) }))
}

// marked makes a try, with its mark on disk from before it until it is known that none was spent. earlier: there
// was a mark already, which only a right PIN removes. One that can't be removed holds up the next
// try, not this one.
func (k *Keeper) marked(left Tries, earlier bool, try func() error) error {
	if err := k.marks.set(left); err != nil {
		return NotSpent(fmt.Errorf("%w: %w", backends.ErrUnavailable, err))
	}
	err := try()
	if err == nil || !earlier && errors.Is(err, ErrNotSpent) && !errors.Is(err, backends.ErrPINIncorrect) {
		_ = k.marks.clear(left)
	}
	return err
}

// takeTurn waits until no try is under way.
func (k *Keeper) takeTurn(ctx context.Context) (release func(), err error) {
	select {
	case k.turn <- struct{}{}:
		return func() { <-k.turn }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: another PIN try is under way: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
}

// endGrantLocked: the operator's act, which was refused, allows no try later, and a PIN that he gave is not kept
// for one. k.mu is held.
func (k *Keeper) endGrantLocked() {
	if k.granted && !k.proven {
		k.dropLocked()
	}
	k.granted = false
}

// missing is why there is no PIN if neither the operator nor a source gave one.
func (k *Keeper) missing() error {
	return fmt.Errorf("%w; give it with: %s", k.words.needed, k.words.give)
}

// fetch returns a copy of the PIN that is held, or what source gives and may be tried.
func (k *Keeper) fetch(ctx context.Context, left Tries) (*Buffer, error) {
	if pin, err := k.held(); pin != nil || err != nil {
		return pin, err
	}
	pin, err := k.read(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.mayRepeat(pin, left); err != nil {
		return nil, errors.Join(err, pin.Close())
	}
	return pin, nil
}

// held returns a copy of the PIN that is held; nil: none is. k.mu is held meanwhile, or it could be wiped just then.
func (k *Keeper) held() (*Buffer, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pin == nil {
		return nil, nil
	}
	return k.pin.Clone()
}

// read returns what source gives. Nothing is locked meanwhile.
func (k *Keeper) read(ctx context.Context) (*Buffer, error) {
	if k.source == nil {
		return nil, k.missing()
	}
	pin, err := k.source(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: getting the PIN: %w", backends.ErrLocked, err)
	}
	return pin, nil
}

// begin notes that a try is made, and reports whether the device took the PIN before. From here on the outcome is in
// doubt.
func (k *Keeper) begin(left Tries) (proven bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stop != nil { // locked while source was asked
		return false, k.stop
	}
	k.granted, k.doubt = false, &doubt{left, k.granted}
	return k.proven, nil
}

// settle notes a try's outcome, and wipes pin unless it is to be held or remembered as refused.
func (k *Keeper) settle(pin *Buffer, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case err == nil:
		k.doubt = nil
		if pin.Equal(k.refused) { // another one that was refused stays so
			wipe(&k.refused, nil)
		}
		if k.stop != nil { // locked meanwhile
			return pin.Close()
		}
		if k.taken, err = k.digest(pin); err != nil {
			return errors.Join(err, pin.Close())
		}
		k.proven = k.hold > 0
		k.holdLocked(pin)
		return nil
	case errors.Is(err, backends.ErrPINIncorrect):
		// it was not shown; the one that was must not be forgotten for it
		if errors.Is(err, ErrNotSpent) && k.refused != nil {
			_ = pin.Close()
		} else {
			k.before = k.doubt.left.Left
			wipe(&k.refused, pin)
		}
		k.doubt, k.taken = nil, [32]byte{}
		k.dropLocked()
		if k.stop == nil {
			k.stop = fmt.Errorf("%w; it is not tried again: correct it, then run: %s", err, k.words.give)
		}
		return k.stop
	}
	if errors.Is(err, ErrNotSpent) || k.doubt.left.Fixed && k.proven {
		k.granted, k.doubt = k.doubt.granted && k.stop == nil, nil
	} else if k.hold == 0 {
		k.dropLocked()
	}
	return errors.Join(err, pin.Close())
}

// holdLocked keeps a PIN that the device took, for as long as is configured from its
// first being held. k.mu is held.
func (k *Keeper) holdLocked(pin *Buffer) {
	if k.hold == 0 {
		k.dropLocked()
		_ = pin.Close()
		return
	}
	wipe(&k.pin, pin)
	if k.forget != nil || k.hold == UntilLock {
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(k.hold, func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.forget == timer {
			k.dropLocked()
		}
	})
	k.forget = timer
}

// dropLocked wipes the PIN that is held. k.mu is held.
func (k *Keeper) dropLocked() {
	wipe(&k.pin, nil)
	k.proven = false
	if k.forget != nil {
		k.forget.Stop()
		k.forget = nil
	}
}

// wipe replaces the secret in b by with, and wipes the old one.
func wipe(b **Buffer, with *Buffer) {
	_ = (*b).Close() // it can fail only on a bug in here
	*b = with
}

// Unlock is the operator's act: it allows one try, of pin, which the Keeper owns from now on, or
// if pin is nil of what the source gives, or without a source of what is held. It waits for a try under way.
func (k *Keeper) Unlock(ctx context.Context, pin *Buffer) error {
	release, err := k.takeTurn(ctx)
	if err != nil {
		return errors.Join(err, pin.Close())
	}
	defer release()
	k.mu.Lock()
	defer k.mu.Unlock()
	if pin != nil || k.source != nil {
		k.dropLocked()
		k.pin = pin
	}
	k.stop, k.doubt, k.granted, k.taken = nil, nil, true, [32]byte{}
	return nil
}

// EndGrant takes back what Unlock allowed, and wipes the PIN that it was given, if no try was made since: it
// failed for another reason, and who gave the PIN does not expect it to be tried later.
func (k *Keeper) EndGrant() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.granted {
		k.endGrantLocked()
	}
}

// Lock wipes the PIN at once. None is tried until Unlock.
func (k *Keeper) Lock() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked()
	k.granted, k.taken = false, [32]byte{}
	k.stop = fmt.Errorf("%w by the operator; unlock it with: keyward unlock", backends.ErrLocked)
}

// Ready implements [PINs].
func (k *Keeper) Ready(ctx context.Context) error {
	k.mu.Lock()
	stop, held := k.stop, k.pin != nil
	k.mu.Unlock()
	if stop != nil || held {
		return stop
	}
	pin, err := k.read(ctx)
	if err != nil {
		return err
	}
	defer pin.Close()
	k.mu.Lock()
	defer k.mu.Unlock()
	if pin.Equal(k.refused) {
		return k.sameLocked()
	}
	return nil
}

// Close wipes everything. It waits for a try under way.
func (k *Keeper) Close() error {
	k.turn <- struct{}{}
	defer func() { <-k.turn }()
	k.Lock()
	k.mu.Lock()
	defer k.mu.Unlock()
	wipe(&k.refused, nil)
	return nil
}
