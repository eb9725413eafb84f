package openpgp_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// TestLockedByAnotherProcess: another backend of the agent has the card's lock, and nobody has the card open.
func TestLockedByAnotherProcess(t *testing.T) {
	c := given(t, cardsim.OpenPGPConfig{})
	cfg := config()
	cfg.Locks = t.TempDir()
	b := open(t, cfg)
	k := backendtest.Generate(t, b, "keyward-x")
	lock := func() *pcsc.Held {
		t.Helper()
		held, err := pcsc.Lock(t.Context(), filepath.Join(cfg.Locks, "12345678.lock"), nil)
		if err != nil {
			t.Fatal(err)
		}
		return held
	}
	held := lock()
	shown := len(c.PINTries())
	status := func(want string) {
		t.Helper()
		begun := time.Now()
		if st := b.Status(t.Context()); st.State != "ready" || !strings.Contains(st.Detail, want) {
			t.Errorf("Status = %+v, want %q", st, want)
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("Status took %v", took)
		}
	}
	status("in use by another backend")
	held.Tell("touch it")
	status("touch it")
	waiting := func(want string) {
		t.Helper()
		if what := b.Waiting(); what != want {
			t.Errorf("Waiting = %q, want %q", what, want)
		}
	}
	waiting("") // a status is no request
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := k.SignDigest(ctx, [32]byte{1})
	if wantUnavailable(t, "SignDigest", err, "busy with another backend of this agent (touch it)"); !errors.Is(err,
		backends.ErrBusy) {
		t.Errorf("SignDigest = %v, want ErrBusy", err)
	}
	signed := make(chan error, 1)
	go func() {
		_, err := k.SignDigest(t.Context(), [32]byte{1})
		signed <- err
	}()
	select {
	case err := <-signed:
		t.Fatalf("SignDigest while another has the card = %v, want it to wait", err)
	case <-time.After(1500 * time.Millisecond): // longer than for a foreign program
	}
	waiting("touch it")
	status("touch it")
	held.Tell("")
	time.Sleep(100 * time.Millisecond)
	status("in use by a request") // which itself waits for the other backend
	if n := len(c.PINTries()); n != shown {
		t.Errorf("%d PINs were shown", n-shown)
	}
	held.Unlock()
	if err := <-signed; err != nil {
		t.Errorf("SignDigest = %v", err)
	}
	lock().Unlock() // it has been given back
}

// TestStatusWhileAnotherProgramHasTheCard: also of the backend that finds the lock taken by the other, which only
// looks.
func TestStatusWhileAnotherProgramHasTheCard(t *testing.T) {
	given(t, cardsim.OpenPGPConfig{})
	locks := t.TempDir()
	release := hold(t, 0)
	defer release()
	var asked sync.WaitGroup
	for range 2 {
		cfg := config()
		cfg.Locks = locks
		b := open(t, cfg)
		asked.Go(func() {
			if st := b.Status(t.Context()); st.State != "unavailable" ||
				!strings.Contains(st.Detail, "in use by another program") {
				t.Errorf("Status = %+v, want it to say that another program has the card", st)
			}
		})
	}
	asked.Wait()
}

// TestNoTimeForATouch: a request that had to wait does not begin to blink when it would be cut, unless no operation is
// given that much time.
func TestNoTimeForATouch(t *testing.T) {
	for _, tt := range []struct {
		name           string
		timeout, first time.Duration // of the backend; until the first request's touch
		refused        bool
	}{
		{"time for one touch", backends.TouchTime + 2*time.Second, 2500 * time.Millisecond, true},
		{"short for all", backends.TouchTime - time.Second, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := given(t, cardsim.OpenPGPConfig{})
			cfg := config()
			cfg.Slots, cfg.Touch, cfg.Timeout = []string{"sig"}, "on", tt.timeout
			b := open(t, cfg)
			k := backendtest.Generate(t, b, "keyward-touch")
			sign := func() <-chan error {
				signed := make(chan error, 1)
				go func() {
					_, err := k.SignDigest(t.Context(), [32]byte{1})
					signed <- err
				}()
				return signed
			}
			first := sign()
			awaitBlink(t, c)
			shown := len(c.PINTries())
			second := sign()
			time.Sleep(tt.first)
			c.Touch()
			if err := <-first; err != nil {
				t.Errorf("the first request: %v", err)
			}
			if !tt.refused {
				awaitBlink(t, c)
				c.Touch()
				if err := <-second; err != nil {
					t.Errorf("the second request: %v", err)
				}
				return
			}
			wantUnavailable(t, "the second request", <-second, "busy with requests before this one")
			if n := len(c.PINTries()); n != shown {
				t.Errorf("%d PINs were shown for it", n-shown)
			}
			if what := b.Waiting(); what != "" || c.Touch() {
				t.Errorf("the card blinks, or is said to: %q", what)
			}
		})
	}
}

// TestLockThatCantBeTaken: what is wrong with its file may be over the next time, and is not the card's being busy.
func TestLockThatCantBeTaken(t *testing.T) {
	given(t, cardsim.OpenPGPConfig{})
	cfg := config()
	cfg.Locks = filepath.Join(t.TempDir(), "absent")
	_, err := open(t, cfg).Generate(t.Context(), backends.KeyAttributes{Label: "keyward-x"})
	if wantUnavailable(t, "Generate", err, "the card's lock"); errors.Is(err, backends.ErrBusy) {
		t.Errorf("Generate = %v, ErrBusy", err)
	}
}
