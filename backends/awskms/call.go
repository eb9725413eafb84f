package awskms

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
)

// Retries of all calls together: one more for each call when AWS throttles would be what
// keeps it throttling.
const (
	retryRate  = 10 // a second
	retryBurst = 20

	firstDelay = 50 * time.Millisecond // doubled with each try; a random part of it is waited
	maxDelay   = 2 * time.Second
	maxLost    = 3 // tries of a call that is not answered, throttling aside
)

// operation says what a call is, for errors and for what may be done when it fails.
type operation struct {
	name string // AWS's: "Sign"; the permission is kms:Sign
	on   string // an ARN, or an alias; "*": no key
	// repeatable: doing it twice is no different from doing it once.
	repeatable bool
	// fresh: the key was made a moment ago, and KMS, being eventually consistent, may not know
	// it everywhere yet.
	fresh bool
	// shared: all of the backend's keys need this one.
	shared bool
}

// call makes a call, and repeats it while that is safe and there is time.
func call[I, O any](ctx context.Context, c *client, op operation, f func(context.Context, *I, ...func(*kms.Options)) (*O, error), in *I) (*O, error) {
	reloaded := false
	for tries := 1; ; tries++ {
		out, err := once(ctx, c, f, in)
		if err == nil {
			c.health.succeeded()
			return out, nil
		}
		if ctx.Err() != nil {
			return nil, c.failed(op, fmt.Errorf("kms:%s on %s: %w", op.name, op.on, gaveUp(ctx)))
		}
		err = c.explain(ctx, op, err)
		switch {
		case errors.Is(err, ErrCredentials) && !reloaded:
			reloaded = true
			if !c.reloadCredentials(ctx) {
				return nil, c.failed(op, err)
			}
			continue // with other credentials
		case !op.again(err, tries):
			return nil, c.failed(op, err)
		}
		delay := rand.N(min(firstDelay<<(tries-1), maxDelay)) + time.Millisecond
		if until, ok := ctx.Deadline(); ok && time.Until(until) < delay {
			return nil, c.failed(op, fmt.Errorf("no time left after %d tries: %w", tries, err))
		}
		if !c.retries.Allow() {
			return nil, c.failed(op, fmt.Errorf("too many calls are being repeated: %w", err))
		}
		c.log.Debug("trying again", "operation", op.name, "error", err, "delay", delay)
		if !wait(ctx, delay) {
			return nil, c.failed(op, err)
		}
	}
}

// once makes a call when a slot is free.
func once[I, O any](ctx context.Context, c *client, f func(context.Context, *I, ...func(*kms.Options)) (*O, error), in *I) (*O, error) {
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
		return f(ctx, in)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// again reports whether op may be tried again after err.
func (op operation) again(err error, tries int) bool {
	switch {
	case errors.Is(err, ErrThrottled):
		return true // AWS did nothing
	case errors.Is(err, backends.ErrKeyNotFound):
		return op.fresh
	case errors.Is(err, backends.ErrUnavailable):
		return op.repeatable && tries < maxLost
	}
	return false
}

// wait reports whether d passed before ctx was done.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// reloadCredentials asks the chain for credentials again, and reports whether they are others than before.
func (c *client) reloadCredentials(ctx context.Context) bool {
	old, _ := c.creds.Retrieve(ctx)
	c.creds.Invalidate()
	now, err := c.creds.Retrieve(ctx)
	return err == nil && (now.AccessKeyID != old.AccessKeyID || now.SecretAccessKey != old.SecretAccessKey || now.SessionToken != old.SessionToken)
}

// failed notes what err says about the whole backend, if anything.
func (c *client) failed(op operation, err error) error {
	general := op.shared && !errors.Is(err, sealed.ErrDamaged)
	for _, sentinel := range []error{backends.ErrUnavailable, ErrCredentials, ErrDenied, ErrRegion} {
		general = general || errors.Is(err, sentinel)
	}
	if general && !errors.Is(err, context.Canceled) {
		c.health.failed(err)
	}
	return err
}
