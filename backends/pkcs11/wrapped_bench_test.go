package pkcs11_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

// BenchmarkWrapped compares a signature with a resident key, with a wrapped key that is unwrapped ("hit"), and with one
// that has to be unwrapped while another is destroyed ("miss"). One caller, so that the ratio is that of the work.
func BenchmarkWrapped(b *testing.B) {
	generate := func(b *testing.B, backend backends.Backend) backends.Key {
		k, err := backend.Generate(b.Context(), backends.KeyAttributes{Label: "keyward-bench"})
		if err != nil {
			b.Fatal(err)
		}
		return k
	}
	sign := func(b *testing.B, keys ...backends.Key) {
		for i := 0; b.Loop(); i++ {
			if _, err := keys[i%len(keys)].SignDigest(b.Context(), [32]byte{1}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("resident", func(b *testing.B) { sign(b, generate(b, softhsmtest.NewToken(b).Open(b))) })
	b.Run("hit", func(b *testing.B) {
		_, cfg := newWrappedToken(b, false)
		sign(b, generate(b, openWrapped(b, cfg)))
	})
	b.Run("miss", func(b *testing.B) {
		_, cfg := newWrappedToken(b, false)
		cfg.Objects = 1
		w := openWrapped(b, cfg)
		sign(b, generate(b, w), generate(b, w))
	})
}

var manyKeys = flag.Int("wrapped.keys", 100, "keys of TestManyWrappedKeys")

// One token serves any number of keys, of which it never has more than the configuration says: make wrapped runs it
// with 100,000.
func TestManyWrappedKeys(t *testing.T) {
	tok, cfg := newWrappedToken(t, false)
	cfg.Objects = max(*manyKeys/100, 3)
	b := openWrapped(t, cfg)
	began := time.Now()
	for i := range *manyKeys {
		backendtest.Generate(t, b, fmt.Sprintf("keyward-%d", i))
		if n := b.Unwrapped(); n > cfg.Objects {
			t.Fatalf("%d keys are unwrapped, want %d", n, cfg.Objects)
		}
	}
	made := time.Since(began)
	list, err := b.Keys(t.Context(), "keyward-")
	if err != nil || len(list) != *manyKeys {
		t.Fatalf("%d keys are listed (%v), want %d", len(list), err, *manyKeys)
	}
	began = time.Now()
	const signatures = 100
	for range signatures {
		backendtest.Verify(t, list[rand.N(len(list))].Key, [32]byte{1})
	}
	missed := time.Since(began) / signatures
	began = time.Now()
	for range signatures {
		backendtest.Verify(t, list[0].Key, [32]byte{1})
	}
	t.Logf("%d keys, %d unwrapped at a time: made in %v, %v each; a signature of any of them %v, of one again and again %v",
		*manyKeys, cfg.Objects, made.Round(time.Second), made/time.Duration(*manyKeys), missed, time.Since(began)/signatures)
	if n := len(privateKeys(t, tok, b)); n > cfg.Objects {
		t.Errorf("the token has %d private keys, want %d at most", n, cfg.Objects)
	}
}
