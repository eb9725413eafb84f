package pcsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// ErrBusy: a process of this agent has the lock of the card.
var ErrBusy = errors.New("the card is busy with another backend of this agent (keyward status says what it waits for)")

const (
	lockStep = 5 * time.Millisecond
	// tellTime is left of a deadline when [Lock] gives up: a caller in another process then still hears who has the card.
	tellTime = 100 * time.Millisecond
)

// Lock takes the lock of a card, which processes that share it have agreed on, and waits for it as long as ctx
// allows; then it returns [ErrBusy]. The path's directory must exist; "": there is no lock, and nobody to wait for. The
// card is to be opened after Lock and closed before unlock. The kernel unlocks for a process that dies (flock(2)).
//
// Who waits longest has its turn next: a process with many operations would else take the lock again before others
// look. So there is a second lock, path with ".next", which one of those that wait has. Which of the others comes after
// it is chance.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	if path == "" {
		return func() {}, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-tellTime))
		defer cancel()
	}
	next, err := lockFile(ctx, path+".next")
	if err != nil {
		return nil, err
	}
	defer next.Close()
	card, err := lockFile(ctx, path)
	if err != nil {
		return nil, err
	}
	return func() { card.Close() }, nil
}

// lockFile has path locked until the file is closed.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the card's lock: %w", err)
	}
	for {
		// LOCK_NB: a call that waits in the kernel does not heed ctx.
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, errors.Join(fmt.Errorf("the card's lock: %s: %w", path, err), f.Close())
		}
		select {
		case <-time.After(lockStep):
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrBusy, context.Cause(ctx)), f.Close())
		}
	}
}
