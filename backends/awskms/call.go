package awskms

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// operation says what a call is, for errors and for what may be done when it fails.
type operation struct {
	name string // AWS's: "Sign"; the permission is kms:Sign
	on   string // an ARN, or an alias; "*": no key
	// once: doing it again makes a difference.
	once bool
	// fresh: the key was made a moment ago, and KMS, being eventually consistent, may not know
	// it everywhere yet.
	fresh bool
}

// call makes a call, and repeats it while that is safe and there is time.
func call[I, O any](ctx context.Context, c *client, op operation,
	f func(context.Context, *I, ...func(*kms.Options)) (*O, error), in *I) (*O, error) {
	out, err := repeated(ctx, c, op, f, in)
	if errors.Is(err, ErrCredentials) && c.reloadCredentials(ctx) {
		out, err = repeated(ctx, c, op, f, in)
	}
	if state := new(stateError); errors.As(err, &state) {
		err = c.explainState(kmscall.WithoutSending(ctx), op, state)
	}
	if err != nil {
		return nil, err
	}
	return out, nil
}

func repeated[I, O any](ctx context.Context, c *client, op operation,
	f func(context.Context, *I, ...func(*kms.Options)) (*O, error), in *I) (*O, error) {
	try := func(ctx context.Context) (*O, error) {
		out, err := f(ctx, in)
		if err != nil {
			if refusal(err) && !kmscall.ForeignRoots() {
				kmscall.Refused(ctx)
			}
			return nil, c.explain(op, err)
		}
		return out, nil
	}
	do := kmscall.Do[*O]
	if op.once {
		do = kmscall.Once[*O]
	}
	out, err := do(ctx, c.caller, try)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("kms:%s on %s: %w", op.name, op.on, err)
	}
	return out, err
}

// classify is the client's [kmscall.Config.Classify].
func classify(err error) (kmscall.Class, time.Duration) {
	switch {
	case errors.Is(err, ErrThrottled), errors.Is(err, errNotYet):
		return kmscall.Throttled, 0 // AWS did nothing
	case errors.Is(err, backends.ErrUnavailable):
		return kmscall.Unanswered, 0
	}
	return kmscall.Final, 0
}

// reloadCredentials asks the chain for credentials again, and reports whether they are others than before.
func (c *client) reloadCredentials(ctx context.Context) bool {
	old, _ := c.creds.Retrieve(ctx)
	c.creds.Invalidate()
	now, err := c.creds.Retrieve(ctx)
	return err == nil && (now.AccessKeyID != old.AccessKeyID || now.SecretAccessKey != old.SecretAccessKey ||
		now.SessionToken != old.SessionToken)
}

// probeEvery is how long the result of a call stands for the state of KMS.
const probeEvery = time.Minute

// status is the state of KMS as the last call found it, so that asking costs no quota. If that was
// a while ago, probe makes a call, of a kind that has a quota apart from that of signing and decrypting.
func (c *client) status(ctx context.Context, detail string, probe func(context.Context) error) backends.Status {
	unavailable := func(err error) backends.Status {
		return backends.Status{State: "unavailable", Detail: c.wrap("asking AWS", err).Error()}
	}
	ctx, end, err := c.begin(ctx)
	if err != nil {
		return unavailable(err)
	}
	defer end()
	ago, err := c.caller.Trouble()
	if ago > probeEvery {
		err = probe(ctx)
	}
	if err != nil {
		return unavailable(err)
	}
	return backends.Status{State: "ready", Detail: detail}
}
