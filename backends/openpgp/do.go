package openpgp

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/pcsc"
)

var errClosed = fmt.Errorf("%w: closed", backends.ErrUnavailable)

// errBusy: an operation of this backend has the turn.
var errBusy = backends.Busy(errors.New("the card is busy with requests before this one"))

// do opens the card, runs op and closes the card. It returns when that is done, or when ctx or
// the timeout is; then op ends at its next command.
func do[T any](ctx context.Context, b *Backend, what string, op func(*session) (T, error)) (T, error) {
	return doOrUndo(ctx, b, what, op, nil)
}

// doOrUndo is do for an op whose success has to be taken back if nobody waits for it any more.
func doOrUndo[T any](ctx context.Context, b *Backend, what string, op func(*session) (T, error),
	undo func(*session, T) error) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	return once(ctx, patience{Context: ctx, tell: b.setWaiting}, b, what, op, undo)
}

// patience is for waiting for other operations.
type patience struct {
	context.Context                   // until it is done; a child of the operation's
	tell            func(what string) // told what a person has to do before another process is done; "": nothing
	program         time.Duration     // for a program that is none of ours; see [pcsc.FreeWithin]
}

// once is doOrUndo without its timeout.
func once[T any](ctx context.Context, p patience, b *Backend, what string, op func(*session) (T, error),
	undo func(*session, T) error) (T, error) {
	v, err := inTurn(ctx, p, b, op, undo)
	if err != nil {
		err = b.wrap(what, err)
	}
	return v, err
}

func inTurn[T any](ctx context.Context, p patience, b *Backend, op func(*session) (T, error),
	undo func(*session, T) error) (T, error) {
	var zero T
	if err := b.takeTurn(p); err != nil {
		return zero, err
	}
	type result struct {
		v   T
		err error
	}
	answer, gone, over := make(chan result), make(chan struct{}), make(chan struct{})
	go func() { // Close waits for it: it has the turn
		defer func() {
			b.overdue.Store(false)
			<-b.turn
		}()
		v, err := onCard(ctx, p, b, op)
		close(over)
		select {
		case answer <- result{v, err}:
		case <-gone:
			if err == nil && undo != nil {
				b.undo(func(s *session) error { return undo(s, v) })
			}
		}
	}()
	select {
	case r := <-answer:
		return r.v, r.err
	case <-ctx.Done():
		b.overdue.Store(true)
		close(gone)
		go b.watch(over, overdueFor(ctx))
		return zero, fmt.Errorf("%w: the card did not answer in time: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
}

// hangGrace is how long an operation that has no more time may take to notice.
const hangGrace = 2 * time.Second

// overdueFor is how long an operation may go on after ctx: one that was canceled, not one that has no more time, may
// wait for a touch, which is no hang.
func overdueFor(ctx context.Context) time.Duration {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return hangGrace
	}
	return backends.TouchTime + hangGrace
}

// watch tells that the card stack hangs if over is not closed within d.
func (b *Backend) watch(over <-chan struct{}, d time.Duration) {
	if b.cfg.OnHang == nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
		b.cfg.OnHang("the card does not answer")
	}
}

// undo takes back what came too late. The caller has the turn.
func (b *Backend) undo(f func(*session) error) {
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Timeout)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go b.watch(over, b.cfg.Timeout+hangGrace)
	if _, err := onCard(ctx, patience{Context: ctx, tell: b.setWaiting}, b,
		func(s *session) (struct{}, error) { return struct{}{}, f(s) }); err != nil {
		b.log.Error("what nobody waited for was not undone; see: keyward key list", "error", err)
	}
}

// takeTurn waits until no other operation has the card.
func (b *Backend) takeTurn(ctx context.Context) error {
	if b.life.Err() != nil {
		return errClosed
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	select {
	case b.turn <- struct{}{}:
	case <-b.life.Done():
		return errClosed
	case <-ctx.Done():
		return fmt.Errorf("card %s: %w: %w", b.cfg.Serial, errBusy, context.Cause(ctx))
	}
	if b.life.Err() != nil { // both were ready
		<-b.turn
		return errClosed
	}
	return nil
}

// onCard runs op. The card is closed when it returns.
func onCard[T any](ctx context.Context, p patience, b *Backend, op func(*session) (T, error)) (v T, err error) {
	held, err := pcsc.Lock(p, b.lock(), p.tell)
	if err != nil {
		if !errors.Is(err, backends.ErrUnavailable) { // its file
			err = fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
		return v, fmt.Errorf("card %s: %w", b.cfg.Serial, err)
	}
	defer held.Unlock()
	s, err := pcsc.FreeWithin(p.program, func() (*session, error) { return b.open(ctx) })
	if err != nil {
		return v, err
	}
	s.held = held
	defer func() {
		// A card that is gone has forgotten the PIN without our help.
		if closeErr := s.close(); closeErr != nil && !errors.Is(closeErr, pcsc.ErrGone) &&
			!errors.Is(closeErr, pcsc.ErrNoService) {
			b.log.Warn("the card was not reset", "error", closeErr)
		}
	}()
	return op(s)
}

// lock is the path of the card's lock; "": it has none.
func (b *Backend) lock() string {
	if b.cfg.Locks == "" {
		return ""
	}
	return filepath.Join(b.cfg.Locks, b.cfg.Serial+".lock")
}

// wrap adds what was tried, and says of what the service or the card did that it may be over later.
func (b *Backend) wrap(what string, err error) error {
	var service *pcsc.Error
	passing := errors.As(err, &service) || errors.Is(err, pcsc.ErrGone) || errors.Is(err, pcsc.ErrGarbled)
	if passing && !errors.Is(err, backends.ErrUnavailable) {
		err = fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	return fmt.Errorf("openpgp %s: %s: %w", b.cfg.Name, what, err)
}
