package kmscall

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyward/keyward/backends"
)

func TestThrottledUntilDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service{errs: []error{errQuota}}
		start := time.Now()
		_, err := Do(t.Context(), New(Config{Classify: classify, Timeout: 4 * time.Second}), s.call)
		if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, errQuota) {
			t.Errorf("error %v, want ErrUnavailable and the last one", err)
		}
		if took := time.Since(start); took > 4*time.Second {
			t.Errorf("gave up after %v", took)
		}
		if n := s.calls.Load(); n < 3 || n > 40 {
			t.Errorf("%d calls in 4 s", n)
		}
	})
}

// An outage that is shorter than the calls' time fails none of them, however many there are.
func TestOutageIsRiddenOut(t *testing.T) {
	for _, outage := range []time.Duration{time.Second, 5 * time.Second, 9 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			back := time.Now().Add(outage)
			call := func(context.Context) (string, error) {
				if time.Now().Before(back) {
					return "", errCut
				}
				return "answer", nil
			}
			c := New(Config{Classify: classify, Timeout: 10 * time.Second})
			var wg sync.WaitGroup
			for range 200 {
				wg.Go(func() {
					if _, err := Do(t.Context(), c, call); err != nil {
						t.Errorf("an outage of %v: %v", outage, err)
					}
				})
			}
			wg.Wait()
		})
	}
}

// A service that refuses every fifth call does so for long, and no call fails.
func TestThrottledNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify, Timeout: 10 * time.Second})
		var n atomic.Int64
		call := func(context.Context) (string, error) {
			if n.Add(1)%5 == 0 {
				return "", errQuota
			}
			return "answer", nil
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 500 {
					if _, err := Do(t.Context(), c, call); err != nil {
						t.Error(err)
						return
					}
					time.Sleep(time.Second)
				}
			})
		}
		wg.Wait()
	})
}

// A long overload pulls the brake: then each call is made once, and two that succeed allow one repetition. Rest ends
// it.
func TestBrake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := service{errs: []error{errQuota}}
		c := New(Config{Classify: classify, Budget: 5, Timeout: 10 * time.Second})
		fail := func() (calls int64) {
			down.calls.Store(0)
			if _, err := Do(t.Context(), c, down.call); !errors.Is(err, backends.ErrUnavailable) {
				t.Errorf("error %v, want ErrUnavailable", err)
			}
			return down.calls.Load()
		}
		began := time.Now()
		for time.Since(began) < patience*10*time.Second+10*time.Second {
			if n := fail(); n < 2 && time.Since(began) < patience*10*time.Second {
				t.Errorf("%d call after %v, want repetitions", n, time.Since(began))
			}
			time.Sleep(time.Second)
		}
		for range 100 {
			if n := fail(); n != 1 {
				t.Fatalf("%d calls in a long overload, want 1", n)
			}
		}
		good := service{errs: []error{nil}}
		succeed := func(times int) {
			for range times {
				if _, err := Do(t.Context(), c, good.call); err != nil {
					t.Fatal(err)
				}
			}
		}
		succeed(2)
		if n := fail(); n != 2 {
			t.Errorf("%d calls once two others succeeded, want 2", n)
		}
		if n := fail(); n != 1 {
			t.Errorf("%d calls after that, want 1", n)
		}
		time.Sleep(patience*10*time.Second + time.Second)
		succeed(1)
		if n := fail(); n < 5 {
			t.Errorf("%d calls after a rest, want repetitions again", n)
		}
	})
}
