package isolated

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
)

// BenchmarkHop is a signature by a device that costs nothing, so what is measured is the way to the child and
// back. cpu-µs is the processor time of both processes for one.
func BenchmarkHop(b *testing.B) {
	for _, callers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			be, err := Open(b.Context(), Config{Name: "bench", Type: "free"})
			if err != nil {
				b.Fatal(err)
			}
			defer be.Close()
			k, err := be.Generate(b.Context(), backends.KeyAttributes{Label: "x"})
			if err != nil {
				b.Fatal(err)
			}
			b.SetParallelism(max(callers/2, 1))
			b.ReportAllocs()
			before := cpuTime(b, unix.RUSAGE_SELF)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := k.SignDigest(b.Context(), [32]byte{1}); err != nil {
						b.Error(err)
						return
					}
				}
			})
			b.StopTimer()
			b.ReportMetric((cpuTime(b, unix.RUSAGE_SELF)-before)/float64(b.N), "parent-cpu-µs/op")
			if err := be.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}

// cpuTime is in microseconds.
func cpuTime(b *testing.B, who int) float64 {
	var u unix.Rusage
	if err := unix.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1000
}
