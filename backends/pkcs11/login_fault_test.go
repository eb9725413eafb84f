package pkcs11_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

// TestOddAnswerToLogin: whatever C_Login answers may have cost a try, unless it says that the PIN was not looked at.
// Neither calls, nor a look at the state, nor a restart tries again; keyward unlock does, once.
func TestOddAnswerToLogin(t *testing.T) {
	for _, rv := range []uint64{
		p11.CKR_GENERAL_ERROR, p11.CKR_DEVICE_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_PIN_INCORRECT, p11.CKR_HOST_MEMORY,
		p11.CKR_DEVICE_REMOVED, p11.CKR_VENDOR_DEFINED | 1, p11.CKR_PIN_LOCKED,
	} {
		t.Run(fmt.Sprintf("%#x", rv), func(t *testing.T) {
			cfg, ctl := newShim(t)
			marks, source := t.TempDir(), cfg.PIN
			tries := func(what string, want uint64) {
				t.Helper()
				if n := ctl.On("Login").Calls(); n != want {
					t.Errorf("%s: C_Login was called %d times, want %d", what, n, want)
				}
			}
			ctl.On("Login").Set(softhsmtest.Return, rv, 1<<40)
			for restart := range 10 { // as systemd restarts a service
				cfg.PINs = secret.NewKeeper(source, secret.UntilLock).MarkIn(marks)
				b := softhsmtest.Open(t, cfg)
				tries(fmt.Sprintf("start %d", restart+1), 1)
				for range 3 {
					_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
					if !errors.Is(err, backends.ErrLocked) && !errors.Is(err, backends.ErrPINIncorrect) ||
						errors.Is(err, backends.ErrUnavailable) {
						t.Errorf("Generate = %v, want ErrLocked or ErrPINIncorrect", err)
					}
					if st := b.Status(t.Context()); st.State != "locked" {
						t.Errorf("Status = %+v, want locked", st)
					}
				}
				tries("calls and status", 1)
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
			cfg.PINs = secret.NewKeeper(source, secret.UntilLock).MarkIn(marks)
			b := softhsmtest.Open(t, cfg)
			if err := b.Unlock(t.Context(), nil); err == nil {
				t.Error("Unlock succeeded")
			}
			tries("Unlock", 2)
			b.Status(t.Context())
			tries("a status after it", 2)
			ctl.On("Login").Set(softhsmtest.Return, 0, 0)
			if err := b.Unlock(t.Context(), readPIN(t, source)); err != nil {
				t.Fatalf("Unlock once it works = %v", err)
			}
			tries("Unlock once it works", 3)
			if err := b.Close(); err != nil {
				t.Fatal(err)
			}
			cfg.PINs = secret.NewKeeper(source, secret.UntilLock).MarkIn(marks)
			backendtest.Generate(t, softhsmtest.Open(t, cfg), "keyward-x") // the mark is gone
			tries("a start after it", 4)
		})
	}
}

// TestNoTryNoMark: an answer that says that the PIN was not looked at costs nothing, and is tried again.
func TestNoTryNoMark(t *testing.T) {
	for _, rv := range []uint64{p11.CKR_SESSION_HANDLE_INVALID, p11.CKR_TOKEN_NOT_PRESENT} {
		cfg, ctl := newShim(t)
		marks, source := t.TempDir(), cfg.PIN
		cfg.PINs = secret.NewKeeper(source, secret.UntilLock).MarkIn(marks)
		ctl.On("Login").Set(softhsmtest.Return, rv, 2)
		b := softhsmtest.Open(t, cfg)
		eventually(t, 3*time.Second, func() error {
			_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
			return err
		})
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestKilledDuringLogin: a process that ends with the PIN shown leaves a mark.
func TestKilledDuringLogin(t *testing.T) {
	marks := t.TempDir()
	tries := secret.Tries{Left: secret.Unknown, Device: "a token"}
	func() {
		defer func() { _ = recover() }()
		_ = secret.NewKeeper(fixedPIN("1234"), secret.UntilLock).MarkIn(marks).Try(t.Context(), tries,
			func([]byte) error { panic("killed") })
	}()
	shown := 0
	show := func([]byte) error { shown++; return nil }
	k := secret.NewKeeper(fixedPIN("1234"), secret.UntilLock).MarkIn(marks)
	if err := k.Try(t.Context(), tries, show); !errors.Is(err, backends.ErrLocked) || shown != 0 {
		t.Errorf("Try = %v, want ErrLocked; the PIN was shown %d times", err, shown)
	}
	other := tries
	other.Device = "another token"
	if err := secret.NewKeeper(fixedPIN("1234"), 0).MarkIn(marks).Try(t.Context(), other, show); err != nil || shown != 1 {
		t.Errorf("another token: Try = %v", err)
	}
	if err := errors.Join(k.Unlock(t.Context(), nil), k.Try(t.Context(), tries, show)); err != nil || shown != 2 {
		t.Errorf("after Unlock, Try = %v", err)
	}
}

// TestLoginThatOutlivesFinalize: the module is a stub of one in another process, which stays logged in. Lock is true,
// unlock works each time, and checks the PIN.
func TestLoginThatOutlivesFinalize(t *testing.T) {
	cfg, ctl := newShim(t)
	right := readPIN(t, cfg.PIN)
	ctl.KeepLogin.Store(1)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	for range 3 {
		if err := b.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ctl.LoggedIn.Load() != 0 {
			t.Error("the token is logged in after Lock")
		}
		if err := b.Unlock(t.Context(), append([]byte(nil), right...)); err != nil {
			t.Fatalf("Unlock = %v", err)
		}
		backendtest.Verify(t, k, [32]byte{1})
	}
	ctl.On("Logout").Set(softhsmtest.Lose, p11.CKR_USER_NOT_LOGGED_IN, 1)
	ctl.On("Login").Set(softhsmtest.Return, p11.CKR_USER_ALREADY_LOGGED_IN, 1) // of a session that we don't know
	if err := b.Unlock(t.Context(), []byte(wrongPIN)); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("Unlock with a wrong PIN = %v, want ErrPINIncorrect", err)
	}
	ctl.KeepLogin.Store(0)
}

// TestStatusLogsInNowhere: a look at a token that came back costs no login; the next request makes one.
func TestStatusLogsInNowhere(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	before := ctl.On("Login").Calls()
	ctl.On("GetSessionInfo").Set(softhsmtest.Return, p11.CKR_DEVICE_REMOVED, 1)
	for range 5 {
		if st := b.Status(t.Context()); st.State != "ready" {
			t.Errorf("Status = %+v, want ready", st)
		}
	}
	if ctl.On("GetSessionInfo").Left() != 0 {
		t.Error("the fault was not met")
	}
	if n := ctl.On("Login").Calls() - before; n != 0 {
		t.Errorf("C_Login was called %d times for a status", n)
	}
	backendtest.Verify(t, k, [32]byte{1})
	if n := ctl.On("Login").Calls() - before; n != 1 {
		t.Errorf("C_Login was called %d times for a signature, want once", n)
	}
}

// TestLockSaysThatTheTokenIsLoggedIn: a logout that failed is no success.
func TestLockSaysThatTheTokenIsLoggedIn(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	ctl.On("Logout").Set(softhsmtest.Return, p11.CKR_GENERAL_ERROR, 1)
	if err := b.Lock(t.Context()); err == nil {
		t.Error("Lock = nil, though the token refused to log out")
	}
}

// TestOddPINIsNotTried: what an editor leaves in a PIN file costs no try; the operator may give a PIN that has it.
func TestOddPINIsNotTried(t *testing.T) {
	for _, odd := range []string{"\xef\xbb\xbf%s\n", "%s\r\n", "%s \n", " %s\n", "%s\n\n"} {
		cfg, ctl := newShim(t)
		right := readPIN(t, cfg.PIN)
		file := filepath.Join(t.TempDir(), "pin")
		if err := os.WriteFile(file, fmt.Appendf(nil, odd, right), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.PIN = secret.FromFile(file)
		b := softhsmtest.Open(t, cfg)
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
		if !errors.Is(err, backends.ErrLocked) || !strings.Contains(err.Error(), file) ||
			strings.Contains(err.Error(), string(right)) {
			t.Errorf("%q: Generate = %v, want ErrLocked that names the file", odd, err)
		}
		if n := ctl.On("Login").Calls(); n != 0 {
			t.Errorf("%q: C_Login was called %d times", odd, n)
		}
		if err := b.Unlock(t.Context(), right); err != nil {
			t.Errorf("Unlock = %v", err)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
