// Package bench has the benchmarks of the whole agent, and none of its code. Command table puts their figures
// into docs/performance.md (make bench).
package bench

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/internal/bench"
)

// slice is how long one iteration measures one thing.
const slice = time.Second / 2

// BenchmarkSoft measures the agent with a device that costs nothing but the signature itself.
func BenchmarkSoft(b *testing.B) { benchmarkInProcess(b, &soft.Backend{}) }

// BenchmarkSealed measures it with keys that are sealed to a device and kept open.
func BenchmarkSealed(b *testing.B) { benchmarkInProcess(b, openSealed(b)) }

// benchmarkInProcess measures an agent that is in this process, as its clients are. Metrics:
//
//	sig/s           durable signatures through the socket
//	cpu-µs/sig      of this process, client included
//	B/sig, allocs/sig  that the process allocates
//	p50-µs, p99-µs  of one request
func benchmarkInProcess(b *testing.B, device backends.Backend) {
	a := startAgent(b, device)
	for _, conns := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("conns=%d", conns), func(b *testing.B) {
			callers := newCallers(b, a, conns)
			sign := func(i int) error { return callers[i].Sign(a.Nonce()) }
			bench.Closed(b.Context(), conns, slice, sign) // warm up
			all := &bench.Load{}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			cpu := ownCPU()
			for b.Loop() {
				all.Add(bench.Closed(b.Context(), conns, slice, sign))
			}
			cpu = ownCPU() - cpu
			runtime.ReadMemStats(&after)
			report(b, all, "sig")
			b.ReportMetric(micros(cpu, all), "cpu-µs/sig")
			b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(all.Done), "B/sig")
			b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(all.Done), "allocs/sig")
		})
	}
}

func startAgent(b *testing.B, device backends.Backend) *bench.Agent {
	b.Helper()
	a, err := bench.Start(b.Context(), b.TempDir(), &bench.Device{Backend: device}, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(b.Context()); err != nil {
			b.Error(err)
		}
	})
	return a
}

func newCallers(b *testing.B, a *bench.Agent, n int) []*bench.Caller {
	b.Helper()
	var callers []*bench.Caller
	for range n {
		c, err := a.Caller()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		callers = append(callers, c)
	}
	return callers
}

// report reports what all loads have in common.
func report(b *testing.B, l *bench.Load, unit string) {
	b.Helper()
	if l.Failed > 0 {
		b.Fatal(errors.Join(fmt.Errorf("%d operations failed", l.Failed), l.Err))
	}
	b.ReportMetric(l.PerSecond(), unit+"/s")
	b.ReportMetric(float64(l.Quantile(50).Microseconds()), "p50-µs")
	b.ReportMetric(float64(l.Quantile(99).Microseconds()), "p99-µs")
	b.ReportMetric(0, "ns/op") // says nothing here
}

// ownCPU is what this process has used of the processors.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
