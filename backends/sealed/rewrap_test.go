package sealed

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

// A Wrapper without versions seals each key again: under a new file key, with every other line of the file as it was.
func TestRewrap(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d, CacheFor: time.Hour})
	k := backendtest.Generate(t, b, "keyward-x").(*key)
	before, err := b.read(k.signer)
	if err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{1}) // it is kept open
	if done, err := b.Rewrap(t.Context(), k.URI()); !done || err != nil {
		t.Fatalf("Rewrap = %v, %v", done, err)
	}
	after, err := b.read(k.signer)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(before.sealed, after.sealed) || bytes.Equal(before.wrapped.Blob, after.wrapped.Blob) {
		t.Error("the key is sealed as before")
	}
	if before.binding() != after.binding() || !bytes.Equal(before.point, after.point) {
		t.Errorf("%+v is %+v now", before.binding(), after.binding())
	}
	unwraps := d.unwraps
	backendtest.Verify(t, k, [32]byte{2})
	if d.unwraps == unwraps {
		t.Error("the key of the old file is still open")
	}
}

// Whatever the device and the disk refuse, the key is usable as before.
func TestRewrapThatFails(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d})
	k := backendtest.Generate(t, b, "keyward-x").(*key)
	unchanged := func(what string, before []byte) {
		t.Helper()
		if done, err := b.Rewrap(t.Context(), k.URI()); done || err == nil {
			t.Errorf("%s: Rewrap = %v, %v, want an error", what, done, err)
		}
		d.onUnwrap = nil
		if now, err := os.ReadFile(b.path(k.signer)); err != nil || !bytes.Equal(now, before) {
			t.Errorf("%s: the file changed (%v)", what, err)
		}
		backendtest.Verify(t, k, [32]byte{1})
	}
	before, err := os.ReadFile(b.path(k.signer))
	if err != nil {
		t.Fatal(err)
	}
	d.onUnwrap = func() error { return backends.ErrUnavailable }
	unchanged("the device opens nothing", before)
	opened := 0
	d.onUnwrap = func() error { // what was sealed again does not open
		if opened++; opened == 2 {
			return backends.ErrUnavailable
		}
		return nil
	}
	unchanged("it does not open again", before)
}

// A key that is destroyed while it is sealed again does not come back.
func TestDestroyDuringRewrap(t *testing.T) {
	d := newDevice(t, "d")
	b := open(t, Config{Wrapper: d})
	k := backendtest.Generate(t, b, "keyward-x").(*key)
	opened := 0
	d.onUnwrap = func() error {
		if opened++; opened == 2 {
			return b.Destroy(t.Context(), k.URI())
		}
		return nil
	}
	if done, err := b.Rewrap(t.Context(), k.URI()); done || !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Rewrap = %v, %v, want ErrKeyNotFound", done, err)
	}
	if _, err := os.Lstat(b.path(k.signer)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is back: %v", err)
	}
}
