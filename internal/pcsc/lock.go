package pcsc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
)

// ErrBusy: a process of this agent has the lock of the card. It is a [backends.ErrBusy].
var ErrBusy = backends.Busy(errors.New("the card is busy with another backend of this agent"))

const (
	lockStep = 5 * time.Millisecond
	// tellTime is left of a deadline when [Lock] gives up: a caller in another process then still hears who has the card.
	tellTime = 100 * time.Millisecond
	// longestReason is how much of what a holder says is read.
	longestReason = 256
)

// Held is the lock of a card. nil is the lock of a card that has none.
type Held struct{ file *os.File }

// Unlock lets others have the card, which is to be closed before.
func (h *Held) Unlock() {
	if h == nil {
		return
	}
	h.Tell("")
	h.file.Close()
}

// Tell tells who waits for the lock what a person has to do before that is given back, in one line; "": nothing.
func (h *Held) Tell(what string) {
	if h != nil {
		// If that fails, nobody is told. A reader that sees half of it reads again.
		_, _ = h.file.WriteAt([]byte(what+"\n"), 0)
	}
}

// Lock takes the lock of a card, which processes that share it have agreed on, and waits for it as long as ctx
// allows; then it returns [ErrBusy]. While it waits, it calls tell, if that is not nil, each time the holder's message
// changes. Before it returns it calls tell("") if the last message was not empty.
//
// The path's directory must exist; "": there is no lock, and nobody to wait for. The
// card is to be opened after Lock. The kernel unlocks for a process that dies (flock(2)).
//
// Who waits longest has its turn next: a process with many operations would else take the lock again before others
// look. So there is a second lock, path with ".next", which one of those that wait has. Which of the others comes after
// it is chance.
func Lock(ctx context.Context, path string, tell func(what string)) (*Held, error) {
	if path == "" {
		return nil, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-tellTime))
		defer cancel()
	}
	card, err := openLock(path)
	if err != nil {
		return nil, err
	}
	next, err := openLock(path + ".next")
	if err != nil {
		return nil, errors.Join(err, card.Close())
	}
	defer next.Close()
	w := wait{card: card, tell: tell}
	defer w.end()
	for _, f := range []*os.File{next, card} {
		if err := w.until(ctx, f); err != nil {
			return nil, errors.Join(err, card.Close())
		}
	}
	h := &Held{card}
	h.Tell("") // what a process told that died
	return h, nil
}

func openLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the card's lock: %w", err)
	}
	return f, nil
}

// wait is one wait for the lock of card.
type wait struct {
	card *os.File
	tell func(what string)
	told string
}

// until waits until f is locked, for as long as f is open.
func (w *wait) until(ctx context.Context, f *os.File) error {
	for {
		// LOCK_NB: a call that waits in the kernel does not heed ctx.
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("the card's lock: %s: %w", f.Name(), err)
		}
		w.listen()
		select {
		case <-time.After(lockStep):
		case <-ctx.Done():
			return w.busy(context.Cause(ctx))
		}
	}
}

// busy is ErrBusy, with what the holder waits for.
func (w *wait) busy(cause error) error {
	if w.told != "" {
		return fmt.Errorf("%w (%s): %w", ErrBusy, w.told, cause)
	}
	return fmt.Errorf("%w: %w", ErrBusy, cause)
}

// listen tells what the holder tells, if that has changed.
func (w *wait) listen() {
	b := make([]byte, longestReason)
	n, _ := w.card.ReadAt(b, 0)
	if what, _, _ := strings.Cut(string(b[:n]), "\n"); what != w.told {
		w.told = what
		if w.tell != nil {
			w.tell(what)
		}
	}
}

// end takes back what was told.
func (w *wait) end() {
	if w.told != "" && w.tell != nil {
		w.tell("")
	}
}
