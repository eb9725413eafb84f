package tpm

import (
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/swtpm"
)

// BenchmarkSign measures signatures by a key that the TPM opens for each, and by one that is kept open.
func BenchmarkSign(b *testing.B) {
	emulator := swtpm.Start(b)
	for name, hold := range map[string]time.Duration{"opened for each": 0, "kept open": time.Hour} {
		b.Run(name, func(b *testing.B) {
			k, err := openTest(b, emulator, Config{Key: newKey(b, emulator, ""), CacheFor: hold}).Generate(b.Context(),
				backends.KeyAttributes{Label: "keyward-x"})
			if err != nil {
				b.Fatal(err)
			}
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := k.SignDigest(b.Context(), [32]byte{1}); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
		})
	}
}
