package shared

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/pgtest"
)

// chargeOnce charges one unit for a nonce of its own.
func chargeOnce(b *testing.B, l *Ledger, nonce uint64) {
	g := grant(nonce, 1, charge(lifetime, 1, 1<<40), charge(allowance, 1, 1<<40))
	rec := &audit.Record{Time: g.At, Event: audit.SignGranted, Session: "s", Digest: g.Digest.String()}
	res, err := l.Reserve("s", g, rec)
	if err == nil {
		err = res.Durable(context.Background())
	}
	if err != nil {
		b.Error(err)
		return
	}
	res.Done()
}

// callers makes b.N charges, by n callers of each agent, and device between two of a caller.
func callers(b *testing.B, agents []*Ledger, n int, device time.Duration) {
	var next atomic.Uint64
	var all sync.WaitGroup
	b.ResetTimer()
	for _, l := range agents {
		for range n {
			all.Go(func() {
				for nonce := next.Add(1); nonce <= uint64(b.N); nonce = next.Add(1) {
					time.Sleep(device)
					chargeOnce(b, l, nonce)
				}
			})
		}
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "charges/s")
}

// BenchmarkShared measures charges on one session, in a database that syncs each commit: 64 callers in batches, 64
// callers with a call and a commit each, one caller, and a committed UPDATE of one row for comparison; then one agent
// and three with a device of 20 ms and 32 signatures in flight each.
func BenchmarkShared(b *testing.B) {
	server := []*pgtest.Server{pgtest.Start(b, pgtest.Durable)}
	agents := func(b *testing.B, most int, names ...string) (all []*Ledger) {
		r := newRig(b, server, names...)
		for _, name := range names {
			cfg := r.config(b, name, b.TempDir())
			cfg.most = most
			all = append(all, open(b, cfg))
		}
		aSession(b, all[0], "s")
		for _, l := range all {
			eventually(b, "every agent has the session", func() bool { return l.Session("s") != nil })
		}
		return all
	}
	b.Run("batches/64", func(b *testing.B) { callers(b, agents(b, 0, "a"), 64, 0) })
	b.Run("a commit each/64", func(b *testing.B) { callers(b, agents(b, 1, "a"), 64, 0) })
	b.Run("batches/1", func(b *testing.B) { callers(b, agents(b, 0, "a"), 1, 0) })
	b.Run("UPDATE/1", func(b *testing.B) {
		r := newRig(b, server, "a")
		execute(b, r.owner, "CREATE TABLE one (n bigint); INSERT INTO one VALUES (0)")
		b.ResetTimer()
		for range b.N {
			execute(b, r.owner, "UPDATE one SET n = n + 1")
		}
	})
	b.Run("device/1 agent", func(b *testing.B) { callers(b, agents(b, 0, "a"), 32, 20*time.Millisecond) })
	b.Run("device/3 agents", func(b *testing.B) { callers(b, agents(b, 0, "a", "b", "c"), 32, 20*time.Millisecond) })
}
