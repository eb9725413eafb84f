// Package sealed keeps secp256k1 keys for devices that can't sign with that curve, or where
// a key in the device costs too much. The agent makes the key; on disk it is encrypted,
// and only the device can open it. It is in the clear while it signs, in memory that is
// locked, left out of core dumps and wiped afterwards.
//
// # Two layers
//
// Each key has a file of its own, encrypted with a random file key (AES-256-GCM). The device,
// a [Wrapper], sees the file key alone. So the signing key never passes through the
// buffers of an SDK, of TLS or of a card driver, and a cloud provider never has it.
// Whoever wants the signing key needs both the file and the device.
//
// # What is bound to what
//
// Every byte of the file is authenticated by the file key, and the device authenticates the
// [Binding]: whose key it is. A file that was renamed, altered, or put together
// from two others does not open ([ErrDamaged]). The file's name is the signer's address.
package sealed

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/keyfile"
	"github.com/keyward/keyward/internal/secret"
)

// ErrDamaged: a key file is not what [Backend.Generate] wrote, or not for the key that it
// is named after. Trying again does not help.
var ErrDamaged = backends.ErrKeyDamaged

// Binding says whose key is sealed. A Wrapper authenticates all of it.
type Binding struct {
	Label   string         // as in [backends.KeyAttributes]
	Signer  common.Address // of the sealed key
	Account string         // as in [backends.KeyAttributes]
	ChainID uint64
}

// Bytes is an encoding of b that no other Binding has, for a device that
// authenticates bytes: HPKE's info, an AEAD's additional data.
func (b Binding) Bytes() []byte {
	out := []byte("keyward sealed key 1\n")
	for _, field := range []string{b.Label, string(b.Signer[:]), b.Account} {
		out = binary.BigEndian.AppendUint32(out, uint32(len(field)))
		out = append(out, field...)
	}
	return binary.BigEndian.AppendUint64(out, b.ChainID)
}

// Wrapped is a secret that a device has encrypted.
type Wrapped struct {
	// Key names the device's key for good, say by its ARN or by a card's serial number,
	// slot and public key. At most 512 bytes.
	Key  string
	Blob []byte // not empty; at most 8 KiB
}

// Wrapper is a device that encrypts 32-byte secrets. Its methods are safe for concurrent use,
// return within the context's deadline, and return the errors of package backends.
type Wrapper interface {
	// Wrap encrypts key. The Buffer stays the caller's.
	Wrap(ctx context.Context, key *secret.Buffer, bind Binding) (Wrapped, error)
	// Unwrap decrypts what Wrap returned; the caller closes the Buffer. It gives
	// [ErrDamaged] if w was altered or bind is not what it was wrapped with, and
	// [backends.ErrUnavailable] if w.Key is a key of another device.
	Unwrap(ctx context.Context, w Wrapped, bind Binding) (*secret.Buffer, error)
	// Status is that of [backends.Prober].
	Status(ctx context.Context) backends.Status
	// Close releases the device. No other call is in flight or follows.
	Close() error
}

// Config says where keys are kept, and how.
type Config struct {
	Name    string // in errors and logs: the type and name of the backend
	Dir     string // absolute; made if it is not there. One agent uses it at a time.
	Wrapper Wrapper
	// CacheFor keeps a key open in locked memory for this long after the device opened
	// it, so that the device is not asked for each signature. 0: not at all.
	CacheFor time.Duration
	Logger   *slog.Logger // nil: nothing is logged
}

// Backend keeps sealed keys in a directory.
type Backend struct {
	cfg Config
	log *slog.Logger
	dir *keyfile.Dir

	mu      sync.Mutex     // never held across a call to the device or a disk
	calls   sync.WaitGroup // in flight; added to under mu
	closing bool
	closed  sync.Once
	cache   map[common.Address]*opened
}

var (
	_ backends.Backend = (*Backend)(nil)
	_ backends.Lister  = (*Backend)(nil)
	_ backends.Prober  = (*Backend)(nil)
)

