package sealed

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"fmt"
	"sync"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// device is a Wrapper whose key is in memory.
type device struct {
	name      string
	aead      cipher.AEAD
	credulous bool // authenticates neither the binding nor the name of its key

	mu       sync.Mutex
	unwraps  int
	onUnwrap func() error // called before each; nil: nothing
	closed   int
}

func newDevice(t testing.TB, name string) *device {
	t.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	return &device{name: name, aead: aead}
}

func (d *device) aad(bind Binding) []byte {
	if d.credulous {
		return nil
	}
	return bind.Bytes()
}

func (d *device) Wrap(_ context.Context, key *secret.Buffer, bind Binding) (w Wrapped, err error) {
	err = key.Use(func(k []byte) error {
		w = Wrapped{Key: d.name, Blob: d.aead.Seal(nil, nil, k, d.aad(bind))}
		return nil
	})
	return w, err
}

func (d *device) Unwrap(_ context.Context, w Wrapped, bind Binding) (*secret.Buffer, error) {
	d.mu.Lock()
	d.unwraps++
	hook := d.onUnwrap
	d.mu.Unlock()
	if hook != nil {
		if err := hook(); err != nil {
			return nil, err
		}
	}
	if w.Key != d.name && !d.credulous {
		return nil, fmt.Errorf("%w: wrapped by %q", backends.ErrUnavailable, w.Key)
	}
	k, err := d.aead.Open(nil, nil, w.Blob, d.aad(bind))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return secret.Take(k)
}

func (d *device) Status(context.Context) backends.Status {
	return backends.Status{State: "ready", Detail: "a device in memory"}
}

func (d *device) Close() error {
	d.closed++
	return nil
}

func (d *device) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.unwraps
}
