package pkcs11_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// TestDeviceErrors has C_Sign fail once in each way that a device that went away and is
// back fails: the caller sees nothing of it.
func TestDeviceErrors(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	for _, rv := range []uint64{
		p11.CKR_DEVICE_ERROR, p11.CKR_DEVICE_REMOVED, p11.CKR_TOKEN_NOT_PRESENT, p11.CKR_SESSION_HANDLE_INVALID,
		p11.CKR_SESSION_CLOSED, p11.CKR_USER_NOT_LOGGED_IN, p11.CKR_GENERAL_ERROR, p11.CKR_OBJECT_HANDLE_INVALID,
		p11.CKR_KEY_HANDLE_INVALID,
	} {
		t.Run(p11.Error(rv).Error(), func(t *testing.T) {
			ctl.On("Sign").Set(softhsmtest.Return, rv, 1)
			backendtest.Verify(t, k, [32]byte{1})
			if ctl.On("Sign").Left() != 0 {
				t.Error("the fault was not met")
			}
		})
	}
}

// TestStaleHandleNeedsNoReconnect: one key that is gone must not disturb the others.
func TestStaleHandleNeedsNoReconnect(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	before := ctl.On("Initialize").Calls()
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_OBJECT_HANDLE_INVALID, 1)
	backendtest.Verify(t, k, [32]byte{1})
	if n := ctl.On("Initialize").Calls() - before; n != 0 {
		t.Errorf("C_Initialize was called %d times", n)
	}
}

// TestOtherErrorsAreNotRepeated: an error that is no sign of a lost device is the
// caller's, and the p11Session it happened on is not used again.
func TestOtherErrorsAreNotRepeated(t *testing.T) {
	cfg, ctl := newShim(t)
	cfg.Sessions = 1
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	calls, inits := ctl.On("Sign").Calls(), ctl.On("Initialize").Calls()
	// the shim does not pass the call on: the operation stays active
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_FUNCTION_REJECTED, 1)
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	if !errors.Is(err, p11.Error(p11.CKR_FUNCTION_REJECTED)) || errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("SignDigest = %v, want CKR_FUNCTION_REJECTED alone", err)
	}
	if n := ctl.On("Sign").Calls() - calls; n != 1 {
		t.Errorf("C_Sign was called %d times, want once", n)
	}
	backendtest.Verify(t, k, [32]byte{2})
	if n := ctl.On("Initialize").Calls() - inits; n != 0 {
		t.Errorf("C_Initialize was called %d times", n)
	}
}

// TestDeadDevice: while the device is dead, calls say so soon and it is not hammered; when it is
// back it is used again within about a second.
func TestDeadDevice(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	inits := ctl.On("Initialize").Calls()
	ctl.On("Initialize").Set(softhsmtest.Return, p11.CKR_DEVICE_ERROR, 1<<40)
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_DEVICE_ERROR, 1)
	for range 200 {
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) {
			t.Fatalf("SignDigest = %v, want ErrUnavailable", err)
		}
	}
	if n := ctl.On("Initialize").Calls() - inits; n < 1 || n > 10 {
		t.Errorf("C_Initialize was called %d times for 200 calls", n)
	}
	if st := b.Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status = %+v, want unavailable", st)
	}
	ctl.On("Initialize").Set(softhsmtest.Return, 0, 0)
	recovers(t, k)
}

// TestManyCallersOneReconnect: all callers meet the fault, one reconnects.
func TestManyCallersOneReconnect(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	inits := ctl.On("Initialize").Calls()
	ctl.On("Sign").Set(softhsmtest.Hang, p11.CKR_DEVICE_ERROR, 4) // so that four are in C_Sign together
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil {
				t.Errorf("SignDigest = %v", err)
			}
		})
	}
	waitHanging(t, ctl, 4)
	ctl.Release.Store(1)
	wg.Wait()
	if n := ctl.On("Initialize").Calls() - inits; n != 1 {
		t.Errorf("C_Initialize was called %d times, want once", n)
	}
}

