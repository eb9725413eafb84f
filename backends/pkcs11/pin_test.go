package pkcs11_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/syncbuf"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	p11 "github.com/miekg/pkcs11"
)

const wrongPIN = "wrong-PIN-4711"

// fixedPIN is a source that always gives pin.
func fixedPIN(pin string) secret.Source {
	return func(context.Context) (*secret.Buffer, error) { return secret.Take([]byte(pin)) }
}

// readPIN returns what the source gives, for the mouth of an operator.
func readPIN(t *testing.T, source secret.Source) []byte {
	t.Helper()
	b, err := source(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var pin []byte
	b.Use(func(p []byte) error { pin = bytes.Clone(p); return nil })
	return pin
}

// TestWrongPINIsTriedOnce counts C_Login: once for the configured PIN, once for each that
// the operator gives, never for a call that needs a key.
func TestWrongPINIsTriedOnce(t *testing.T) {
	cfg, ctl := newShim(t)
	right := readPIN(t, cfg.PIN)
	cfg.PIN = fixedPIN(wrongPIN)
	logs := &syncbuf.Buffer{}
	cfg.Logger = slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	b := softhsmtest.Open(t, cfg)
	wantLogins := func(what string, want uint64) {
		t.Helper()
		if n := ctl.On("Login").Calls(); n != want {
			t.Errorf("%s: C_Login was called %d times, want %d", what, n, want)
		}
	}
	wantLogins("Open", 1)
	var errs []error
	for range 3 {
		_, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "x"})
		errs = append(errs, err)
	}
	if st := b.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "keyward unlock") {
		t.Errorf("Status = %+v, want locked, and what to do", st)
	}
	wantLogins("three calls and a status", 1)
	errs = append(errs, b.Unlock(t.Context(), nil)) // the same PIN from the same source
	wantLogins("Unlock with the configured PIN", 1)
	errs = append(errs, b.Unlock(t.Context(), []byte(wrongPIN+"2")))
	wantLogins("Unlock with another wrong PIN", 2)
	for _, err := range errs {
		if !errors.Is(err, backends.ErrPINIncorrect) {
			t.Errorf("error = %v, want ErrPINIncorrect", err)
		}
		if err != nil && strings.Contains(err.Error(), wrongPIN) {
			t.Errorf("error has the PIN: %v", err)
		}
	}
	given := bytes.Clone(right)
	if err := b.Unlock(t.Context(), given); err != nil {
		t.Fatalf("Unlock with the right PIN: %v", err)
	}
	if bytes.Contains(given, right[:4]) {
		t.Error("Unlock did not wipe the PIN")
	}
	wantLogins("Unlock with the right PIN", 3)
	k := backendtest.Generate(t, b, "keyward-x")
	ctl.On("Sign").Set(softhsmtest.Return, p11.CKR_DEVICE_ERROR, 1)
	backendtest.Verify(t, k, [32]byte{1}) // reconnects with the PIN that the operator gave
	wantLogins("reconnecting", 4)
	for _, pin := range []string{wrongPIN, string(right)} {
		if strings.Contains(logs.String(), pin) {
			t.Errorf("a PIN is in the log:\n%s", logs.String())
		}
	}
	if logs.String() == "" {
		t.Error("nothing was logged")
	}
}

// TestFlags: what the token's flags forbid is not tried.
func TestFlags(t *testing.T) {
	tests := []struct {
		name     string
		flags    uint64
		want     error // of automatic logins
		operator bool  // Unlock may try
	}{
		{"final try", p11.CKF_USER_PIN_FINAL_TRY, backends.ErrPINFinalTry, false},
		{"final try and low", p11.CKF_USER_PIN_FINAL_TRY | p11.CKF_USER_PIN_COUNT_LOW, backends.ErrPINFinalTry, false},
		{"locked", p11.CKF_USER_PIN_LOCKED, backends.ErrLocked, false},
		{"to be changed", p11.CKF_USER_PIN_TO_BE_CHANGED, backends.ErrLocked, false},
		{"low", p11.CKF_USER_PIN_COUNT_LOW, backends.ErrLocked, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, ctl := newShim(t)
			pin := readPIN(t, cfg.PIN)
			ctl.Flags.Store(tt.flags)
			b := softhsmtest.Open(t, cfg)
			if _, err := b.Key(t.Context(), "pkcs11:id=%01"); !errors.Is(err, tt.want) {
				t.Errorf("Key = %v, want %v", err, tt.want)
			}
			if n := ctl.On("Login").Calls(); n != 0 {
				t.Errorf("C_Login was called %d times, want never", n)
			}
			err := b.Unlock(t.Context(), pin)
			if (err == nil) != tt.operator {
				t.Errorf("Unlock = %v, want success %v", err, tt.operator)
			}
			if n := ctl.On("Login").Calls(); (n != 0) != tt.operator {
				t.Errorf("C_Login was called %d times, want it called: %v", n, tt.operator)
			}
		})
	}
}

