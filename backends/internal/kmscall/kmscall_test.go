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

var (
	errDenied = errors.New("permission denied")
	errQuota  = errors.New("quota exceeded")
	errCut    = errors.New("connection reset")
	errUseful = errors.New("come back in 3 s")
)

func classify(err error) (Class, time.Duration) {
	switch {
	case errors.Is(err, errQuota):
		return Throttled, 0
	case errors.Is(err, errUseful):
		return Throttled, 3 * time.Second
	case errors.Is(err, errCut):
		return Unanswered, 0
	}
	return Final, 0
}

// service answers with each of errs in turn, the last again and again.
type service struct {
	calls atomic.Int64
	errs  []error
}

func (s *service) call(context.Context) (string, error) {
	n := int(s.calls.Add(1))
	if err := s.errs[min(n, len(s.errs))-1]; err != nil {
		return "", err
	}
	return "answer", nil
}

func TestRepeats(t *testing.T) {
	type do = func(context.Context, *Caller, func(context.Context) (string, error)) (string, error)
	for _, test := range []struct {
		name  string
		do    do
		errs  []error
		calls int64
		want  []error // nil: it succeeds
	}{
		{"success", Do[string], []error{nil}, 1, nil},
		{"throttled, then not", Do[string], []error{errQuota, errQuota, nil}, 3, nil},
		{"cut, then not", Do[string], []error{errCut, nil}, 2, nil},
		{"final", Do[string], []error{errDenied, nil}, 1, []error{errDenied}},
		{"throttled, then final", Do[string], []error{errQuota, errDenied, nil}, 2, []error{errDenied}},
		{"once: success", Once[string], []error{nil}, 1, nil},
		{"once: throttled", Once[string], []error{errQuota, nil}, 2, nil},
		{"once: cut", Once[string], []error{errCut, nil}, 1, []error{errCut, backends.ErrUnavailable}},
		{"once: final", Once[string], []error{errDenied, nil}, 1, []error{errDenied}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := service{errs: test.errs}
				got, err := test.do(t.Context(), New(Config{Classify: classify}), s.call)
				if s.calls.Load() != test.calls {
					t.Errorf("%d calls, want %d", s.calls.Load(), test.calls)
				}
				if (err == nil) != (test.want == nil) || (err == nil) != (got == "answer") {
					t.Fatalf("= %q, %v", got, err)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("error %v, want %v", err, want)
					}
				}
				if err != nil && errors.Is(err, errDenied) && errors.Is(err, backends.ErrUnavailable) {
					t.Errorf("a final error is called retryable: %v", err)
				}
			})
		})
	}
}

// TestDeadlineDuringAnotherTry: what the tries before were answered with is told, also if the last one had no answer.
func TestDeadlineDuringAnotherTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		_, err := Do(t.Context(), New(Config{Classify: classify, Timeout: 4 * time.Second, Attempt: 4 * time.Second}),
			func(ctx context.Context) (string, error) {
				if calls++; calls == 1 {
					return "", errQuota
				}
				<-ctx.Done()
				return "", ctx.Err()
			})
		if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, errQuota) ||
			!errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want ErrUnavailable, DeadlineExceeded and that of the first try", err)
		}
	})
}

// TestDeadlineThatTheSDKSawFirst: its error of that does not hide what was answered before.
func TestDeadlineThatTheSDKSawFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service{errs: []error{errQuota, errCut}}
		_, err := Do(t.Context(), New(Config{Classify: func(err error) (Class, time.Duration) {
			if errors.Is(err, errCut) {
				return Unanswered, time.Hour // no time is left for another
			}
			return Throttled, 0
		}}), s.call)
		if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, errQuota) || !errors.Is(err, errCut) {
			t.Errorf("error %v, want ErrUnavailable and those of both tries", err)
		}
	})
}

func TestWaitsAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := service{errs: []error{errUseful, nil}}
		start := time.Now()
		if _, err := Do(t.Context(), New(Config{Classify: classify}), s.call); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 3*time.Second {
			t.Errorf("tried again after %v, want 3s", took)
		}
		// Longer than there is time: the wait is not begun.
		s = service{errs: []error{errUseful}}
		start = time.Now()
		if _, err := Do(t.Context(), New(Config{Classify: classify, Timeout: 2 * time.Second}), s.call); !errors.Is(err,
			backends.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for nothing", took)
		}
	})
}

func TestInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify, InFlight: 3})
		var now, most atomic.Int64
		var wg sync.WaitGroup
		for range 12 {
			wg.Go(func() {
				_, err := Do(t.Context(), c, func(context.Context) (int, error) {
					most.Store(max(most.Load(), now.Add(1)))
					time.Sleep(time.Second)
					now.Add(-1)
					return 0, nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		start := time.Now()
		wg.Wait()
		if most.Load() != 3 {
			t.Errorf("%d calls at a time, want 3", most.Load())
		}
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("12 calls of 1 s, 3 at a time, took %v", took)
		}
	})
}

// TestAbandoned: a call that ignores its context keeps its place, but not its caller.
func TestAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify, InFlight: 1, Timeout: 4 * time.Second})
		release := make(chan struct{})
		hang := func(context.Context) (int, error) { <-release; return 1, nil }
		start := time.Now()
		_, err := Do(t.Context(), c, hang)
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("error %v, want DeadlineExceeded and ErrUnavailable", err)
		}
		if took := time.Since(start); took != 4*time.Second {
			t.Errorf("returned after %v", took)
		}
		if err := c.Close(); err == nil {
			t.Error("Close does not tell of a call that hangs")
		}
		close(release)
		if err := c.Close(); err != nil {
			t.Errorf("Close after the call has ended: %v", err)
		}
	})
}

func TestSlowTryIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var calls atomic.Int64
		slowOnce := func(ctx context.Context) (int, error) {
			if calls.Add(1) == 1 {
				<-ctx.Done()
				return 0, ctx.Err()
			}
			return 1, nil
		}
		if _, err := Do(t.Context(), New(Config{Classify: classify}), slowOnce); err != nil || calls.Load() != 2 {
			t.Errorf("error %v after %d calls, want success after 2", err, calls.Load())
		}
		calls.Store(0)
		if _, err := Once(t.Context(), New(Config{Classify: classify}), slowOnce); !errors.Is(err, backends.ErrUnavailable) ||
			calls.Load() != 1 {
			t.Errorf("once: error %v after %d calls, want ErrUnavailable after 1", err, calls.Load())
		}
	})
}

func TestContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify})
		s := service{errs: []error{errQuota}}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Do(ctx, c, s.call); !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want Canceled", err)
		}
		if s.calls.Load() != 0 {
			t.Error("called with a cancelled context")
		}
		// Cancelled while it waits to be repeated.
		ctx, cancel = context.WithCancel(t.Context())
		defer cancel()
		done := make(chan error)
		go func() {
			_, err := Do(ctx, c, func(context.Context) (int, error) { return 0, errUseful })
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v, want Canceled", err)
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify, InFlight: 1})
		results := make(chan error, 3)
		call := func(f func(context.Context) (int, error)) {
			go func() { _, err := Do(t.Context(), c, f); results <- err }()
			synctest.Wait()
		}
		call(func(context.Context) (int, error) { return 0, errUseful })                        // waits to be repeated
		call(func(context.Context) (int, error) { time.Sleep(2 * time.Second); return 1, nil }) // is in flight
		call(func(context.Context) (int, error) { return 1, nil })                              // waits for its turn
		start := time.Now()
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("Close took %v, want as long as the call in flight", took)
		}
		refused := 0
		for range 3 {
			if err := <-results; errors.Is(err, backends.ErrUnavailable) && errors.Is(err, errClosed) {
				refused++
			} else if err != nil {
				t.Error(err)
			}
		}
		if refused != 2 {
			t.Errorf("%d calls were told of Close, want 2", refused)
		}
		if _, err := Do(t.Context(), c, func(context.Context) (int, error) { return 1, nil }); !errors.Is(err,
			backends.ErrUnavailable) {
			t.Errorf("after Close: %v, want ErrUnavailable", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestPanic(t *testing.T) {
	c := New(Config{Classify: classify})
	_, err := Do(t.Context(), c, func(context.Context) (int, error) { panic("index out of range") })
	if !errors.Is(err, backends.ErrUnavailable) || !errors.Is(err, errPanic) {
		t.Errorf("error %v, want ErrUnavailable and errPanic", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New(Config{Classify: classify})
		end := func(err error) error {
			_, err = Once(t.Context(), c, func(context.Context) (int, error) { return 0, err })
			time.Sleep(time.Minute)
			since, trouble := c.Trouble()
			if since != time.Minute {
				t.Errorf("trouble since %v", since)
			}
			return trouble
		}
		for _, err := range []error{nil, backends.ErrKeyNotFound, errDenied} {
			if got := end(err); got != nil {
				t.Errorf("trouble after %v: %v", err, got)
			}
		}
		for _, err := range []error{errCut, backends.ErrRefused} {
			if got := end(err); !errors.Is(got, err) {
				t.Errorf("trouble after %v: %v", err, got)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Do(ctx, c, func(context.Context) (int, error) { return 1, nil }); err == nil {
			t.Error("succeeded")
		}
		if _, got := c.Trouble(); !errors.Is(got, backends.ErrRefused) {
			t.Errorf("trouble after a call that its caller gave up: %v", got)
		}
		if got := end(nil); got != nil {
			t.Errorf("trouble after success: %v", got)
		}
	})
}
