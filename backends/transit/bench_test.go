package transit

import (
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
)

// BenchmarkSign signs with a key that Vault opens for each signature, and with one that is kept open, at a Vault that
// answers immediately and one that takes 5 ms.
func BenchmarkSign(b *testing.B) {
	for _, v := range []struct {
		name  string
		delay time.Duration
		hold  time.Duration
	}{{"opened", 0, 0}, {"opened, 5 ms away", 5 * time.Millisecond, 0}, {"kept", 0, time.Hour}} {
		b.Run(v.name, func(b *testing.B) {
			fake := newFake(b)
			fake.Latency = v.delay
			cfg := fake.config()
			cfg.CacheFor = v.hold
			k, err := open(b, cfg).Generate(b.Context(), backends.KeyAttributes{Label: "keyward-x"})
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := k.SignDigest(b.Context(), [32]byte{1}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
