package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// ChainView is what one block says about an agw session.
type ChainView struct {
	Block chain.Block
	Nonce uint64 // the account's: every lower one is used, by whatever transaction
	// Used is what the chain has counted, for every limit of the spec; of an allowance in
	// the block's period.
	Used map[policy.Tracker]uint256.Int
	// Reorged says that the block of the last view is no longer the chain's, so that what
	// was counted since can't be held to it.
	Reorged bool
}

// settled is the view that a session was last settled by.
type settled struct {
	Block chain.Block
	Nonce uint64
	Used  amounts
	// External is, by limit, what the chain has counted and the ledger can't explain, since ever.
	External amounts

	Older     pastNonce // the account's nonce at some time in the last day
	Forgotten uint64    // the liabilities of lower nonces are not on file any more
}

type amounts map[policy.Tracker]policy.Decimal

// Settlement is what a view changed.
type Settlement struct {
	Block  uint64  `json:"block"`
	Nonce  uint64  `json:"nonce"`            // the account's
	Passed int     `json:"passed,omitempty"` // liabilities that can't land any more, or have
	Before amounts `json:"before,omitempty"` // totals that changed
	After  amounts `json:"after,omitempty"`
	// External is, by limit, what the chain has counted since the view before and no liability explains: the
	// key or the session is used from elsewhere.
	External amounts `json:"external,omitempty"`
}

// Settle brings the totals of session id in line with v, a block of the chain.
//
// A transaction that was signed here can land only while the account's nonce is not past its own, and of all
// that were signed for one nonce one lands at most. So at block B, with the account's nonce N,
//
//	total(t) = what the chain has counted on t at B + the costs on t of all liabilities with nonce >= N
//
// is the most that the chain can come to count of what was signed here: what landed is in the first
// part, what another transaction took the nonce of is in none. Liabilities that were reserved while
// v was being read are in the second part whatever v says, as B does not have their nonces; so an old v
// gives a total that is too high, never one too low.
//
// A liability whose nonce has passed stays on file for a day and costs nothing. After a reorganisation
// N is lower, and the liabilities from there on cost again what they cost before. A view of a
// lower block than the last (a node that lags, or a chain that was set back), or of a nonce that is forgotten already,
// only raises totals.
//
// An allowance's total is settled in v's period. Other periods keep theirs until the chain gets
// there, or get what is open, if that is more; see enterPeriodsLocked.
//
// The change is durable, with a record made of rec if totals or liabilities changed, when Settle returns nil.
// The caller makes sure that v has all limits (see [viewOf]); one that is missing keeps its total.
func (l *Ledger) Settle(ctx context.Context, id ID, v *ChainView, now time.Time, rec *audit.Record) (*Settlement,
	error) {
	l.settling.Lock()
	defer l.settling.Unlock()
	last, known := l.settledOf(id)
	if !known {
		return nil, fmt.Errorf("session %q: %w", id, ErrUnknownSigner)
	}
	// From the disk alone: what has landed was released, so it was on disk before.
	passed, explained, err := l.passedBetween(id, last.nonce(), v.Nonce)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	st, e, err := l.settleLocked(id, v, now, explained)
	if err != nil {
		l.mu.Unlock()
		return nil, err
	}
	st.Passed = passed
	if e == nil {
		l.mu.Unlock()
		return st, nil
	}
	if passed > 0 || len(st.After) > 0 || len(st.External) > 0 {
		rec.Detail = st
		e.rec = rec
	}
	err = l.enqueueLocked(e.entry)
	if err == nil {
		l.books[id].carry(e.carrying)
	}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return st, e.wait(ctx)
}

// settling is an entry and what it changes in memory.
type settling struct {
	*entry
	*carrying
}