// TestHang: a call that hangs holds up only its caller, and that one only until its deadline.
func TestHang(t *testing.T) {
	cfg, ctl := newShim(t)
	cfg.Sessions = 2
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	ctl.On("Sign").Set(softhsmtest.Hang, 0, 1)
	t.Cleanup(func() { ctl.Release.Store(1) })

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := k.SignDigest(ctx, [32]byte{1})
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("SignDigest = %v, want DeadlineExceeded and ErrUnavailable", err)
	}
	waitHanging(t, ctl, 1)
	for range 20 {
		backendtest.Verify(t, k, [32]byte{2})
	}
	waitFree(t, b, 1) // not the one that hangs
	if n := ctl.Hanging.Load(); n != 1 {
		t.Errorf("%d calls hang, want 1", n)
	}
	ctl.Release.Store(1)
	waitFree(t, b, 2)
	backendtest.Verify(t, k, [32]byte{3})
}

// TestHangEverywhere: with all lanes hanging nothing signs, but everybody gets an answer,
// Close included, and nobody finalizes the module.
func TestHangEverywhere(t *testing.T) {
	cfg, ctl := newShim(t)
	cfg.Sessions, cfg.OpTimeout = 2, 100*time.Millisecond
	b, err := pkcs11.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	k := backendtest.Generate(t, b, "keyward-x")
	ctl.On("Sign").Set(softhsmtest.Hang, 0, 2)
	for range 3 {
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("SignDigest = %v, want ErrUnavailable", err)
		}
	}
	waitHanging(t, ctl, 2)
	if st := b.Status(t.Context()); st.State != "unavailable" {
		t.Errorf("Status = %+v, want unavailable", st)
	}
	if err := b.Unlock(t.Context(), nil); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("Unlock = %v, want ErrUnavailable", err)
	}
	if err := b.Lock(t.Context()); !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("Lock = %v, want ErrUnavailable", err)
	}
	if err := b.Close(); err == nil || !strings.Contains(err.Error(), "not finalized") {
		t.Errorf("Close = %v, want an error that says what was left", err)
	}
	ctl.Release.Store(1)
	eventually(t, 3*time.Second, func() error {
		if n := ctl.Hanging.Load() + ctl.Busy.Load(); n != 0 {
			return fmt.Errorf("%d calls hang", n)
		}
		return nil
	})
	if err := b.Close(); err != nil { // so that later tests have the module
		t.Errorf("Close once nothing hangs = %v", err)
	}
}

// TestBitFlip: a signature that the device spoiled comes out, as the contract has it, and the
// caller's check catches it.
func TestBitFlip(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	ctl.SignFlip.Store(1)
	digest := [32]byte{1}
	sig, err := k.SignDigest(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := backends.Recoverable(uncompressed(k), digest, sig); !errors.Is(err, backends.ErrBadSignature) {
		t.Errorf("Recoverable = %v, want ErrBadSignature", err)
	}
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-bad"}); !errors.Is(err,
		backends.ErrBadSignature) {
		t.Errorf("Generate = %v, want ErrBadSignature", err)
	}
	ctl.SignFlip.Store(0)
	wantLabels(t, b, "keyward-x")
}

