package session

import (
	"maps"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// This file decides, and does nothing else: it has no state, no disk and no clock. The ledger gives it
// what was counted so far and makes what it answers durable.

// priced is what a grant comes to.
type priced struct {
	counted []policy.Charge // beyond what the nonce had cost already
	used    costs           // new totals
	nonce   costs           // what all signatures for the nonce cost, this one included
	digest  costs           // what this one costs
}

// price works out what g costs, all of its charges or the first refusal. had is what the signatures for its nonce have
// cost so far. counted is how much of that is in used, the totals: all of it, or nothing once the chain is past the
// nonce. Of all signatures for one nonce only one can land, so they cost the largest amount, not the sum.
func price(g *Grant, had, counted, used costs) (*priced, error) {
	without := func(t policy.Tracker) uint256.Int {
		total, old := used.of(t), counted.of(t)
		return *new(uint256.Int).Sub(&total, &old)
	}
	if err := policy.Settle(g.Charges, g.Denied, without); err != nil {
		return nil, err
	}
	p := &priced{digest: make(costs, 0, len(g.Charges)), used: make(costs, 0, len(g.Charges))}
	for _, ch := range g.Charges {
		p.digest = append(p.digest, cost{ch.Tracker, uint256.Int(ch.Amount)})
	}
	p.nonce = had.raise(p.digest)
	for _, ch := range g.Charges {
		most, base, already := p.nonce.of(ch.Tracker), without(ch.Tracker), counted.of(ch.Tracker)
		p.used = append(p.used, cost{ch.Tracker, *new(uint256.Int).Add(&base, &most)}) // Settle made sure that this fits
		if more := new(uint256.Int).Sub(&most, &already); !more.IsZero() {
			p.counted = append(p.counted, policy.Charge{Tracker: ch.Tracker, Limit: ch.Limit, Amount: policy.Decimal(*more)})
		}
	}
	return p, nil
}

// takeBack works out what a nonce costs without one of its digests, and the totals then. had is what the nonce
// costs with it, remain what each other digest costs, used the totals that the nonce counts in: none once the
// chain is past it. With carries, costs on an allowance may have been carried there from another period.
func takeBack(had costs, remain []costs, carries bool, used costs) (nonce, totals costs) {
	var own costs
	for _, c := range remain {
		own = own.raise(c)
	}
	most := own.mostByLimit()
	for _, h := range had {
		left := own.of(h.tracker)
		if carried := most.of(limitOf(h.tracker)); carries && h.tracker.Allowance && carried.Gt(&left) {
			left = carried
		}
		if left.Gt(&h.amount) {
			left = h.amount
		}
		if !left.IsZero() || own.position(h.tracker) >= 0 {
			nonce = append(nonce, cost{h.tracker, left})
		}
	}
	for _, total := range used {
		before, after := had.of(total.tracker), nonce.of(total.tracker)
		if back := *new(uint256.Int).Sub(&before, &after); !back.IsZero() {
			totals = append(totals, cost{total.tracker, lessCapped(total.amount, back)})
		}
	}
	return nonce, totals
}

// settleTotals returns the totals of trackers by view v: what the chain has counted, and what the open nonces, those
// that v's block does not have, cost. before are the totals so far. With raiseOnly no total becomes lower.
func settleTotals(v *ChainView, trackers []policy.Tracker, open nonces, before costs, raiseOnly bool) (after costs) {
	for _, t := range trackers {
		counted, has := v.Used[t]
		total, was := addCapped(counted, open.sum(t)), before.of(t)
		if (!has || raiseOnly) && total.Lt(&was) {
			total = was
		}
		after = append(after, cost{t, total})
	}
	return after
}

// external is what v has counted beyond the view before and beyond what the passed liabilities explain. After a step
// back there is nothing to compare with: the next view is held to this one.
func (last *settled) external(v *ChainView, explained costs) amounts {
	if last != nil && (v.Reorged || last.lowers(v) || v.Nonce < last.Nonce) {
		return nil
	}
	all := amounts{}
	for t, counted := range v.Used {
		known := explained.of(limitOf(t))
		if last != nil { // of an allowance's later period the last view has nothing, and the chain had none
			known = addCapped(known, uint256.Int(last.Used[t]))
		}
		if counted.Gt(&known) {
			all[limitOf(t)] = policy.Decimal(*new(uint256.Int).Sub(&counted, &known))
		}
	}
	return all
}

// lowers reports whether v is of a lower block than the view before.
func (last *settled) lowers(v *ChainView) bool {
	return last != nil && v.Block.Number < last.Block.Number
}

// next is what to settle the next view by. past is what can be forgotten with it: nil if nothing.
func (last *settled) next(v *ChainView, external amounts) (next *settled, past *pastNonce) {
	next = &settled{Block: v.Block, Nonce: v.Nonce, Used: amounts{}, External: amounts{}}
	for t, used := range v.Used {
		next.Used[t] = policy.Decimal(used)
	}
	next.Older = pastNonce{v.Block.Time, v.Nonce}
	if last != nil {
		maps.Copy(next.External, last.External)
		next.Forgotten = last.Forgotten
		if !last.lowers(v) && v.Nonce >= last.Older.Nonce {
			next.Older = last.Older
		}
	}
	for t, more := range external {
		next.External[t] = policy.Decimal(addCapped(uint256.Int(next.External[t]), uint256.Int(more)))
	}
	return next, next.age(v)
}

// forgetAfter is how long ago, by block times, the account must have used a nonce before the ledger forgets what was
// signed for it, in seconds. No chain that the agent follows goes back so far.
const forgetAfter = 24 * 3600

// pastNonce is the account's nonce at a time.
type pastNonce struct {
	Time  uint64 // of the block
	Nonce uint64
}

// age waits for the nonces that are used now, once those that it waited for were used a day ago. It returns those: they
// are forgotten, even if none was used since the time before, as transactions may have been signed for nonces that were
// used already.
func (s *settled) age(v *ChainView) (past *pastNonce) {
	if v.Block.Time < s.Older.Time+forgetAfter {
		return nil
	}
	old := s.Older
	s.Forgotten = max(s.Forgotten, old.Nonce)
	s.Older = pastNonce{v.Block.Time, v.Nonce}
	return &old
}