// settleLocked works out what v changes; the entry is nil if nothing that is worth a write.
func (l *Ledger) settleLocked(id ID, v *ChainView, now time.Time, explained costs) (*Settlement, *settling, error) {
	b := l.books[id]
	open, err := l.openLocked(b, v.Nonce)
	if err != nil {
		return nil, nil, err
	}
	spec := l.index.whole(b.listed).Spec
	trackers := trackersOf(spec, v, now)
	c := &carrying{raised: open.carry(trackers)}
	var before costs
	for _, t := range trackers {
		total, err := l.totalLocked(b, t)
		if err != nil {
			return nil, nil, err
		}
		before = append(before, cost{t, total})
	}
	c.used = settleTotals(v, trackers, open, before, b.chain.lowers(v) || b.chain != nil && v.Nonce < b.chain.Forgotten)
	st := &Settlement{Block: v.Block.Number, Nonce: v.Nonce, Before: amounts{}, After: amounts{}}
	for i, was := range before {
		if after := c.used[i].amount; after != was.amount {
			st.Before[was.tracker], st.After[was.tracker] = policy.Decimal(was.amount), policy.Decimal(after)
		}
	}
	st.External = b.chain.external(v, explained)
	var past *pastNonce
	c.chain, past = b.chain.next(v, st.External)
	if b.chain != nil && len(st.After) == 0 && len(c.raised) == 0 && maps.Equal(c.chain.Used, b.chain.Used) &&
		v.Nonce == b.chain.Nonce &&
		past == nil {
		b.chain = c.chain // a later block, which says the same
		return st, nil, nil
	}
	if past != nil {
		c.forget = forgotten{past.Nonce, pastPeriods(spec, past.Time)}
	}
	return st, &settling{entry: &entry{change: c.change(id), after: func() { b.carried(c) }}, carrying: c}, nil
}

// pastPeriods returns, for each allowance of spec, the tracker of the period before the one at t, Unix seconds: nothing
// that was signed can be counted in an earlier one.
func pastPeriods(spec *policy.Spec, t uint64) (past []policy.Tracker) {
	for _, u := range limits(spec, time.Unix(int64(t), 0)) {
		if u.Tracker.Allowance && u.Tracker.PeriodID > 0 {
			u.Tracker.PeriodID--
			past = append(past, u.Tracker)
		}
	}
	return past
}

// trackersOf returns those whose totals v can change: what the chain counts by, and what is signed by now.
func trackersOf(spec *policy.Spec, v *ChainView, now time.Time) []policy.Tracker {
	all := slices.Collect(maps.Keys(v.Used))
	for _, u := range limits(spec, now) {
		if _, ok := v.Used[u.Tracker]; !ok {
			all = append(all, u.Tracker)
		}
	}
	return all
}

// Unexplained reports whether Settle would find external usage in v, so that its caller can see
// first whether the last view's block, which it returns, is still the chain's.
func (l *Ledger) Unexplained(id ID, v *ChainView) (last chain.Block, found bool, err error) {
	before, known := l.settledOf(id)
	if !known || before == nil {
		return last, false, nil // nothing to be reorganised away
	}
	_, explained, err := l.passedBetween(id, before.nonce(), v.Nonce)
	if err != nil {
		return last, false, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return before.Block, len(before.external(v, explained)) > 0, nil
}

// passedBetween counts the liabilities with from <= nonce < to, and sums up what they cost by limit.
func (l *Ledger) passedBetween(id ID, from, to uint64) (passed int, explained costs, err error) {
	err = l.store.liabilities(id, from, to, func(_ uint64, c costs) error {
		passed++
		for _, most := range c.mostByLimit() {
			explained = explained.with(most.tracker, addCapped(explained.of(most.tracker), most.amount))
		}
		return nil
	})
	return passed, explained, err
}

// settledOf returns the last view of the session, nil if there was none, and whether there is such a session.
func (l *Ledger) settledOf(id ID) (*settled, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[id]
	if b == nil {
		return nil, false
	}
	return b.chain, true
}

// External is, by limit, what the chain has counted of a session and the agent has not signed.
func (s *Sessions) External(id ID) map[policy.Tracker]policy.Decimal {
	last, _ := s.ledger.settledOf(id)
	if last == nil {
		return nil
	}
	return last.External
}

func (s *settled) nonce() uint64 {
	if s == nil {
		return 0
	}
	return s.Nonce
}
