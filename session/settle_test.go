package session

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// Whatever is signed, lands, is replaced, loses its nonce, is read late or from a node that lags, is reorganised away
// or cut off by a restart: totals cover what the chain can come to count, no limit is passed by what
// lands, and nothing looks like external usage.
func TestSettleNeverUnderCounts(t *testing.T) {
	const confirmations = 3
	for seed := range uint64(15) {
		m := newModel(t, seed)
		final := 0 // no reorganisation goes below this block
		ops := []struct {
			name   string
			weight int
			do     func()
		}{
			{"reserve", 40, m.reserve},
			{"land", 30, m.land},
			{"owner", 8, func() { m.mine(func(s *modelState) { s.nonce++ }) }},
			{"empty", 8, func() { m.mine(func(*modelState) {}) }},
			{"tick", 6, func() { m.now += m.rng.Int64N(hour / 2) }},
			{"read", 12, func() { m.read(confirmations); final = max(final, int(m.poll.Block.Number)) }},
			{"lagging", 2, func() { m.read(confirmations + m.rng.IntN(10)) }},
			{"settle", 14, func() {
				if st := m.settle(); len(st.External) > 0 {
					m.fatalf("external usage %v of a chain that has none", st.External)
				}
			}},
			{"reorg", 3, func() { m.blocks = m.blocks[:max(final+1, len(m.blocks)-m.rng.IntN(confirmations+1))] }},
			{"restart", 1, m.restart},
			{"look", 10, m.look},
		}
		var deck []int
		for i, op := range ops {
			deck = append(deck, slices.Repeat([]int{i}, op.weight)...)
		}
		for range 250 {
			op := ops[deck[m.rng.IntN(len(deck))]]
			m.history = append(m.history, op.name)
			op.do()
			m.check()
		}
		m.ledger.close()
	}
}

// A reorganisation below what was settled brings back what was settled: from the next view on, totals
// cover it again.
func TestSettleTakesBackAReorganisation(t *testing.T) {
	for seed := range uint64(8) {
		m := newModel(t, seed)
		for range 30 {
			for range 1 + m.rng.IntN(4) {
				m.reserve()
				if m.rng.IntN(2) == 0 {
					m.land()
				} else {
					m.mine(func(s *modelState) { s.nonce++ }) // whatever was signed for it is void
				}
				m.now += m.rng.Int64N(hour / 4)
			}
			m.read(0)
			m.settle()
			m.check()
			m.blocks = m.blocks[:1+m.rng.IntN(len(m.blocks))]
			m.read(0)
			m.settle()
			m.signedCovered()
		}
		m.ledger.close()
	}
}

// signedCovered is check without the limits, which a deep reorganisation may break: what was void when
// more was signed is not any more.
func (m *model) signedCovered() {
	m.t.Helper()
	used := m.head().used
	m.head().used = map[policy.Tracker]uint64{}
	m.check()
	m.head().used = used
}

// Usage that nothing signed here explains is told, once, and counted.
func TestSettleFindsExternalUsage(t *testing.T) {
	m := newModel(t, 1)
	for range 3 {
		m.reserve()
	}
	m.durable()
	before := m.total(feeTracker)
	m.mine(func(s *modelState) { s.nonce += 10; s.used[feeTracker] = before + 7; s.used[valueIn(m.now)] = 0 })
	m.read(0)
	st := m.settle()
	if got := st.External[feeTracker]; len(st.External) != 1 || got.String() != "7" {
		t.Errorf("external %v, want 7 of fees", st.External)
	}
	if st.Passed == 0 {
		t.Error("no liability passed")
	}
	if got := m.total(feeTracker); got != before+7 {
		t.Errorf("total %d, want the chain's %d", got, before+7)
	}
	m.restart()
	m.mine(func(*modelState) {})
	m.read(0)
	if st := m.settle(); len(st.External) != 0 {
		t.Errorf("told again: %v", st.External)
	}
	if last, _ := m.ledger.settledOf("s"); last.External[feeTracker].String() != "7" {
		t.Errorf("on file: %v, want 7", last.External)
	}
}

