// Package soft is a backend in memory, for tests: fast, and with faults to order. Its keys
// are not protected by anything, and no build of the agent has it.
package soft

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
)

// Backend keeps keys in memory. The zero value is ready to use.
type Backend struct {
	// OnSign, if not nil, is called before each signature. What it returns, if not both
	// nil, is returned instead of one: a signature that is high, another key's or
	// garbage, or an error. It may block, and should then return when ctx is done.
	// Set it before the first signature.
	OnSign func(ctx context.Context, digest [32]byte) (*backends.Signature, error)
	// Protection is what keys claim to have; "": [backends.Resident], so that tests
	// can go where a policy demands a protected key.
	Protection backends.Protection

	mu     sync.Mutex
	calls  sync.WaitGroup // in flight
	closed bool
	last   int // number of the newest key
	keys   map[string]*key
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Lister  = (*Backend)(nil)
	_ backends.Prober  = (*Backend)(nil)
)

type key struct {
	b       *Backend
	uri     string
	label   string
	private *ecdsa.PrivateKey
}

var _ backends.Key = (*key)(nil)

// begin counts a call in, unless it must not begin; end counts it out.
func (b *Backend) begin(ctx context.Context) (end func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("soft: %w: %w", backends.ErrUnavailable, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("soft: %w: closed", backends.ErrUnavailable)
	}
	b.calls.Add(1)
	return b.calls.Done, nil
}

// Generate makes a key in memory.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	private, err := crypto.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("soft: generating a key: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.keys == nil {
		b.keys = map[string]*key{}
	}
	b.last++
	k := &key{b: b, uri: fmt.Sprintf("soft:%d", b.last), label: attrs.Label, private: private}
	b.keys[k.uri] = k
	return k, nil
}

// Key finds a key by its whole URI.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.keys[uri]
	if !ok {
		return nil, fmt.Errorf("soft: %w: %q", backends.ErrKeyNotFound, uri)
	}
	return k, nil
}

func (b *Backend) destroyed(uri string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.keys[uri] == nil
}

// Keys lists keys from the oldest.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []backends.ListedKey
	for _, k := range b.keys {
		if strings.HasPrefix(k.label, prefix) {
			list = append(list, backends.ListedKey{Key: k, Label: k.label})
		}
	}
	slices.SortFunc(list, func(x, y backends.ListedKey) int {
		a, b := x.Key.URI(), y.Key.URI()
		return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
	})
	return list, nil
}

// Destroy deletes a key.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	end, err := b.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.keys[uri]; !ok {
		return fmt.Errorf("soft: %w: %q", backends.ErrKeyNotFound, uri)
	}
	delete(b.keys, uri)
	return nil
}

// Close waits for calls in flight. The keys are gone.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.calls.Wait()
	return nil
}

// Status is "ready" until Close.
func (b *Backend) Status(ctx context.Context) backends.Status {
	end, err := b.begin(ctx)
	if err != nil {
		return backends.Status{State: "unavailable", Detail: err.Error()}
	}
	defer end()
	return backends.Status{State: "ready", Detail: "keys in memory, for tests"}
}

func (k *key) URI() string              { return k.uri }
func (k *key) Public() *ecdsa.PublicKey { return &k.private.PublicKey }

func (k *key) Protection() backends.Protection {
	return cmp.Or(k.b.Protection, backends.Resident)
}

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	end, err := k.b.begin(ctx)
	if err != nil {
		return backends.Signature{}, backends.NotSigned(err)
	}
	defer end()
	if k.b.destroyed(k.uri) {
		return backends.Signature{}, backends.NotSigned(fmt.Errorf("soft: %w: %q", backends.ErrKeyNotFound, k.uri))
	}
	if k.b.OnSign != nil {
		sig, err := k.b.OnSign(ctx, digest)
		if err != nil {
			return backends.Signature{}, fmt.Errorf("soft: signing: %w", err)
		}
		if sig != nil {
			return *sig, nil
		}
	}
	raw, err := crypto.Sign(digest[:], k.private) // low S
	if err != nil {
		return backends.Signature{}, fmt.Errorf("soft: signing: %w", err)
	}
	return backends.Signature(raw[:64]), nil
}
