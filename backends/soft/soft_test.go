package soft_test

import (
	"context"
	"errors"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/soft"
)

func TestBackend(t *testing.T) {
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		b := &soft.Backend{}
		t.Cleanup(func() { b.Close() })
		return b
	})
}

func TestOnSign(t *testing.T) {
	want := backends.Signature{1, 2, 3}
	boom := errors.New("boom")
	var override *backends.Signature
	var fail error
	b := &soft.Backend{OnSign: func(context.Context, [32]byte) (*backends.Signature, error) { return override, fail }}
	k := backendtest.Generate(t, b, "keyward-hook")
	backendtest.Verify(t, k, [32]byte{1})
	override = &want
	if got, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil || got != want {
		t.Errorf("SignDigest = %x, %v, want the override", got, err)
	}
	fail = boom
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, boom) {
		t.Errorf("SignDigest = %v, want the hook's error", err)
	}
}

func TestProtection(t *testing.T) {
	if p := backendtest.Generate(t, &soft.Backend{}, "k").Protection(); p != backends.Resident {
		t.Errorf("default protection = %q", p)
	}
	if p := backendtest.Generate(t, &soft.Backend{Protection: backends.Sealed}, "k").Protection(); p != backends.Sealed {
		t.Errorf("protection = %q, want sealed", p)
	}
}
