package session

import (
	"context"
	"crypto/ecdsa"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
)

// simDevice is a device whose keys and faults follow from the seed. It outlives the agent's process.
type simDevice struct {
	seed uint64

	mu    sync.Mutex
	made  uint64
	keys  map[string]*simKey // by URI
	tries map[[32]byte]uint64
}

// simPort is the device as one process sees it: after its crash nothing reaches the device.
type simPort struct {
	*simDevice
	agent *simAgent
}

func (p simPort) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	if p.agent.dead.Load() {
		return nil, backends.ErrUnavailable
	}
	return p.simDevice.Generate(ctx, attrs)
}

func (p simPort) Destroy(ctx context.Context, uri string) error {
	if p.agent.dead.Load() {
		return backends.ErrUnavailable
	}
	return p.simDevice.Destroy(ctx, uri)
}

type simKey struct {
	dev     *simDevice
	uri     string
	label   string
	private *ecdsa.PrivateKey
}

var (
	_ backends.Backend = simPort{}
	_ backends.Lister  = simPort{}
	_ backends.Limited = simPort{}
)

// chance is a number that follows from the seed, what it is for, and n.
func chance(seed uint64, what []byte, n uint64) uint64 {
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, seed), n))
	h.Write(what)
	x := h.Sum64() // FNV mixes its last bytes badly
	x = (x ^ x>>31) * 0x9e3779b97f4a7c15
	return x ^ x>>29
}

func (d *simDevice) Concurrency() int { return 4 }

func (d *simDevice) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	d.mu.Lock()
	d.made++
	n := d.made
	d.mu.Unlock()
	fate := chance(d.seed, []byte("generate"), n)
	if err := wait(ctx, time.Duration(fate%300)*time.Millisecond); err != nil {
		return nil, err
	}
	if fate>>10%10 == 0 {
		return nil, fmt.Errorf("%w: no key was made", backends.ErrUnavailable)
	}
	private, err := crypto.ToECDSA(crypto.Keccak256(fmt.Appendf(nil, "%d %d", d.seed, n)))
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	k := &simKey{dev: d, uri: fmt.Sprintf("sim:%d", n), label: attrs.Label, private: private}
	d.keys[k.uri] = k
	return k, nil
}

func (d *simDevice) Key(_ context.Context, uri string) (backends.Key, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if k := d.keys[uri]; k != nil {
		return k, nil
	}
	return nil, fmt.Errorf("%w: %s", backends.ErrKeyNotFound, uri)
}

func (d *simDevice) Keys(_ context.Context, prefix string) (found []backends.ListedKey, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range d.keys {
		if strings.HasPrefix(k.label, prefix) {
			found = append(found, backends.ListedKey{Key: k, Label: k.label})
		}
	}
	return found, nil
}

func (d *simDevice) Destroy(_ context.Context, uri string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.keys[uri] == nil {
		return backends.ErrKeyNotFound
	}
	delete(d.keys, uri)
	return nil
}

func (d *simDevice) Close() error { return nil }

func (k *simKey) URI() string                     { return k.uri }
func (k *simKey) Public() *ecdsa.PublicKey        { return &k.private.PublicKey }
func (k *simKey) Protection() backends.Protection { return backends.Resident }

// SignDigest signs, late, or fails before, loses the answer, hangs, or answers with flipped bits.
func (k *simKey) SignDigest(ctx context.Context, digest [32]byte) (sig backends.Signature, err error) {
	k.dev.mu.Lock()
	k.dev.tries[digest]++
	fate := chance(k.dev.seed, digest[:], k.dev.tries[digest])
	k.dev.mu.Unlock()
	if fate>>20%3 > 0 {
		if err := wait(ctx, time.Duration(fate>>8%1500)*time.Millisecond); err != nil {
			return sig, err
		}
	}
	switch fate % 40 {
	case 0:
		return sig, fmt.Errorf("%w: perhaps signed", backends.ErrUnavailable)
	case 1:
		return sig, fmt.Errorf("%w: %w", backends.ErrUnavailable, backends.ErrNotSigned)
	case 2:
		return sig, wait(ctx, time.Hour)
	case 3:
		err = fmt.Errorf("%w: the answer was lost", backends.ErrUnavailable)
	}
	rsv, signErr := crypto.Sign(digest[:], k.private)
	if signErr != nil {
		return sig, signErr
	}
	copy(sig[:], rsv)
	if fate%40 == 4 {
		sig[fate>>40%64] ^= 1 << (fate >> 50 % 8)
	}
	return sig, err
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", backends.ErrUnavailable, ctx.Err())
	}
}
