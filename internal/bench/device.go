package bench

import (
	"context"
	"fmt"
	"strings"

	"github.com/keyward/keyward/backends"
)

// borrowed is in front of the URI of a key that is not the benchmark's to destroy.
const borrowed = "borrowed:"

// Device is a backend under test. It hands out fresh keys, or else the one key that it borrows.
type Device struct {
	backends.Backend
	Borrow string // URI of an existing key to sign with; "": fresh keys are made, and destroyed afterwards
}

var (
	_ backends.Backend = (*Device)(nil)
	_ backends.Lister  = (*Device)(nil)
	_ backends.Limited = (*Device)(nil)
)

// Concurrency is the backend's, so that the same queue is in front of it as in an agent.
func (d *Device) Concurrency() int {
	if limited, ok := d.Backend.(backends.Limited); ok {
		return limited.Concurrency()
	}
	return backends.DefaultConcurrency
}

// Generate makes a key, or finds the one that is borrowed.
func (d *Device) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	if d.Borrow == "" {
		return d.Backend.Generate(ctx, attrs)
	}
	return d.Key(ctx, borrowed+d.Borrow)
}

// Key finds a key, borrowed or not.
func (d *Device) Key(ctx context.Context, uri string) (backends.Key, error) {
	theirs, isBorrowed := strings.CutPrefix(uri, borrowed)
	key, err := d.Backend.Key(ctx, theirs)
	if err != nil || !isBorrowed {
		return key, err
	}
	return &borrowedKey{key}, nil
}

// Destroy destroys a key that was made for the benchmark. A borrowed one stays, also where it was
// borrowed by a run that was killed.
func (d *Device) Destroy(ctx context.Context, uri string) error {
	if strings.HasPrefix(uri, borrowed) {
		return nil
	}
	return d.Backend.Destroy(ctx, uri)
}

// Keys lists the keys of the backend, by which a key is found that a killed run has made.
func (d *Device) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	lister, ok := d.Backend.(backends.Lister)
	if !ok {
		return nil, fmt.Errorf("%T can't list its keys", d.Backend)
	}
	return lister.Keys(ctx, prefix)
}

type borrowedKey struct{ backends.Key }

func (k *borrowedKey) URI() string { return borrowed + k.Key.URI() }
