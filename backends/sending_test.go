package backends

import (
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
)

// Each letter of steps is b for Begin, r for Refused.
func TestSending(t *testing.T) {
	for steps, certain := range map[string]bool{
		"":       true,
		"b":      false,
		"br":     true,
		"brb":    false,
		"brbr":   true,
		"bb":     false,
		"bbr":    false,
		"bbrr":   false,
		"bbrbrr": false,
		"r":      true,
		"brr":    true,
	} {
		var s Sending
		for _, step := range steps {
			if step == 'b' {
				if !s.Begin() {
					t.Errorf("%q: a call that has not ended can't begin a try", steps)
				}
			} else {
				s.Refused()
			}
		}
		failed := errors.New("it failed")
		err := s.End(failed)
		if errors.Is(err, ErrNotSigned) != certain || !errors.Is(err, failed) || err.Error() != failed.Error() {
			t.Errorf("%q: End = %v, certain %v, want %v", steps, err, !certain, certain)
		}
		if s.Begin() == certain {
			t.Errorf("%q: after its end, Begin = %v", steps, certain)
		}
		if again := s.End(failed); errors.Is(again, ErrNotSigned) != certain {
			t.Errorf("%q: a second End says otherwise", steps)
		}
	}
}

// The call ends while a worker sends: either the device gets nothing and that is certain, or it is in doubt.
func TestSendingEndsBesideAWorker(t *testing.T) {
	for range 2000 {
		var s Sending
		var all sync.WaitGroup
		got, certain := false, false
		all.Go(func() { got = s.Begin() })
		all.Go(func() { certain = errors.Is(s.End(errors.New("left")), ErrNotSigned) })
		all.Wait()
		if got == certain {
			t.Fatalf("the device got a try: %v, certain that it has not: %v", got, certain)
		}
	}
}

// Of any order of tries and refusals, what is certain had every try refused before the next.
func TestSendingIsCertainOnlyIfEachTryWasRefused(t *testing.T) {
	for seed := range uint64(500) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var s Sending
		var steps strings.Builder
		for range rng.IntN(8) {
			if rng.IntN(2) == 0 {
				s.Begin()
				steps.WriteByte('b')
			} else {
				s.Refused()
				steps.WriteByte('r')
			}
		}
		open, doubt := false, false
		for _, step := range steps.String() {
			doubt = doubt || step == 'b' && open
			open = step == 'b'
		}
		if certain := errors.Is(s.End(errors.New("it failed")), ErrNotSigned); certain == (open || doubt) {
			t.Errorf("%q: certain %v", &steps, certain)
		}
	}
}