// TestCountLowAfterRestart: on SoftHSM itself, a wrong PIN sets the flag, and a new process does
// not try the right one by itself.
func TestCountLowAfterRestart(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	cfg := tok.Config()
	cfg.PIN = fixedPIN(wrongPIN)
	b := softhsmtest.Open(t, cfg)
	if st := b.Status(t.Context()); st.State != "locked" {
		t.Errorf("Status = %+v, want locked", st)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = tok.Open(t) // with the right PIN
	if st := b.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "keyward unlock") {
		t.Errorf("Status = %+v, want locked, and what to do", st)
	}
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatalf("Unlock: %v", err)
	}
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b = tok.Open(t) // the flag is gone after a good login
	backendtest.Generate(t, b, "keyward-y")
}

func TestNoPINConfigured(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	cfg := tok.Config()
	pin := readPIN(t, cfg.PIN)
	cfg.PIN = nil
	b := softhsmtest.Open(t, cfg)
	if _, err := b.Generate(t.Context(), backends.KeyAttributes{}); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("Generate = %v, want ErrLocked", err)
	}
	if err := b.Unlock(t.Context(), nil); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("Unlock without a PIN = %v, want ErrLocked", err)
	}
	if err := b.Unlock(t.Context(), pin); err != nil {
		t.Fatal(err)
	}
	backendtest.Generate(t, b, "keyward-x")
}

// TestPINSourceFails: the operator is told, and Unlock asks the source again.
func TestPINSourceFails(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	cfg := tok.Config()
	moved := filepath.Join(tok.Dir, "moved")
	if err := os.Rename(tok.PINFile, moved); err != nil {
		t.Fatal(err)
	}
	b := softhsmtest.Open(t, cfg)
	_, err := b.Generate(t.Context(), backends.KeyAttributes{})
	if !errors.Is(err, backends.ErrLocked) || !strings.Contains(err.Error(), tok.PINFile) {
		t.Errorf("Generate = %v, want ErrLocked that names the file", err)
	}
	if err := os.Rename(moved, tok.PINFile); err != nil {
		t.Fatal(err)
	}
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	backendtest.Generate(t, b, "keyward-x")
}

// TestLockAndUnlock: Lock logs the token out, and not only the agent's calls.
func TestLockAndUnlock(t *testing.T) {
	cfg, ctl := newShim(t)
	b := softhsmtest.Open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	if ctl.LoggedIn.Load() != 1 {
		t.Fatal("the token is not logged in before")
	}
	for range 2 {
		if err := b.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		if ctl.LoggedIn.Load() != 0 {
			t.Error("the token is logged in after Lock")
		}
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrLocked) {
		t.Errorf("SignDigest = %v, want ErrLocked", err)
	}
	if st := b.Status(t.Context()); st.State != "locked" {
		t.Errorf("Status = %+v, want locked", st)
	}
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// TestUnlockVerifiesThePIN: a token that is logged in takes any PIN for another login; Unlock
// must not.
func TestUnlockVerifiesThePIN(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	if err := b.Unlock(t.Context(), []byte(wrongPIN)); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Fatalf("Unlock = %v, want ErrPINIncorrect", err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Errorf("SignDigest = %v, want ErrPINIncorrect", err)
	}
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{1})
}

// TestLockWhileSigning: every call ends in a signature or in ErrLocked.
func TestLockWhileSigning(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	b := tok.Open(t)
	k := backendtest.Generate(t, b, "keyward-x")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if _, err := k.SignDigest(t.Context(), [32]byte{1}); err != nil && !errors.Is(err, backends.ErrLocked) {
					t.Errorf("SignDigest = %v", err)
				}
			}
		})
	}
	for range 5 {
		if err := errors.Join(b.Lock(t.Context()), b.Unlock(t.Context(), nil)); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	backendtest.Verify(t, k, [32]byte{2})
}

// TestPromptIsNotUnderTheDevice: while somebody is asked for the PIN, calls with a deadline end at it.
func TestPromptIsNotUnderTheDevice(t *testing.T) {
	tok := softhsmtest.NewToken(t)
	cfg := tok.Config()
	asked, answer := make(chan struct{}, 1), make(chan struct{})
	fromFile := cfg.PIN
	cfg.PIN = func(ctx context.Context) (*secret.Buffer, error) {
		asked <- struct{}{}
		<-answer
		return fromFile(ctx)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan *pkcs11.Backend)
	go func() {
		b, err := pkcs11.Open(ctx, cfg)
		if err != nil {
			t.Error(err)
		}
		opened <- b
	}()
	<-asked
	cancel() // Open returns, the prompt stays
	b := <-opened
	defer b.Close()
	short, cancel := context.WithTimeout(t.Context(), 1)
	defer cancel()
	if _, err := b.Key(short, "pkcs11:id=%01"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Key = %v, want DeadlineExceeded", err)
	}
	close(answer)
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Errorf("Unlock = %v", err)
	}
	<-asked
}
