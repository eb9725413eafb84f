package chain

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// onEndpoint runs f, which reads everything from the one endpoint it is given, on each
// endpoint in turn until one gives an answer; then again, up to the configured number
// of rounds. what says what is being done, for the error.
func onEndpoint[T any](ctx context.Context, c *Client, what string, f func(context.Context, *endpoint) (T, error)) (T,
	error) {
	var zero T
	delay := c.cfg.RetryDelay
	for round := 1; ; round++ {
		var errs []error
		retry := false
		for _, e := range c.inOrder(time.Now()) {
			result, err := f(ctx, e)
			if ctx.Err() != nil && err != nil {
				return zero, fmt.Errorf("chain %s: %s: %w", c.cfg.Name, what, ctx.Err())
			}
			if final(err) {
				c.noteSuccess(e)
				if err != nil {
					return zero, fmt.Errorf("chain %s: %s: %w", c.cfg.Name, what, err)
				}
				return result, nil
			}
			c.noteFailure(e, err)
			retry = retry || !errors.Is(err, ErrWrongChain)
			errs = append(errs, fmt.Errorf("%s: %w", e.name, err))
		}
		if round == c.cfg.Attempts || !retry {
			return zero, fmt.Errorf("chain %s: %s: %w", c.cfg.Name, what, joined(errs))
		}
		if err := pause(ctx, delay); err != nil {
			return zero, fmt.Errorf("chain %s: %s: %w", c.cfg.Name, what, err)
		}
		delay *= 2
	}
}

// final reports whether err is the chain's own answer, so that another endpoint would
// give the same.
func final(err error) bool {
	return err == nil || errors.Is(err, ErrNotFound) || errors.Is(err, ErrReverted)
}

// inOrder returns the endpoints as configured, those that are to be avoided last.
func (c *Client) inOrder(now time.Time) []*endpoint {
	order := slices.Clone(c.endpoints)
	slices.SortStableFunc(order, func(a, b *endpoint) int {
		return rank(a, now) - rank(b, now)
	})
	return order
}

func rank(e *endpoint, now time.Time) int {
	if until, _ := e.health.state(); until.After(now) {
		return 1
	}
	return 0
}

func (c *Client) noteSuccess(e *endpoint) {
	if e.health.succeeded() {
		c.cfg.Logger.Info("chain endpoint answers again", "chain", c.cfg.Name, "endpoint", e.name)
	}
}

func (c *Client) noteFailure(e *endpoint, err error) {
	// One line a row of failures: a node that is down for a day fills no disk.
	if e.health.failed(err, time.Now()) {
		c.cfg.Logger.Warn("chain endpoint failed", "chain", c.cfg.Name, "endpoint", e.name, "error", err)
	}
}

// pause waits for a random part of d (full jitter), so that agents that lost a node
// together do not come back together.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(rand.N(d) + 1)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// endpointErrors are what each endpoint failed with, on one line.
type endpointErrors []error

func joined(errs []error) error {
	if len(errs) == 1 {
		return errs[0]
	}
	return endpointErrors(errs)
}

func (errs endpointErrors) Error() string {
	text := ""
	for i, err := range errs {
		if i > 0 {
			text += "; "
		}
		text += err.Error()
	}
	return text
}

func (errs endpointErrors) Unwrap() []error { return errs }

// EndpointStatus is how an endpoint has been doing.
type EndpointStatus struct {
	Endpoint string // its position and host
	Err      error  // why its last use failed; nil if it did not
}

// Endpoints returns the state of each endpoint, in the configured order, without contacting any.
func (c *Client) Endpoints() []EndpointStatus {
	var all []EndpointStatus
	for _, e := range c.endpoints {
		_, err := e.health.state()
		all = append(all, EndpointStatus{Endpoint: e.name, Err: err})
	}
	return all
}
