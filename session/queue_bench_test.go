package session

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
)

// benchAgent has a device that takes 5 ms for a signature and works on four at a time: 800 a second.
func benchAgent(b *testing.B) (*agent, *Session) {
	b.Helper()
	a := &agent{soft: &soft.Backend{}, dir: b.TempDir(), now: time.Unix(1_800_000_000, 0)}
	if err := a.open(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.Close() })
	device := make(chan struct{}, 4)
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		device <- struct{}{}
		time.Sleep(5 * time.Millisecond)
		<-device
		return nil, nil
	}
	a.Sessions.queues["soft"] = newQueue(limited{a.soft, 4})
	req := a.createRequest()
	req.Spec.FeeLimit.Limit = *uint256.NewInt(1 << 40)
	req.Spec.TransferPolicies[0].ValueLimit = policy.UsageLimit{}
	req.Clients = []Client{{ID: 1}, {ID: 2}}
	sess, err := a.Create(b.Context(), operator, req)
	if err == nil {
		sess, err = a.Activate(b.Context(), operator, sess.ID)
	}
	if err != nil {
		b.Fatal(err)
	}
	return a, sess
}

// BenchmarkFairness has one client with 3,000 requests in flight and another that sends one after the other: its
// signatures a second, and the other's.
func BenchmarkFairness(b *testing.B) {
	a, sess := benchAgent(b)
	var nonce atomic.Uint64
	ctx, stop := context.WithCancel(b.Context())
	var heavy atomic.Int64
	var wg sync.WaitGroup
	for caller := range 3000 {
		wg.Go(func() {
			for ctx.Err() == nil {
				req := transfer(sess, nonce.Add(1))
				req.Conn = caller % 3
				if _, err := a.Sign(ctx, audit.Peer{UID: 1}, req); err == nil {
					heavy.Add(1)
				} else if errors.Is(err, ErrOverloaded) {
					time.Sleep(50 * time.Millisecond) // as the answer says
				}
			}
		})
	}
	for heavy.Load() < 100 {
		time.Sleep(time.Millisecond)
	}
	heavy.Store(0)
	start := time.Now()
	for b.Loop() {
		if _, err := a.Sign(ctx, audit.Peer{UID: 2}, transfer(sess, nonce.Add(1))); err != nil {
			b.Fatal(err)
		}
	}
	seconds := time.Since(start).Seconds()
	b.ReportMetric(float64(b.N)/seconds, "light/s")
	b.ReportMetric(float64(heavy.Load())/seconds, "heavy/s")
	stop()
	wg.Wait()
}

// BenchmarkOverload asks for twice what the device can do, whatever becomes of it: the latencies of what is admitted.
func BenchmarkOverload(b *testing.B) {
	a, sess := benchAgent(b)
	const rate = 1600
	for b.Loop() {
		var mu sync.Mutex
		var latencies []time.Duration
		shed := 0
		var wg sync.WaitGroup
		start := time.Now()
		for n := range 3 * rate {
			due := start.Add(time.Duration(n) * time.Second / rate)
			time.Sleep(time.Until(due))
			wg.Go(func() {
				req := transfer(sess, uint64(n))
				req.Conn = n % 8
				_, err := a.Sign(b.Context(), audit.Peer{UID: 1}, req)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					latencies = append(latencies, time.Since(due))
				case errors.Is(err, ErrOverloaded):
					shed++
				default:
					b.Error(err)
				}
			})
		}
		wg.Wait()
		slices.SortFunc(latencies, func(a, b time.Duration) int { return cmp.Compare(a, b) })
		p50, p99 := latencies[len(latencies)/2], latencies[len(latencies)*99/100]
		b.ReportMetric(p50.Seconds()*1000, "p50-ms")
		b.ReportMetric(p99.Seconds()*1000, "p99-ms")
		b.ReportMetric(p99.Seconds()/p50.Seconds(), "p99/p50")
		b.ReportMetric(float64(len(latencies))/time.Since(start).Seconds(), "admitted/s")
		b.ReportMetric(float64(shed)/3, "shed/s")
	}
}