// Open makes the directory if need be, and clears it of what a crash left there. The Backend
// owns cfg.Wrapper from then on; if Open fails, the caller still does.
func Open(cfg Config) (*Backend, error) {
	b := &Backend{cfg: cfg, log: cfg.Logger, cache: map[common.Address]*opened{}}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if cfg.CacheFor < 0 {
		return nil, b.wrap("opening", errors.New("the cache time can't be negative"))
	}
	var err error
	if b.dir, err = keyfile.Open(cfg.Dir, b.log); err != nil {
		return nil, b.wrap("opening", err)
	}
	return b, nil
}

// begin counts a call in, unless it must not begin; end counts it out.
func (b *Backend) begin(ctx context.Context) (end func(), err error) {
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, fmt.Errorf("%w: the backend is closed", backends.ErrUnavailable)
	}
	b.calls.Add(1)
	return b.calls.Done, nil
}

// wrap gives err, of the operation what, the backend's name.
func (b *Backend) wrap(what string, err error) error {
	return fmt.Errorf("%s: %s: %w", b.cfg.Name, what, err)
}

// Generate makes a key and seals it. Before its file is written, the device has to open
// it again: what can't be opened must not become a session's key.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, backends.NotMade(b.wrap("generating a key", err))
	}
	defer end()
	f, err := b.seal(ctx, attrs)
	if err != nil {
		return nil, backends.NotMade(b.wrap("generating a key", err))
	}
	if err := b.dir.Write(f.signer(), f.marshal()); err != nil {
		return nil, b.wrap("generating a key", err)
	}
	return b.newKey(f), nil
}

// Key finds a key by its whole URI. The device is not asked.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, b.wrap("finding a key", err)
	}
	defer end()
	signer, err := parseURI(uri)
	if err != nil {
		return nil, b.wrap("finding a key", err)
	}
	f, err := b.read(signer)
	if err != nil {
		return nil, b.wrap("finding a key", err)
	}
	return b.newKey(f), nil
}

// Keys lists keys by address. The device is not asked. A damaged file is logged and left out.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return nil, b.wrap("listing keys", err)
	}
	defer end()
	signers, err := b.dir.Signers()
	if err != nil {
		return nil, b.wrap("listing keys", err)
	}
	var list []backends.ListedKey
	for _, signer := range signers {
		f, err := b.read(signer)
		if errors.Is(err, backends.ErrKeyNotFound) {
			continue // destroyed since
		}
		if err != nil {
			b.log.Warn("key is not usable", "backend", b.cfg.Name, "error", err)
			continue
		}
		if strings.HasPrefix(f.label, prefix) {
			list = append(list, backends.ListedKey{Key: b.newKey(f), Label: f.label})
		}
	}
	return list, nil
}

// Destroy overwrites the key's file and removes it, a damaged one too. The device is not
// asked. On file systems that write elsewhere instead, and on flash, the old
// bytes may stay for a while: without the device they are worth nothing.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	end, err := b.begin(ctx)
	if err != nil {
		return b.wrap("destroying a key", err)
	}
	defer end()
	signer, err := parseURI(uri)
	if err != nil {
		return b.wrap("destroying a key", err)
	}
	err = b.dir.Remove(signer)
	b.forget(signer) // after its file: see keep
	if err != nil {
		return b.wrap("destroying a key", err)
	}
	return nil
}

// Forget wipes all keys that are kept open.
func (b *Backend) Forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for signer := range b.cache {
		b.forgetLocked(signer)
	}
}

// Close waits for calls in flight, wipes keys that are kept open and closes the Wrapper.
func (b *Backend) Close() (err error) {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.calls.Wait()
	b.Forget()
	b.closed.Do(func() { err = b.cfg.Wrapper.Close() })
	if err != nil {
		return b.wrap("closing", err)
	}
	return nil
}

// Status is the device's.
func (b *Backend) Status(ctx context.Context) backends.Status {
	end, err := b.begin(ctx)
	if err != nil {
		return backends.Status{State: "unavailable", Detail: b.wrap("asking the device", err).Error()}
	}
	defer end()
	return b.cfg.Wrapper.Status(ctx)
}
