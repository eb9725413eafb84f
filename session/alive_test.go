package session

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
)

func TestAlive(t *testing.T) {
	soon := func(t *testing.T) context.Context {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		t.Cleanup(cancel)
		return ctx
	}
	t.Run("a device that never answers", func(t *testing.T) {
		a := newAgent(t)
		sess := a.active(t)
		inDevice, end := make(chan struct{}), make(chan struct{})
		a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
			close(inDevice)
			<-end
			return nil, errors.New("the test ended it")
		}
		done := make(chan struct{})
		go func() { defer close(done); _, _ = a.Sign(context.Background(), app, transfer(sess, 0)) }()
		<-inDevice
		if err := a.Alive(t.Context()); err != nil {
			t.Errorf("Alive = %v", err)
		}
		close(end)
		<-done
	})
	t.Run("a store that never writes", func(t *testing.T) {
		a := newAgent(t)
		release := hold(a.ledger)
		defer release()
		if err := a.Alive(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Alive = %v, want the deadline", err)
		}
	})
	t.Run("a queue that is stuck", func(t *testing.T) {
		a := newAgent(t)
		q := a.queue("soft")
		q.mu.Lock()
		defer q.mu.Unlock()
		if err := a.Alive(soon(t)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Alive = %v, want the deadline", err)
		}
	})
	t.Run("a ledger that has stopped", func(t *testing.T) {
		a := newAgent(t)
		a.ledger.trail.Close()
		for range 2 { // the first finds out
			if err := a.Alive(t.Context()); err != nil {
				t.Errorf("Alive = %v", err)
			}
		}
		if a.Halted() == nil {
			t.Error("the ledger goes on without a trail")
		}
	})
}
