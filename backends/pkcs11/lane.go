package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// p11Session is a PKCS#11 session, not one of ours.
type p11Session = p11.SessionHandle

// lane is the right to be in the module, and the p11Session to be there with.
type lane struct {
	conn    *conn // that session belongs to; nil: there is none
	session p11Session
}

// operation is what do runs: C_ calls on one p11Session.
type operation[T any] func(*conn, p11Session) (T, error)

// do runs op on a p11Session that is logged in, and returns when it ends or when ctx
// or the operation timeout does. If the connection turns out to be lost, op is run once
// more on a new one; if a handle turns out to be stale, once more without it.
//
// When nobody waits any more for op's success, undo takes it back; nil: nothing to undo.
func do[T any](ctx context.Context, b *Backend, what string, op operation[T], undo func(*conn, p11Session, T)) (T,
	error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.OpTimeout)
	defer cancel()
	throttle := minThrottleDelay
	for reconnected, refreshed := false, false; ; {
		v, err := once(ctx, b, what, op, undo)
		switch {
		case err == nil:
			return v, nil
		case b.health.throttled(what, err):
			if !sleep(ctx, throttle) {
				return v, b.wrap(what, fmt.Errorf("%w: %w", backends.ErrBusy, err))
			}
			throttle *= 2
			continue
		case errors.Is(err, errNotBegun):
			continue
		case isLost(err) && !reconnected:
			reconnected = true
		case isStale(err) && !refreshed:
			refreshed = true
		default:
			return v, b.wrap(what, err)
		}
		b.log.Warn("trying again", "operation", what, "error", err)
	}
}

// minThrottleDelay is that before the first repetition of a call that the device has no time for. It doubles.
const minThrottleDelay = 20 * time.Millisecond

// sleep reports whether d is over before ctx is.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false
	}
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// once is do without the second chance.
func once[T any](ctx context.Context, b *Backend, what string, op operation[T], undo func(*conn, p11Session, T)) (T,
	error) {
	if err := b.connected(ctx); err != nil {
		var zero T
		return zero, err
	}
	return run(ctx, b, what, op, undo)
}

// run is once on the connection that there is; errNotBegun if there is none.
func run[T any](ctx context.Context, b *Backend, what string, op operation[T], undo func(*conn, p11Session, T)) (T,
	error) {
	var zero T
	l, err := b.acquire(ctx)
	if err != nil {
		return zero, err
	}
	type result struct {
		v   T
		err error
	}
	answer, gone := make(chan result), make(chan struct{})
	go func() {
		defer func() { b.lanes <- l }()
		stop := b.watch(what)
		c, v, err := onLane(b, l, what, op)
		stop()
		select {
		case answer <- result{v, err}:
		case <-gone:
			if err == nil && undo != nil {
				undo(c, l.session, v)
			}
		}
		if err != nil {
			b.hangUp(l, err)
		}
	}()
	select {
	case r := <-answer:
		return r.v, r.err
	case <-ctx.Done():
		close(gone)
		return zero, gaveUp(ctx, "the token did not answer in time")
	}
}

// hangGrace is how long an operation that has no more time may take to end.
const hangGrace = time.Second

// watch reports a hang if the module is busy with what for too long, until stop.
func (b *Backend) watch(what string) (stop func()) {
	if b.cfg.OnHang == nil {
		return func() {}
	}
	limit := b.cfg.OpTimeout + hangGrace
	timer := time.AfterFunc(limit, func() {
		b.cfg.OnHang(fmt.Sprintf("%s has not returned from the module for %v", what, limit))
	})
	return func() { timer.Stop() }
}

// errNotBegun: the connection was dropped, by somebody else's call or by Lock, while this
// one waited for a lane. It counts as no try.
var errNotBegun = errors.New("not connected any more")

// onLane runs op on l's p11Session, opening one if need be.
func onLane[T any](b *Backend, l *lane, what string, op operation[T]) (c *conn, v T, err error) {
	// c can't be replaced while we hold a lane, though somebody may drop it.
	if c = b.current(); c == nil {
		return nil, v, errNotBegun
	}
	if l.conn != c {
		l.session, err = b.mod.OpenSession(c.slotID, sessionFlags)
		if err != nil {
			l.conn = nil
			b.dropIfLost(c, err)
			return c, v, fmt.Errorf("opening a p11Session: %w", err)
		}
		l.conn = c
	}
	v, err = op(c, l.session)
	// Before the answer, so that a call that is repeated finds the connection dropped.
	switch throttled := b.health.throttled(what, err); {
	case b.health.take(what, err):
		b.drop(c, fmt.Errorf("errors repeat: %w", err))
		err = fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	case !throttled:
		b.dropIfLost(c, err)
	}
	return c, v, err
}

// sessionFlags: CKF_SERIAL_SESSION is always set; C_GenerateKeyPair needs a read-write session.
const sessionFlags = p11.CKF_SERIAL_SESSION | p11.CKF_RW_SESSION

// hangUp gives up l's p11Session after err: a failed C_Sign can leave its operation active,
// which every later C_SignInit would trip over.
func (b *Backend) hangUp(l *lane, err error) {
	if l.conn != nil && !isLost(err) {
		if err := b.mod.CloseSession(l.session); err != nil {
			b.log.Warn("closing a p11Session", "error", err)
		}
	}
	l.conn = nil
}

// acquire takes a lane.
func (b *Backend) acquire(ctx context.Context) (*lane, error) {
	if ctx.Err() != nil { // select picks at random when a lane is free too
		return nil, gaveUp(ctx, "waiting for the token")
	}
	select {
	case l := <-b.lanes:
		if b.life.Err() == nil {
			return l, nil
		}
		b.lanes <- l
		return nil, errClosed
	case <-ctx.Done():
		return nil, gaveUp(ctx, "waiting for the token")
	case <-b.life.Done():
		return nil, errClosed
	}
}

var errClosed = fmt.Errorf("%w: the backend is closed", backends.ErrUnavailable)

// drain takes all lanes, so that nobody is in the module until refill. Calls that hang make
// it fail when ctx is done.
func (b *Backend) drain(ctx context.Context) (refill func(), err error) {
	select {
	case b.draining <- struct{}{}: // two at a time would wait for each other
	case <-ctx.Done():
		return nil, gaveUp(ctx, "waiting for calls in flight")
	}
	var taken []*lane
	refill = func() {
		for _, l := range taken {
			b.lanes <- l
		}
		<-b.draining
	}
	for range cap(b.lanes) {
		select {
		case l := <-b.lanes:
			taken = append(taken, l)
		case <-ctx.Done():
			refill()
			return nil, gaveUp(ctx, "waiting for calls in flight")
		}
	}
	return refill, nil
}
