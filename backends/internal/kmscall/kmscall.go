// Package kmscall makes calls to a KMS over the network: a bounded number at a time, none
// longer than it may take, repeated where that helps and no more than the service bears.
//
// # What is repeated
//
// [Config.Classify] says what an error of the service means. A refusal for load or quota
// is repeated, since nothing was done. A call that got no answer is repeated by [Do], as
// asking twice for a signature over one digest, or for a key's state, harms nobody; [Once] is
// for calls that leave something behind each time, and does not. Every other error is the
// service's answer and is returned as it is: a missing permission is never asked for again.
//
// Repetitions wait, twice as long each time, with jitter, and as long as the service asks.
// They end with the context, so a call rides out a short outage, or a quota that
// is used up now and then. All calls of a [Caller] share a brake: a budget of repetitions, of which
// each takes one, and two calls that succeed give one back. Only when the budget has been empty for longer
// than any call lasts, there are no more repetitions than calls give back. So a service
// that is down for long gets each call once, and one that throttles gets half more than it bears.
//
// Retries of the SDK have to be off, or all this holds for each of the SDK's own tries.
package kmscall

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
)

// Class is what an error of the service means for its call.
type Class uint8

const (
	Final      Class = iota // the service's answer
	Throttled               // refused for load or quota; nothing was done
	Unanswered              // no answer, or a fault of the service; it may have been done all the same
)

// Config bounds the calls to one service.
type Config struct {
	InFlight int           // calls at a time; 0: 32
	Timeout  time.Duration // of one Do or Once, with all its waiting; 0: 10 s
	Attempt  time.Duration // of one try, so that a dead connection leaves time for another; 0: half of Timeout
	Budget   int           // repetitions before an overload begins; 0: 32

	// Classify says what an error that a call returned means, and how long the
	// service asks to wait before the next try, 0 if it does not say.
	// What ended because its try took too long is Unanswered without asking.
	Classify func(error) (Class, time.Duration)
}

const (
	firstWait = 100 * time.Millisecond // longest wait before the second try; doubled for each that follows
	longWait  = 2 * time.Second        // what it does not grow beyond
	earning   = 0.5                    // part of a repetition that a call which succeeds gives back
	patience  = 2                      // an overload of so many times Config.Timeout pulls the brake
)

var (
	errClosed = errors.New("the backend is closed")
	errSlow   = errors.New("no answer in time") // to one try; there may be another
	errPanic  = errors.New("the service's answer made its SDK panic")
)

// Caller makes calls. It is safe for concurrent use.
type Caller struct {
	cfg   Config
	slots chan struct{} // holds one element for each call in flight

	life context.Context // done when Close begins
	end  context.CancelFunc

	mu      sync.Mutex
	budget  float64   // repetitions left
	empty   time.Time // since when there are none, or too few to say that the overload is over; zero: there are
	wanted  time.Time // when the last repetition was wanted
	trouble error     // of the last call, nil if it was none of the service's
	since   time.Time // when that call ended
}

