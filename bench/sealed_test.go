package bench

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"log/slog"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// openSealed returns a backend whose keys are sealed to a device in memory, and are kept open.
func openSealed(b *testing.B) backends.Backend {
	b.Helper()
	key := make([]byte, 32)
	rand.Read(key)
	block, err := aes.NewCipher(key)
	if err != nil {
		b.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		b.Fatal(err)
	}
	backend, err := sealed.Open(sealed.Config{
		Name: "sealed", Dir: b.TempDir(), Wrapper: &wrapper{aead}, CacheFor: time.Hour, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := backend.Close(); err != nil {
			b.Error(err)
		}
	})
	return backend
}

// wrapper is a device in memory, which answers immediately.
type wrapper struct{ aead cipher.AEAD }

func (w *wrapper) Wrap(_ context.Context, key *secret.Buffer, bind sealed.Binding) (out sealed.Wrapped, err error) {
	err = key.Use(func(k []byte) error {
		out = sealed.Wrapped{Key: "memory", Blob: w.aead.Seal(nil, nil, k, bind.Bytes())}
		return nil
	})
	return out, err
}

func (w *wrapper) Unwrap(_ context.Context, in sealed.Wrapped, bind sealed.Binding) (*secret.Buffer, error) {
	plain, err := w.aead.Open(nil, nil, in.Blob, bind.Bytes())
	if err != nil {
		return nil, sealed.ErrDamaged
	}
	return secret.Take(plain)
}

func (w *wrapper) Status(context.Context) backends.Status { return backends.Status{State: "ready"} }

func (w *wrapper) Close() error { return nil }
