package pkcs11_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// What fails before C_Sign has signed nothing. From C_Sign on it is in doubt, whatever the code, and so is the whole
// call if only its first try was.
func TestWhatIsCertainlyNotSigned(t *testing.T) {
	const always = 1 << 40
	type fault struct {
		function string
		rv       uint64
		times    uint64
	}
	for _, c := range []struct {
		name    string
		faults  []fault
		certain bool
	}{
		{"C_SignInit refuses", []fault{{"SignInit", p11.CKR_KEY_FUNCTION_NOT_PERMITTED, always}}, true},
		{"C_SignInit: device error", []fault{{"SignInit", p11.CKR_DEVICE_ERROR, always}}, true},
		{"no connection", []fault{{"SignInit", p11.CKR_DEVICE_REMOVED, 1}, {"Initialize", p11.CKR_DEVICE_ERROR, always}},
			true},
		{"no token", []fault{{"SignInit", p11.CKR_TOKEN_NOT_PRESENT, 1}, {"OpenSession", p11.CKR_TOKEN_NOT_PRESENT, always}},
			true},
		{"no login", []fault{{"SignInit", p11.CKR_USER_NOT_LOGGED_IN, 1}, {"Login", p11.CKR_PIN_LOCKED, always}}, true},
		{"C_Sign refuses", []fault{{"Sign", p11.CKR_FUNCTION_REJECTED, always}}, false},
		{"C_Sign: bad arguments", []fault{{"Sign", p11.CKR_DATA_LEN_RANGE, always}}, false},
		{"C_Sign: no session", []fault{{"Sign", p11.CKR_SESSION_HANDLE_INVALID, always}}, false},
		{"C_Sign: device error", []fault{{"Sign", p11.CKR_DEVICE_ERROR, always}}, false},
		{"C_Sign, then no connection", []fault{{"Sign", p11.CKR_DEVICE_REMOVED, 1},
			{"Initialize", p11.CKR_DEVICE_ERROR, always}}, false},
		{"C_Sign, then C_SignInit refuses", []fault{{"Sign", p11.CKR_DEVICE_REMOVED, 1},
			{"Initialize", p11.CKR_DEVICE_ERROR, 20},
			{"SignInit", p11.CKR_KEY_FUNCTION_NOT_PERMITTED, 0}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, ctl := newShim(t)
			b := softhsmtest.Open(t, cfg)
			k := backendtest.Generate(t, b, "keyward-x")
			for _, f := range c.faults {
				ctl.On(f.function).Set(softhsmtest.Return, f.rv, f.times)
			}
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			if err == nil || errors.Is(err, backends.ErrNotSigned) != c.certain {
				t.Errorf("SignDigest = %v, certain %v, want %v", err, !c.certain, c.certain)
			}
			for _, f := range c.faults {
				ctl.On(f.function).Set(softhsmtest.Return, 0, 0)
			}
		})
	}
}

// A caller that leaves before C_Sign has signed nothing, and C_Sign is not called any more. One that leaves later is in
// doubt.
func TestWhoLeavesBeforeSigning(t *testing.T) {
	cfg, ctl := newShim(t)
	cfg.Sessions = 1
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	sign := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		_, err := k.SignDigest(ctx, [32]byte{1})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("SignDigest = %v, want DeadlineExceeded", err)
		}
		return err
	}
	for _, c := range []struct {
		function string
		certain  bool
	}{{"SignInit", true}, {"Sign", false}} {
		calls := ctl.On("Sign").Calls()
		ctl.Release.Store(0)
		ctl.On(c.function).Set(softhsmtest.Hang, 0, 1)
		if err := sign(); errors.Is(err, backends.ErrNotSigned) != c.certain {
			t.Errorf("while %s hangs: %v, certain %v, want %v", c.function, err, !c.certain, c.certain)
		}
		waitHanging(t, ctl, 1)
		if err := sign(); !errors.Is(err, backends.ErrNotSigned) {
			t.Errorf("waiting for a lane: %v, want ErrNotSigned", err)
		}
		ctl.Release.Store(1)
		waitFree(t, b, 1)
		if got := ctl.On("Sign").Calls() - calls; c.certain && got != 0 {
			t.Errorf("C_Sign was called %d times after the caller left", got)
		}
		backendtest.Verify(t, k, [32]byte{2})
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("closed: %v, want ErrNotSigned", err)
	}
}
