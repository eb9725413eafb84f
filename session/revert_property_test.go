package session

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// lawlessCall is one call of the property test.
type lawlessCall struct {
	*Reservation
	digest digestKey
}

// Calls for a few digests and nonces begin and end in any order, certainly or in doubt or signed, with restarts
// between. What could have been signed is always counted; and when all that is left failed certainly, limits are
// exactly as if it had never been asked for.
func TestRevertProperty(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 3))
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		fees := map[digestKey]uint64{}   // of a digest, always the same
		possible := map[digestKey]bool{} // a signature may exist
		charged := map[digestKey]bool{}  // counted, by what this test says of the rule
		joined := map[digestKey]int{}    // calls in flight since it was charged
		doubt := map[digestKey]bool{}    // one of them
		together := map[*Reservation]bool{}
		var calls []lawlessCall
		want := func(all map[digestKey]bool) (total uint64) {
			most := map[uint64]uint64{}
			for at := range all {
				most[at.nonce] = max(most[at.nonce], fees[at])
			}
			for _, fee := range most {
				total += fee
			}
			return total
		}
		for range 150 {
			switch op := rng.IntN(20); {
			case op < 9:
				at := digestKey{rng.Uint64N(4), policy.Hash{byte(1 + rng.IntN(5))}}
				if _, ok := fees[at]; !ok {
					fees[at] = rng.Uint64N(100)
				}
				r := reservation(t, l, at.nonce, at.digest[0], fees[at])
				together[r] = !charged[at] || joined[at] > 0
				if together[r] {
					joined[at]++
				}
				if !charged[at] {
					charged[at], doubt[at] = true, false
				}
				calls = append(calls, lawlessCall{r, at})
			case op < 19 && len(calls) > 0:
				i := rng.IntN(len(calls))
				c := calls[i]
				calls = append(calls[:i], calls[i+1:]...)
				how := rng.IntN(4) // most are certain
				if how == 0 {
					c.signed()
				} else {
					fails(t, c.Reservation, how > 1)
				}
				if how <= 1 {
					possible[c.digest] = true
				}
				if !together[c.Reservation] {
					break
				}
				doubt[c.digest] = doubt[c.digest] || how <= 1
				if joined[c.digest]--; joined[c.digest] == 0 && !doubt[c.digest] {
					delete(charged, c.digest)
				}
			case op == 19: // what is in flight is in doubt for ever
				for _, c := range calls {
					possible[c.digest] = true
				}
				calls, joined = nil, map[digestKey]int{}
				if err := l.close(); err != nil {
					t.Fatal(err)
				}
				l = reopenLedger(t, dir)
				l.addActive("s", &policy.Spec{})
			}
			if got := feeUsed(t, l); got < want(possible) || got != want(charged) {
				t.Fatalf("seed %d: %d used, want %d; %d could have been signed", seed, got, want(charged), want(possible))
			}
		}
	}
}

// Many clients of a device that fails in every way: what it signed or may have signed is counted, and nothing else.
func TestRevertUnderLoad(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	var mu sync.Mutex
	possible := map[policy.Hash]bool{}
	a.soft.OnSign = func(_ context.Context, digest [32]byte) (*backends.Signature, error) {
		mu.Lock()
		defer mu.Unlock()
		switch rand.IntN(8) {
		case 0:
			possible[digest] = true
			return nil, errors.New("no answer")
		case 1:
			possible[digest] = true
			return nil, nil
		}
		return nil, certainly
	}
	var all sync.WaitGroup
	for w := range 8 {
		all.Go(func() {
			for i := range 12 {
				_, _ = a.Sign(t.Context(), app, transfer(sess, uint64(w/2*12+i))) // each digest by two clients
			}
		})
	}
	all.Wait()
	a.wantFee(t, sess, 10*uint64(len(possible)))
	a.restart(t)
	a.wantFee(t, sess, 10*uint64(len(possible)))
}