// Liabilities whose nonce was used by another transaction are given back, and a view from before
// a reservation does not drop it.
func TestSettleVoidsAndKeeps(t *testing.T) {
	m := newModel(t, 1)
	sign := func(nonce, fee uint64) {
		t.Helper()
		if _, err := reserve(t, m.ledger, "s", grantOf(nonce, byte(fee), feeCharge(feeLimit, fee))); err != nil {
			t.Fatal(err)
		}
	}
	sign(3, 400)
	sign(4, 300)
	m.mine(func(s *modelState) { s.nonce++ }) // the owner's, for nonce 3
	m.read(0)
	sign(5, 200) // while the poll runs
	st := m.settle()
	if got := m.total(feeTracker); got != 500 || st.Passed != 1 {
		t.Errorf("total %d, %d passed, want 500 and 1", got, st.Passed)
	}
	if st.Before[feeTracker].String() != "900" || st.After[feeTracker].String() != "500" {
		t.Errorf("%+v, want 900 before and 500 after", st)
	}
	m.restart()
	if got := m.total(feeTracker); got != 500 {
		t.Errorf("total %d after a restart, want 500", got)
	}
	// The nonce that has passed can be signed for again; it counts until the next view.
	sign(3, 450)
	if got := m.total(feeTracker); got != 950 {
		t.Errorf("total %d, want 950", got)
	}
	m.read(0)
	if m.settle(); m.total(feeTracker) != 500 {
		t.Errorf("total %d after the next view, want 500", m.total(feeTracker))
	}
}

// A view from before the last one, and one that lacks a limit, raise totals and never lower them.
func TestSettleByLowerBlocksOnlyRaises(t *testing.T) {
	m := newModel(t, 1)
	m.mine(func(s *modelState) { s.used[feeTracker] = 600 })
	m.read(0)
	m.settle()
	m.read(1)
	if m.settle(); m.total(feeTracker) != 600 {
		t.Errorf("total %d after a lower block, want 600", m.total(feeTracker))
	}
	m.mine(func(*modelState) {})
	m.read(0)
	delete(m.poll.Used, feeTracker)
	if m.settle(); m.total(feeTracker) != 600 {
		t.Errorf("total %d after a view without fees, want 600", m.total(feeTracker))
	}
}

// Signing and settling at the same time: in the end all that was granted has landed, and the total is exactly that.
func TestSettleWhileSigning(t *testing.T) {
	m := newModel(t, 1)
	const signers = 4
	var mu sync.Mutex
	released := map[uint64]bool{} // nonces whose signature may land
	var signing sync.WaitGroup
	var granted atomic.Uint64
	for w := range uint64(signers) {
		signing.Go(func() {
			for nonce := 3 + w; ; nonce += signers {
				r, err := m.ledger.Reserve("s", grantOf(nonce, byte(nonce), feeCharge(feeLimit, 5)),
					&audit.Record{Event: audit.SignGranted})
				if err != nil {
					return // the limit is full
				}
				if err := r.Durable(t.Context()); err != nil {
					t.Error(err)
					return
				}
				granted.Add(5)
				mu.Lock()
				released[nonce] = true
				mu.Unlock()
			}
		})
	}
	done := make(chan struct{})
	go func() { signing.Wait(); close(done) }()
	for finished := false; !finished; {
		select {
		case <-done:
			finished = true
		default:
		}
		mu.Lock()
		for released[m.head().nonce] {
			delete(released, m.head().nonce)
			m.mine(func(s *modelState) { s.nonce++; s.used[feeTracker] += 5 })
		}
		mu.Unlock()
		m.read(0)
		if st := m.settle(); len(st.External) > 0 {
			t.Fatalf("external usage %v", st.External)
		}
	}
	for m.head().nonce < 3+feeLimit { // a signer that was denied has left a gap, which the owner fills
		m.mine(func(s *modelState) {
			if released[s.nonce] {
				s.used[feeTracker] += 5
			}
			s.nonce++
		})
	}
	m.read(0)
	if st := m.settle(); len(st.External) > 0 {
		t.Fatalf("external usage %v", st.External)
	}
	if got := m.total(feeTracker); got != granted.Load() || got != feeLimit || m.head().used[feeTracker] != got {
		t.Errorf("total %d, %d granted, %d landed, want %d", got, granted.Load(), m.head().used[feeTracker], feeLimit)
	}
}
