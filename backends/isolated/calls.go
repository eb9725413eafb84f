package isolated

import (
	"context"
	"errors"
	"strings"

	"github.com/keyward/keyward/backends"
)

func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	k, err := b.oneKey(ctx, "generating a key", opGenerate, attrs)
	if errors.Is(err, backends.ErrNotSigned) { // the other side was not asked
		err = backends.NotMade(err)
	}
	return k, err
}

func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	return b.oneKey(ctx, "finding the key", opKey, uri)
}

func (b *Backend) oneKey(ctx context.Context, what string, o op, in any) (backends.Key, error) {
	var info keyInfo
	if err := b.do(ctx, o, marshal(in), &info); err != nil {
		return nil, b.wrap(what, err)
	}
	k, err := b.newKey(info)
	if err != nil {
		return nil, b.wrap(what, err)
	}
	return k, nil
}

func (b *Backend) Destroy(ctx context.Context, uri string) error {
	if err := b.do(ctx, opDestroy, marshal(uri), nil); err != nil {
		return b.wrap("destroying the key", err)
	}
	return nil
}

func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	var infos []keyInfo
	if err := b.do(ctx, opKeys, marshal(prefix), &infos); err != nil {
		return nil, b.wrap("listing keys", err)
	}
	var list []backends.ListedKey
	for _, info := range infos {
		k, err := b.newKey(info)
		if err != nil {
			return nil, b.wrap("listing keys", err)
		}
		list = append(list, backends.ListedKey{Key: k, Label: info.Label})
	}
	return list, nil
}

// Status is the child's backend's; while that waits for a person, it says so at once.
func (b *Backend) Status(ctx context.Context) backends.Status {
	if what := (waiter{b}).Waiting(); what != "" {
		return backends.Status{State: "ready", Detail: what}
	}
	var st backends.Status
	if err := b.do(ctx, opStatus, nil, &st); err != nil {
		st = backends.Status{State: "unavailable", Detail: b.wrap("asking for the state", err).Error()}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if crashed := b.crashes.String(); crashed != "" {
		st.Detail = strings.TrimPrefix(st.Detail+"; "+crashed, "; ")
	}
	return st
}

// count is what [Backend.Signatures] returns, on the wire.
type count struct {
	N      uint64 `json:"n"`
	Counts bool   `json:"counts"`
}

// Counts implements [backends.Counter].
func (b *Backend) Counts() bool { return b.counts }

// Signatures is the child's backend's, if that of the first child was a [backends.Counter].
func (b *Backend) Signatures(ctx context.Context, uri string) (n uint64, counts bool, err error) {
	var c count
	if !b.counts {
		return 0, false, nil
	}
	if err := b.do(ctx, opCount, marshal(uri), &c); err != nil {
		return 0, false, b.wrap("reading the device's counter of signatures", err)
	}
	return c.N, c.Counts, nil
}

// waiter is what a Backend has more if its device may wait for a person.
type waiter struct{ b *Backend }

func (w waiter) Waiting() string {
	w.b.mu.Lock()
	c := w.b.child
	w.b.mu.Unlock()
	if !c.alive() {
		return ""
	}
	return c.waiting.is()
}

// attester is what a Backend has more if its child's backend attests keys.
type attester struct{ b *Backend }

func (a attester) Attest(ctx context.Context, uri string) (*backends.Attestation, error) {
	at := new(backends.Attestation)
	if err := a.b.do(ctx, opAttest, marshal(uri), at); err != nil {
		return nil, a.b.wrap("attesting the key", err)
	}
	return at, nil
}

// rewrapper is what a Backend has more if its child's backend encrypts keys again.
type rewrapper struct{ b *Backend }

func (r rewrapper) Rewrap(ctx context.Context, uri string) (done bool, err error) {
	if err := r.b.do(ctx, opRewrap, marshal(uri), &done); err != nil {
		return false, r.b.wrap("encrypting the key again", err)
	}
	return done, nil
}

// Concurrency is that of the backend in the first child, or of one that says nothing of it.
func (b *Backend) Concurrency() int {
	if b.concurrency < 1 {
		return backends.DefaultConcurrency
	}
	return b.concurrency
}
