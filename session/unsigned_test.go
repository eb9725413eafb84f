package session

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
)

// A nonce that was signed is never said to be unsigned, in whichever order nonces are signed; a nonce in the middle of
// those that are in flight is known to be unsigned.
func TestUnsigned(t *testing.T) {
	for _, tt := range []struct {
		name    string
		highest uint64
		any     bool
	}{{"fresh", 0, false}, {"signed before", 5000, true}, {"at the end", math.MaxUint64 - 300, true}} {
		t.Run(tt.name, func(t *testing.T) {
			var u unsigned
			reads := 0
			highest := func() (uint64, bool, error) { reads++; return tt.highest, tt.any, nil }
			has := func(nonce uint64) bool {
				t.Helper()
				known, err := u.has("s", nonce, highest)
				if err != nil {
					t.Fatal(err)
				}
				return known
			}
			signed := map[uint64]bool{}
			if tt.any {
				for n := tt.highest - 200; n <= tt.highest; n++ {
					signed[n] = true
				}
			}
			for range 20000 {
				nonce := tt.highest - 200 + rand.Uint64N(500) // wraps around
				if rand.IntN(1000) == 0 {
					nonce = rand.Uint64()
				}
				if has(nonce) && signed[nonce] {
					t.Fatalf("nonce %d is signed, and said not to be", nonce)
				}
				signed[nonce] = true
				u.sign("s", nonce)
				if has(nonce) {
					t.Fatalf("nonce %d was signed, and is said not to be", nonce)
				}
			}
			if reads != 1 {
				t.Errorf("the disk was read %d times, want once", reads)
			}
		})
	}
}

func TestUnsignedKnowsGaps(t *testing.T) {
	var u unsigned
	none := func() (uint64, bool, error) { return 10, true, nil }
	for _, step := range []struct {
		sign  uint64
		known map[uint64]bool
	}{
		{11, map[uint64]bool{10: false, 9: false, 11: false, 12: true}},
		{20, map[uint64]bool{10: false, 12: true, 19: true, 20: false, 21: true}},
		{15, map[uint64]bool{14: true, 15: false, 16: true}},
		{20 + maxGaps*2, map[uint64]bool{14: false, 20 + maxGaps*2 - 1: false, 20 + maxGaps*2 + 1: true}},
		{math.MaxUint64, map[uint64]bool{math.MaxUint64: false, math.MaxUint64 - 1: false}},
	} {
		if _, err := u.has("s", 0, none); err != nil {
			t.Fatal(err)
		}
		u.sign("s", step.sign)
		for nonce, want := range step.known {
			if got, err := u.has("s", nonce, none); err != nil || got != want {
				t.Errorf("after %d: has(%d) = %v, %v, want %v", step.sign, nonce, got, err, want)
			}
		}
	}
}

// What is written before anybody has asked may reach the disk after has looked there.
func TestUnsignedWrittenFirst(t *testing.T) {
	var u unsigned
	u.sign("s", 3)
	never := func() (uint64, bool, error) { return 0, false, errors.New("the disk is not asked") }
	for _, nonce := range []uint64{0, 3, 4, math.MaxUint64} {
		if known, err := u.has("s", nonce, never); known || err != nil {
			t.Errorf("has(%d) = %v, %v, want that it is not known", nonce, known, err)
		}
	}
	failed := errors.New("the disk fails")
	if _, err := u.has("other", 1, func() (uint64, bool, error) { return 0, false, failed }); err != failed {
		t.Errorf("has = %v, want %v", err, failed)
	}
}
