package openpgp_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

const wrongPIN = "wrong-4711"

// TestWrongPINIsTriedOnce counts what the card sees: a refused PIN once, for each act of
// the operator once, and never the last try.
func TestWrongPINIsTriedOnce(t *testing.T) {
	for name, cfg := range map[string]cardsim.OpenPGPConfig{"YubiKey": {}, "Other": {Generic: true}} {
		t.Run(name, func(t *testing.T) {
			c := given(t, cfg)
			_, made := signer(t, c, "sig")
			conf := config()
			conf.PIN = secret.NewKeeper(fixed(wrongPIN), secret.UntilLock)
			log := &bytes.Buffer{}
			conf.Logger = slog.New(slog.NewTextHandler(log, nil))
			b := open(t, conf)
			k, err := b.Key(t.Context(), made.URI())
			if err != nil {
				t.Fatal(err)
			}
			c.app.SetPINs(userPIN, adminPIN)
			start := len(c.PINTries())
			wantTries := func(what string, tried, left int) {
				t.Helper()
				if n := len(c.PINTries()) - start; n != tried {
					t.Errorf("%s: the PIN was tried %d times, want %d", what, n, tried)
				}
				if user, _ := c.app.Tries(); user != left {
					t.Errorf("%s: %d tries are left, want %d", what, user, left)
				}
			}
			var errs []error
			for range 3 {
				_, err := k.SignDigest(t.Context(), [32]byte{1})
				errs = append(errs, err)
			}
			wantTries("three signatures", 1, 2)
			if !strings.Contains(errs[0].Error(), "2 tries are left") {
				t.Errorf("the error does not say how many tries are left: %v", errs[0])
			}
			if st := b.Status(t.Context()); st.State != "locked" {
				t.Errorf("Status = %+v, want locked", st)
			}
			errs = append(errs, b.Unlock(t.Context(), nil)) // the same PIN from the same source
			wantTries("Unlock with the configured PIN", 1, 2)
			errs = append(errs, b.Unlock(t.Context(), []byte(wrongPIN+"2")))
			wantTries("Unlock with another wrong PIN", 2, 1)
			if last := errs[len(errs)-1].Error(); !strings.Contains(last, "1 try is left") {
				t.Errorf("the error does not say that one try is left: %s", last)
			}
			for _, err := range errs {
				if !errors.Is(err, backends.ErrPINIncorrect) || strings.Contains(fmt.Sprint(err), wrongPIN) {
					t.Errorf("error = %v, want ErrPINIncorrect without the PIN", err)
				}
			}
			if err := b.Unlock(t.Context(), []byte(userPIN)); !errors.Is(err, backends.ErrPINFinalTry) {
				t.Errorf("Unlock with one try left = %v, want ErrPINFinalTry", err)
			}
			if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrPINFinalTry) {
				t.Errorf("SignDigest with one try left = %v, want ErrPINFinalTry", err)
			}
			if st := b.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "last PIN try") {
				t.Errorf("Status = %+v, want locked, and why", st)
			}
			wantTries("the last try", 2, 1)
			c.app.SetPINs(userPIN, adminPIN) // the operator gave the right one to gpg
			if err := b.Unlock(t.Context(), []byte(userPIN)); err != nil {
				t.Fatalf("Unlock with the right PIN: %v", err)
			}
			backendtest.Verify(t, k, [32]byte{2})
			wantTries("Unlock and a signature", 4, 3)
			isFree(t, 0)
			if c.app.Verified() {
				t.Error("a PIN is still verified")
			}
			if s := log.String(); strings.Contains(s, wrongPIN) || strings.Contains(s, userPIN) {
				t.Errorf("a PIN is in the log:\n%s", s)
			}
		})
	}
}

// TestPINThatBecameRight: the card's PIN was changed to the one that it refused.
func TestPINThatBecameRight(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	_, made := signer(t, c, "sig")
	conf := config()
	conf.PIN = secret.NewKeeper(fixed(wrongPIN), 0)
	b := open(t, conf)
	k, err := b.Key(t.Context(), made.URI())
	if err != nil {
		t.Fatal(err)
	}
	wantRefused := func(tries int) {
		t.Helper()
		before := len(c.PINTries())
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrPINIncorrect) {
			t.Errorf("SignDigest = %v, want ErrPINIncorrect", err)
		}
		if n := len(c.PINTries()) - before; n != tries {
			t.Errorf("%d PINs were tried, want %d", n, tries)
		}
	}
	wantRefused(1)
	if err := b.Unlock(t.Context(), nil); !errors.Is(err, backends.ErrPINIncorrect) || !strings.Contains(err.Error(), "was changed to it") {
		t.Errorf("Unlock = %v, want ErrPINIncorrect, and what to do", err)
	}
	c.app.SetPINs(wrongPIN, adminPIN) // which fills the counter, as gpg's passwd does
	wantRefused(0)
	if st := b.Status(t.Context()); st.State != "locked" {
		t.Errorf("Status = %+v, want locked", st)
	}
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{2})
	if st := b.Status(t.Context()); st.State != "ready" {
		t.Errorf("Status = %+v, want ready", st)
	}
}

