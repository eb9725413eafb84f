package backendtest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
)

func (s *suite) contextDone(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-context")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range calls(ctx, b, k) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with a cancelled context: %v, want context.Canceled", name, err)
		}
	}
	Verify(t, k, randomDigest()) // the key is still there, Destroy having done nothing
}

func (s *suite) deadline(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-deadline")
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	for name, err := range calls(ctx, b, k) {
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s past its deadline: %v, want DeadlineExceeded and ErrUnavailable", name, err)
		}
	}
}

func (s *suite) close(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-close")
	if err := b.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	for name, err := range calls(t.Context(), b, k) {
		if !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("%s after Close: %v, want ErrUnavailable", name, err)
		}
	}
}

// closeWaits closes while others sign: each call succeeds or says that the backend is closed.
func (s *suite) closeWaits(t *testing.T, b backends.Backend) {
	k := Generate(t, b, "keyward-close-waits")
	signed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				err := verify(t.Context(), k, randomDigest())
				if errors.Is(err, backends.ErrUnavailable) {
					return
				}
				if err != nil {
					t.Errorf("signing while Close runs: %v", err)
					return
				}
				select {
				case signed <- struct{}{}:
				default:
				}
			}
		})
	}
	gaveUp := make(chan struct{})
	go func() { wg.Wait(); close(gaveUp) }()
	select {
	case <-signed:
	case <-gaveUp:
		t.Fatal("nothing was signed before Close")
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-gaveUp
}
