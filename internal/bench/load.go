// Package bench measures what a signature takes: of the device alone, of the ledger and the policy alone, and
// of a whole agent through its socket. The agent is a scratch one in this process, in a directory of its own.
package bench

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are counted in microseconds up to longest, with two significant digits.
const longest = int64(time.Minute / time.Microsecond)

// ErrShed: the agent turned the request away, because too many wait.
var ErrShed = errors.New("turned away")

// Load is what one run of a load found.
type Load struct {
	Done    int64         // operations without an error
	Shed    int64         // operations that were turned away with [ErrShed]; they are in no other count and in no latency
	Failed  int64         // operations with another error, at most one a caller
	Err     error         // one of them; nil: none
	Elapsed time.Duration // from the first operation's begin to the last one's end
	Latency *hdrhistogram.Histogram
}

// PerSecond is how many operations a second were done.
func (l *Load) PerSecond() float64 { return float64(l.Done) / l.Elapsed.Seconds() }

// Quantile returns the latency that q percent of the operations stay within.
func (l *Load) Quantile(q float64) time.Duration {
	return time.Duration(l.Latency.ValueAtPercentile(q)) * time.Microsecond
}

// Add takes in another run of the same load.
func (l *Load) Add(other *Load) {
	l.Done, l.Shed, l.Failed, l.Elapsed = l.Done+other.Done, l.Shed+other.Shed, l.Failed+other.Failed, l.Elapsed+
		other.Elapsed
	if l.Err == nil {
		l.Err = other.Err
	}
	if l.Latency == nil {
		l.Latency = newHistogram()
	}
	l.Latency.Merge(other.Latency)
}

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, longest, 2) }

// Closed has n callers for d, or until one fails, each of which begins an operation when its last one has ended. That
// is the most that n callers get done; latencies are of the operations alone. do's argument is the caller's number.
func Closed(ctx context.Context, n int, d time.Duration, do func(caller int) error) *Load {
	end := time.Now().Add(d)
	return run(n, do, func() (time.Time, bool) {
		now := time.Now()
		return now, ctx.Err() == nil && now.Before(end)
	})
}

// Open begins rate operations a second for d, evenly spaced, whatever becomes of those before. An operation's
// latency counts from the moment it was due: one that waits because all n callers are busy has waited, so that a
// pause of what is measured shows in every operation that it delayed (no coordinated omission).
func Open(ctx context.Context, rate float64, n int, d time.Duration, do func(caller int) error) *Load {
	start := time.Now()
	total := int64(rate * d.Seconds())
	var begun atomic.Int64
	return run(n, do, func() (time.Time, bool) {
		i := begun.Add(1) - 1
		due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if i >= total {
			return due, false
		}
		sleepUntil(due)
		return due, ctx.Err() == nil
	})
}

// sleepUntil returns at t, to some microseconds. A timer alone is late by up to a millisecond.
func sleepUntil(t time.Time) {
	const spin = 100 * time.Microsecond
	if wait := time.Until(t) - spin; wait > 0 {
		time.Sleep(wait)
	}
	for time.Now().Before(t) {
		runtime.Gosched()
	}
}

// run has n callers do operations until next says that there are no more, or one fails.
func run(n int, do func(caller int) error, next func() (since time.Time, more bool)) *Load {
	start := time.Now()
	all := &Load{}
	var failed atomic.Bool
	var mu sync.Mutex
	var callers sync.WaitGroup
	for caller := range n {
		callers.Go(func() {
			mine := &Load{Latency: newHistogram()}
			for since, more := next(); more && !failed.Load(); since, more = next() {
				err := do(caller)
				if errors.Is(err, ErrShed) {
					mine.Shed++
					continue
				}
				if err != nil {
					mine.Failed, mine.Err = 1, err
					failed.Store(true)
					break
				}
				mine.Done++
				_ = mine.Latency.RecordValue(min(max(time.Since(since).Microseconds(), 1), longest))
			}
			mu.Lock()
			defer mu.Unlock()
			all.Add(mine)
		})
	}
	callers.Wait()
	all.Elapsed = time.Since(start)
	return all
}