// TestStatusWithoutAPIN: what the source can't give shows before a signature needs it.
func TestStatusWithoutAPIN(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	cfg := config()
	cfg.PIN = secret.NewKeeper(secret.FromFile(filepath.Join(t.TempDir(), "absent")), 0)
	before := len(c.PINTries())
	if st := open(t, cfg).Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "absent: no such file") {
		t.Errorf("Status = %+v, want locked, and why", st)
	}
	if n := len(c.PINTries()) - before; n != 0 {
		t.Errorf("Status tried %d PINs", n)
	}
}

// TestPINsThatAreNotTried costs no try at all.
func TestPINsThatAreNotTried(t *testing.T) {
	for _, tt := range []struct {
		name, user, admin string
		says              string
	}{
		{"factory default", "123456", adminPIN, "factory default"},
		{"too short", "1234", adminPIN, "it has 4 bytes"},
		{"too long", strings.Repeat("1", 128), adminPIN, "it has 128 bytes"},
		{"factory admin PIN", userPIN, "12345678", "factory default"},
		{"short admin PIN", userPIN, "1234567", "it has 7 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := given(t, cardsim.OpenPGPConfig{})
			cfg := config()
			cfg.PIN = secret.NewKeeper(fixed(tt.user), secret.UntilLock)
			cfg.AdminPIN = secret.NewKeeper(fixed(tt.admin), 0)
			b := open(t, cfg)
			err := b.Unlock(t.Context(), nil)
			if tt.admin != adminPIN {
				_, err = b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
			}
			if !errors.Is(err, backends.ErrPINIncorrect) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("error = %v, want ErrPINIncorrect that says %q", err, tt.says)
			}
			user, admin := c.app.Tries()
			if user != 3 || admin != 3 {
				t.Errorf("tries left: %d and %d, want 3 and 3", user, admin)
			}
		})
	}
}

func TestBlockedPIN(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "aut")
	block(t, c)
	before := len(c.PINTries())
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrLocked) || !strings.Contains(err.Error(), "blocked") {
		t.Errorf("SignDigest = %v, want ErrLocked that says blocked", err)
	}
	if st := b.Status(t.Context()); st.State != "locked" || !strings.Contains(st.Detail, "blocked") {
		t.Errorf("Status = %+v, want locked", st)
	}
	if n := len(c.PINTries()) - before; n != 0 {
		t.Errorf("the PIN was tried %d times", n)
	}
	c.app.SetPINs(userPIN, adminPIN)
	if err := b.Unlock(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{2})
}

// block has another program try wrong PINs until none is left.
func block(t *testing.T, c card) {
	t.Helper()
	for range 3 {
		apdu := append([]byte{0, insVerify, 0, 0x82, 8}, "99999999"...)
		c.Transmit(t.Context(), append([]byte{0, insSelect, 4, 0, 6}, 0xD2, 0x76, 0, 1, 0x24, 1))
		c.Transmit(t.Context(), apdu)
	}
	if user, _ := c.app.Tries(); user != 0 {
		t.Fatalf("%d tries are left", user)
	}
}

// TestUnknownOutcome: the card is pulled while it looks at a wrong PIN. What it thought of it shows
// in the counter, and nothing is tried without the operator.
func TestUnknownOutcome(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	c.app.SetPINs("changed-1", adminPIN)
	c.Fail(cardsim.Fault{INS: insVerify, Do: cardsim.UnplugDuring})
	_, err := k.SignDigest(t.Context(), [32]byte{1})
	wantUnavailable(t, "SignDigest", err, "")
	pcscd.AwaitEmpty(t, 0)
	pcscd.Insert(t, 0, c.Card)
	for range 2 {
		if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrLocked) {
			t.Errorf("SignDigest = %v, want ErrLocked", err)
		}
	}
	if user, _ := c.app.Tries(); user != 2 {
		t.Errorf("%d tries are left, want 2", user)
	}
	if err := b.Unlock(t.Context(), []byte("changed-1")); err != nil {
		t.Fatal(err)
	}
	backendtest.Verify(t, k, [32]byte{2})
}

