package piv_test

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
	"github.com/keyward/keyward/internal/secret"
)

// TestLockedByAnotherProcess: another backend of the agent has the card's lock, and nobody has the card open.
func TestLockedByAnotherProcess(t *testing.T) {
	b := newBench(t, plain)
	b.locks = t.TempDir()
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	k := backendtest.Generate(t, p, "keyward-x")
	held, err := pcsc.Lock(t.Context(), filepath.Join(b.locks, "12345678.lock"), nil)
	must(t, err)
	mark := b.shown(0)
	begun := time.Now()
	if st := p.Status(t.Context()); st.State != "ready" || !strings.Contains(st.Detail, "in use by another backend") {
		t.Errorf("Status = %+v", st)
	}
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("Status took %v", took)
	}
	held.Tell("touch it")
	if st := p.Status(t.Context()); st.State != "ready" || st.Detail != "touch it" {
		t.Errorf("Status = %+v, want what the other waits for", st)
	}
	if what := p.Waiting(); what != "" {
		t.Errorf("after a status, Waiting = %q", what)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = k.SignDigest(ctx, [32]byte{7})
	wantErr(t, "SignDigest", err, backends.ErrBusy, "busy with another backend of this agent (touch it)")
	if n := b.shown(mark); n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}
	signed := make(chan error, 1)
	go func() {
		_, err := k.SignDigest(t.Context(), [32]byte{7})
		signed <- err
	}()
	select {
	case err := <-signed:
		t.Errorf("SignDigest while another has the card = %v, want it to wait", err)
		held.Unlock()
	case <-time.After(1500 * time.Millisecond): // longer than for a foreign program
		if what := p.Waiting(); what != "touch it" {
			t.Errorf("Waiting = %q, want what the other waits for", what)
		}
		held.Unlock()
		must(t, <-signed)
	}
	if what := p.Waiting(); what != "" {
		t.Errorf("afterwards, Waiting = %q", what)
	}
	// It has been given back.
	held, err = pcsc.Lock(t.Context(), filepath.Join(b.locks, "12345678.lock"), nil)
	must(t, err)
	held.Unlock()
}

// TestStatusWhileAnotherProgramHasTheCard: also of those backends that find the lock taken by one that only looks, or
// that has a request and waits for that program, too.
func TestStatusWhileAnotherProgramHasTheCard(t *testing.T) {
	b := newBench(t, plain)
	b.locks = t.TempDir()
	all := []*piv.Backend{}
	for range 3 {
		all = append(all, b.open(t, secret.NewKeeper(source(testPIN), 0)))
	}
	k := backendtest.Generate(t, all[0], "keyward-x")
	c, err := pcsc.Dial()
	must(t, err)
	defer c.Close()
	_, err = c.Open(cardsim.ReaderName + " 00 00")
	must(t, err)
	states := func(of []*piv.Backend) {
		t.Helper()
		var asked sync.WaitGroup
		for _, p := range of {
			asked.Go(func() {
				if st := p.Status(t.Context()); st.State != "unavailable" ||
					!strings.Contains(st.Detail, "in use by another program") {
					t.Errorf("Status = %+v, want it to say that another program has the card", st)
				}
			})
		}
		asked.Wait()
	}
	states(all)
	signed := make(chan error, 1)
	go func() {
		_, err := k.SignDigest(t.Context(), [32]byte{7})
		signed <- err
	}()
	time.Sleep(50 * time.Millisecond)
	states(all[1:])
	wantErr(t, "SignDigest", <-signed, backends.ErrBusy, "in use by another program")
}

// TestNoTimeForATouch: a request that had to wait does not begin to blink when it would be cut. Nor does one whose time
// is short from the start.
func TestNoTimeForATouch(t *testing.T) {
	b := newBench(t, key{cardsim.Firmware543, piv.PINOnce, piv.TouchAlways})
	p := b.open(t, secret.NewKeeper(source(testPIN), 0))
	b.card.AutoTouch(true)
	k := backendtest.Generate(t, p, "keyward-x")
	b.card.AutoTouch(false)
	b.card.SetTouchTimeout(time.Minute)
	sign := func(ctx context.Context) <-chan error {
		signed := make(chan error, 1)
		go func() {
			_, err := k.SignDigest(ctx, [32]byte{7})
			signed <- err
		}()
		return signed
	}
	ctx, cancel := context.WithTimeout(t.Context(), backends.TouchTime+time.Second)
	defer cancel()
	first := sign(t.Context())
	must(t, b.card.AwaitBlink(t.Context()))
	mark := b.shown(0)
	second := sign(ctx)
	time.Sleep(time.Second)
	b.card.Touch()
	must(t, <-first)
	wantErr(t, "the second request", <-second, backends.ErrBusy, "busy with requests before this one")
	ctx, cancel = context.WithTimeout(t.Context(), backends.TouchTime-time.Second)
	defer cancel()
	wantErr(t, "a request with little time", <-sign(ctx), backends.ErrUnavailable, "time limit is too short")
	if n := b.shown(mark); n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}
	if what := p.Waiting(); what != "" || b.card.Touch() {
		t.Errorf("the card blinks, or is said to: %q", what)
	}

	ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	third := sign(ctx)
	must(t, b.card.AwaitBlink(t.Context()))
	b.card.Touch()
	must(t, <-third)
}
