package sealed

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// To open a key is no signature: whatever the device answers, and if it does not answer, nothing was signed.
func TestUnwrapFailuresSignNothing(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d})
	k := backendtest.Generate(t, b, "keyward-x")
	for name, unwrap := range map[string]func() error{
		"refused":   func() error { return backends.ErrRefused },
		"no answer": func() error { return context.DeadlineExceeded },
		"damaged":   func() error { return ErrDamaged },
	} {
		d.onUnwrap = unwrap
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
			t.Errorf("%s: %v, want ErrNotSigned", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	d.onUnwrap = func() error { cancel(); return nil } // the answer comes after the caller has left
	sig, err := k.SignDigest(ctx, [32]byte{1})
	if !errors.Is(err, backends.ErrNotSigned) || sig != (backends.Signature{}) {
		t.Errorf("opened too late: %x, %v, want no signature and ErrNotSigned", sig, err)
	}
	d.onUnwrap = nil
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("without its file: %v, want ErrNotSigned", err)
	}
}

// From the signing itself on, it is in doubt.
func TestSigningIsInDoubt(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d"), CacheFor: time.Hour})
	k, other := backendtest.Generate(t, b, "keyward-x").(*key), backendtest.Generate(t, b, "keyward-y").(*key)
	f, err := b.read(k.signer)
	if err != nil {
		t.Fatal(err)
	}
	scalar, err := b.unseal(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer scalar.Close()
	wrong, err := b.read(other.signer)
	if err != nil {
		t.Fatal(err)
	}
	var sending backends.Sending
	if _, err := signWith(scalar, wrong, [32]byte{1}, &sending); err == nil ||
		errors.Is(sending.End(err), backends.ErrNotSigned) {
		t.Errorf("another key's signature: %v, want an error in doubt", err)
	}
	scalar.Close()
	if _, err := signWith(scalar, f, [32]byte{1}, new(backends.Sending)); !errors.Is(err, errWiped) {
		t.Errorf("a wiped key: %v, want errWiped", err)
	}
}