func TestLock(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	b, k := signer(t, c, "sig")
	backendtest.Verify(t, k, [32]byte{1})
	if err := b.Lock(t.Context()); err != nil {
		t.Fatal(err)
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
	backendtest.Verify(t, k, [32]byte{2})
	if user, _ := c.app.Tries(); user != 3 {
		t.Errorf("%d tries are left, want 3", user)
	}
}

func TestTouch(t *testing.T) {
	for _, tt := range []struct {
		slot string
		cfg  cardsim.OpenPGPConfig
		says string
	}{
		{"sig", cardsim.OpenPGPConfig{}, "waiting for a touch of YubiKey 12345678, which blinks"},
		{"aut", cardsim.OpenPGPConfig{Serial: 4711}, "waiting for a touch of YubiKey 4711, which blinks"},
		{"aut", cardsim.OpenPGPConfig{Generic: true}, "waiting for a touch of card 12345678, which blinks"},
	} {
		t.Run(tt.says, func(t *testing.T) {
			c := given(t, tt.cfg)
			cfg := config()
			cfg.Slots, cfg.Touch = []string{tt.slot}, "on"
			if tt.cfg.Serial != 0 {
				cfg.Serial = fmt.Sprint(tt.cfg.Serial)
			}
			log := &bytes.Buffer{}
			cfg.Logger = slog.New(slog.NewTextHandler(log, nil))
			b := open(t, cfg)
			k := backendtest.Generate(t, b, "keyward-touch")
			signed := make(chan error, 1)
			sign := func() {
				_, err := k.SignDigest(t.Context(), [32]byte{1})
				signed <- err
			}
			go sign()
			awaitBlink(t, c)
			if st := b.Status(t.Context()); st.State != "ready" || !strings.Contains(st.Detail, tt.says) {
				t.Errorf("Status while the card waits = %+v", st)
			}
			if b.Waiting() == "" {
				t.Error("Waiting says nothing")
			}
			c.Touch()
			if err := <-signed; err != nil {
				t.Errorf("SignDigest = %v", err)
			}
			if what := b.Waiting(); what != "" {
				t.Errorf("Waiting = %q after the touch", what)
			}
			if strings.Contains(log.String(), "touch") { // who is told by OnWait logs it
				t.Errorf("the backend logs the touch itself:\n%s", log)
			}
			c.SetTouchTimeout(10 * time.Millisecond)
			_, err := k.SignDigest(t.Context(), [32]byte{1})
			wantUnavailable(t, "SignDigest without a touch", err, "not touched in time")
			if !errors.Is(err, backends.ErrNotTouched) || errors.Is(err, backends.ErrPINIncorrect) {
				t.Errorf("SignDigest without a touch = %v, want ErrNotTouched", err)
			}
			c.SetTouchTimeout(time.Minute)
			go sign()
			awaitBlink(t, c)
			c.Touch()
			if err := <-signed; err != nil {
				t.Errorf("SignDigest = %v", err)
			}
			if user, _ := c.app.Tries(); user != 3 {
				t.Errorf("%d tries are left, want 3", user)
			}
		})
	}
}

func awaitBlink(t *testing.T, c card) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := c.AwaitBlink(ctx); err != nil {
		t.Fatal(err)
	}
}

// TestCardWithKDF: a card that was set up to take hashed PINs takes ours at the first try.
func TestCardWithKDF(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	const count = 100000
	derived := func(salt, pin string) string { // RFC 4880, 3.7.1.3
		sum := sha256.Sum256([]byte(strings.Repeat(salt+pin, count/len(salt+pin)+1)[:count]))
		return string(sum[:])
	}
	do := []byte{0x81, 1, 3, 0x82, 1, 8, 0x83, 4, 0, 1, 0x86, 0xA0, 0x84, 8}
	do = append(append(append(do, "saltuser"...), 0x86, 8), "saltadmi"...)
	asGPG(t, pcsc.Command{INS: insPut, P2: 0xF9, Data: do})
	c.app.SetPINs(derived("saltuser", userPIN), derived("saltadmi", adminPIN))
	_, k := signer(t, c, "aut")
	backendtest.Verify(t, k, [32]byte{1})
	if user, admin := c.app.Tries(); user != 3 || admin != 3 {
		t.Errorf("tries left: %d and %d, want 3 and 3", user, admin)
	}
	for _, e := range c.PINTries() {
		if e.SW != cardsim.SWOK && e.Lc == 32 {
			t.Errorf("a derived PIN was refused: %+v", e)
		}
	}
}

// TestGarbledCounterAfterAWrongPIN: what the card says of its counter makes no sense, after it refused the PIN and before.
func TestGarbledCounterAfterAWrongPIN(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	_, made := signer(t, c, "sig")
	refused := 0
	for skip := range 12 {
		conf := config()
		conf.PIN = secret.NewKeeper(fixed(wrongPIN), secret.UntilLock)
		k, err := open(t, conf).Key(t.Context(), made.URI())
		if err != nil {
			t.Fatal(err)
		}
		c.app.SetPINs(userPIN, adminPIN) // which fills the counter
		before := len(c.PINTries())
		c.Fail(cardsim.Fault{INS: insGet, Skip: skip, Do: cardsim.Short})
		_, err = k.SignDigest(t.Context(), [32]byte{1})
		if err == nil {
			t.Error("SignDigest with a wrong PIN succeeds")
		}
		n := len(c.PINTries()) - before
		if refused += n; n > 1 {
			t.Errorf("%d PINs were tried", n)
		}
		if !errors.Is(err, backends.ErrPINIncorrect) && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("SignDigest = %v, want ErrPINIncorrect, or that it is not known", err)
		}
		c.Heal()
	}
	if refused == 0 {
		t.Error("no PIN was tried")
	}
}