// New returns a Caller.
func New(cfg Config) *Caller {
	if cfg.InFlight == 0 {
		cfg.InFlight = 32
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Attempt == 0 {
		cfg.Attempt = cfg.Timeout / 2
	}
	if cfg.Budget == 0 {
		cfg.Budget = 32
	}
	c := &Caller{cfg: cfg, slots: make(chan struct{}, cfg.InFlight), budget: float64(cfg.Budget)}
	c.life, c.end = context.WithCancel(context.Background())
	return c
}

// Close ends waits at once and waits for calls in flight, for as long as one may take.
// What is called later gives [backends.ErrUnavailable]. An error means that
// a call hangs; Close may then be called again.
func (c *Caller) Close() error {
	c.end()
	timeout := time.NewTimer(c.cfg.Timeout)
	defer timeout.Stop()
	for held := range cap(c.slots) {
		select {
		case c.slots <- struct{}{}:
		case <-timeout.C:
			for range held {
				<-c.slots
			}
			return fmt.Errorf("%d calls did not end within %v", cap(c.slots)-held, c.cfg.Timeout)
		}
	}
	for range cap(c.slots) {
		<-c.slots // for another Close
	}
	return nil
}

// Do makes a call that may be made twice.
//
// Its error is the call's own if that is final, and else wraps [backends.ErrUnavailable]
// and the last try's error. It returns when ctx is done, whatever the call does; the call
// then goes on, counts as in flight until it ends, and what it returns is dropped.
func Do[T any](ctx context.Context, c *Caller, call func(context.Context) (T, error)) (T, error) {
	return repeat(ctx, c, true, call)
}

// Once is Do for a call that is not made again unless the service said that it did nothing.
func Once[T any](ctx context.Context, c *Caller, call func(context.Context) (T, error)) (T, error) {
	return repeat(ctx, c, false, call)
}

func repeat[T any](ctx context.Context, c *Caller, twice bool, call func(context.Context) (T, error)) (v T, err error) {
	defer func() { c.note(err) }()
	var none T
	late := fmt.Errorf("no answer within %v: %w", c.cfg.Timeout, context.DeadlineExceeded)
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Timeout, late)
	defer cancel()
	var before error // what was wrong with the try before
	for tries := 1; ; tries++ {
		v, err := try(ctx, c, call)
		if err == nil {
			c.earn()
			return v, nil
		}
		switch {
		case ctx.Err() != nil:
			return none, gaveUp(ctx, tries, withBefore(err, before))
		case errors.Is(err, errClosed), errors.Is(err, errPanic):
			return none, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
		class, after := c.classify(err)
		switch {
		case class == Final:
			return none, err
		case class == Unanswered && !twice:
			return none, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
		}
		if why := c.wait(ctx, tries, after); why != nil {
			return none, fmt.Errorf("%w: tried %d times, %w: %w", backends.ErrUnavailable, tries, why, withBefore(err, before))
		}
		before = err
	}
}

// note remembers how a call ended, for [Caller.Trouble].
func (c *Caller) note(err error) {
	if errors.Is(err, context.Canceled) || errors.Is(err, errClosed) {
		return // says nothing of the service
	}
	if !errors.Is(err, backends.ErrUnavailable) && !errors.Is(err, backends.ErrRefused) {
		err = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.trouble, c.since = err, time.Now()
}

// Trouble is the error of the last call that ended, if that was [backends.ErrUnavailable] or
// [backends.ErrRefused], and how long ago that was. It costs the service nothing.
func (c *Caller) Trouble() (ago time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.since), c.trouble
}

// Closed reports whether Close has been called.
func (c *Caller) Closed() bool { return c.life.Err() != nil }

// try makes the call once, when there is room for it.
func try[T any](ctx context.Context, c *Caller, call func(context.Context) (T, error)) (T, error) {
	var none T
	if err := c.acquire(ctx); err != nil {
		return none, err
	}
	type answer struct {
		v   T
		err error
	}
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.Attempt, errSlow)
	answered := make(chan answer, 1)
	// Not every wait inside an SDK ends with the context: one for another
	// caller's new access token does not.
	go func() {
		defer func() { <-c.slots }()
		defer cancel()
		v, err := guarded(ctx, call)
		if err != nil && errors.Is(context.Cause(ctx), errSlow) {
			err = fmt.Errorf("%w: %w", errSlow, err)
		}
		answered <- answer{v, err}
	}()
	select {
	case a := <-answered:
		return a.v, a.err
	case <-ctx.Done():
	}
	select {
	case a := <-answered: // cancel, above, comes after the answer
		return a.v, a.err
	default:
		return none, context.Cause(ctx)
	}
}

// guarded makes an error of a panic. An SDK that meets an answer which it did not expect
// must not end an agent that has other devices too; azkeys' challenge parser is such a one.
func guarded[T any](ctx context.Context, call func(context.Context) (T, error)) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errPanic, p)
		}
	}()
	return call(ctx)
}

// acquire takes a slot.
func (c *Caller) acquire(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if c.life.Err() != nil {
		return errClosed
	}
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%d calls are in flight, as many as may be: %w", cap(c.slots), context.Cause(ctx))
	case <-c.life.Done():
		return errClosed
	}
	if c.life.Err() != nil {
		<-c.slots
		return errClosed
	}
	return nil
}

func (c *Caller) classify(err error) (Class, time.Duration) {
	if errors.Is(err, errSlow) {
		return Unanswered, 0
	}
	return c.cfg.Classify(err)
}

// wait waits before the next try. Its error says why there is none.
func (c *Caller) wait(ctx context.Context, tries int, after time.Duration) error {
	longest := min(firstWait<<min(tries-1, 16), longWait)
	wait := after + rand.N(longest)
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline) - after
		if left < firstWait {
			return fmt.Errorf("no time is left for another: %w", context.DeadlineExceeded)
		}
		wait = min(wait, after+left/2) // sooner rather than not again
	}
	if !c.spend() {
		return errors.New("too many calls have to be repeated")
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-c.life.Done():
		return errClosed
	}
}

// spend takes one repetition from the budget. Without any it allows one until the overload has lasted too long.
func (c *Caller) spend() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.wanted = now
	if c.budget >= 1 {
		c.budget--
		return true
	}
	if c.empty.IsZero() {
		c.empty = now
	}
	return now.Sub(c.empty) < patience*c.cfg.Timeout
}

// earn notes a call that succeeded. The overload is over when half of the budget is back, or
// when no repetition was wanted for as long as pulls the brake.
func (c *Caller) earn() {
	c.mu.Lock()
	defer c.mu.Unlock()
	full := float64(c.cfg.Budget)
	c.budget = min(c.budget+earning, full)
	if time.Since(c.wanted) > patience*c.cfg.Timeout {
		c.budget = full
	}
	if c.budget >= full/2 {
		c.empty = time.Time{}
	}
}

// gaveUp is the error of a call that ended because ctx did, the last thing that went wrong being err.
func gaveUp(ctx context.Context, tries int, err error) error {
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return fmt.Errorf("%w: tried %d times: %w", backends.ErrUnavailable, tries, err)
}

// withBefore is the last try's error, and that of the one before if that was another. Of a try that is cut by
// the end of time the SDK may say just that, even before ctx does, and not why it was made again.
func withBefore(err, before error) error {
	if before == nil || before.Error() == err.Error() {
		return err
	}
	return fmt.Errorf("%w; the time before: %w", err, before)
}