// TestGenerateFaults: whatever fails, no key is left behind.
func TestGenerateFaults(t *testing.T) {
	tests := []struct {
		name string
		set  func(*softhsmtest.Faults)
		ok   bool // a second go gives a key
	}{
		{"answer lost", func(c *softhsmtest.Faults) {
			c.On("GenerateKeyPair").Set(softhsmtest.Lose, p11.CKR_DEVICE_ERROR,
				1)
		}, true},
		{"answer lost twice", func(c *softhsmtest.Faults) {
			c.On("GenerateKeyPair").Set(softhsmtest.Lose,
				p11.CKR_DEVICE_ERROR, 2)
		}, false},
		{"extractable", func(c *softhsmtest.Faults) { c.Lie.Store(p11.CKA_EXTRACTABLE) }, false},
		{"not sensitive", func(c *softhsmtest.Faults) { c.Lie.Store(p11.CKA_SENSITIVE) }, false},
		{"was not always sensitive", func(c *softhsmtest.Faults) { c.Lie.Store(p11.CKA_ALWAYS_SENSITIVE) }, false},
		{"was extractable", func(c *softhsmtest.Faults) { c.Lie.Store(p11.CKA_NEVER_EXTRACTABLE) }, false},
		{"made elsewhere", func(c *softhsmtest.Faults) { c.Lie.Store(p11.CKA_LOCAL) }, false},
		{"does not sign", func(c *softhsmtest.Faults) { c.On("Sign").Set(softhsmtest.Return, p11.CKR_FUNCTION_REJECTED, 1) },
			false},
		{"lost while tried", func(c *softhsmtest.Faults) { c.On("Sign").Set(softhsmtest.Return, p11.CKR_DEVICE_ERROR, 1) },
			true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ctl := newShim(t)
			b := softhsmtest.Open(t, cfg)
			tt.set(ctl)
			k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
			if (err == nil) != tt.ok {
				t.Fatalf("Generate = %v, want success %v", err, tt.ok)
			}
			if tt.ok {
				backendtest.Verify(t, k, [32]byte{1})
				wantLabels(t, b, "keyward-x")
				return
			}
			said := strings.Contains(err.Error(), "may be left")
			if n := rawCount(t, cfg, b); n != 0 && !said {
				t.Errorf("%d objects are left, and the error does not say so: %v", n, err)
			}
		})
	}
}

// TestGenerateTooLate: a key that comes after the caller left is destroyed.
func TestGenerateTooLate(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	ctl.On("GenerateKeyPair").Set(softhsmtest.HangAfter, 0, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := b.Generate(ctx, backends.KeyAttributes{Label: "keyward-late"})
	if !errors.Is(err, backends.ErrUnavailable) || !strings.Contains(err.Error(), "may be left") {
		t.Errorf("Generate = %v, want ErrUnavailable that says a key may be left", err)
	}
	waitHanging(t, ctl, 1)
	if n := rawCount(t, cfg, b); n != 2 {
		t.Fatalf("the token has %d objects while the answer hangs, want the pair", n)
	}
	ctl.Release.Store(1)
	eventually(t, 3*time.Second, func() error {
		if n := rawCount(t, cfg, b); n != 0 {
			return fmt.Errorf("%d objects are left", n)
		}
		return nil
	})
}

// TestDestroyAnswerLost: the key is gone, so Destroy succeeded.
func TestDestroyAnswerLost(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	ctl.On("DestroyObject").Set(softhsmtest.Lose, p11.CKR_DEVICE_ERROR, 1)
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Errorf("Destroy = %v", err)
	}
	if err := b.Destroy(t.Context(), k.URI()); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("second Destroy = %v, want ErrKeyNotFound", err)
	}
}

// waitHanging waits until n calls hang in the shim.
func waitHanging(t *testing.T, ctl *softhsmtest.Faults, n uint64) {
	t.Helper()
	eventually(t, 3*time.Second, func() error {
		if got := ctl.Hanging.Load(); got != n {
			return fmt.Errorf("%d calls hang, want %d", got, n)
		}
		return nil
	})
}

// waitFree waits until n lanes are free: a lane is, a moment after its caller has the answer.
func waitFree(t *testing.T, b *pkcs11.Backend, n int) {
	t.Helper()
	eventually(t, 3*time.Second, func() error {
		if got := b.FreeLanes(); got != n {
			return fmt.Errorf("%d lanes are free, want %d", got, n)
		}
		return nil
	})
}
