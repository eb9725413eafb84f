package session

import (
	"slices"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// costs are amounts by tracker, each tracker once: what the signatures for a nonce cost, or totals. Of all signatures
// for one nonce only one can land, so a nonce costs, on each tracker, the largest amount. A list that others
// may hold is never changed, only replaced.
type costs []cost

type cost struct {
	tracker policy.Tracker
	amount  uint256.Int
}

// of returns the amount on t, 0 if there is none.
func (c costs) of(t policy.Tracker) uint256.Int {
	if i := c.position(t); i >= 0 {
		return c[i].amount
	}
	return uint256.Int{}
}

func (c costs) position(t policy.Tracker) int {
	return slices.IndexFunc(c, func(have cost) bool { return have.tracker == t })
}

// with returns c with amount on t.
func (c costs) with(t policy.Tracker, amount uint256.Int) costs {
	next := append(make(costs, 0, len(c)+1), c...)
	if i := next.position(t); i >= 0 {
		next[i].amount = amount
		return next
	}
	return append(next, cost{t, amount})
}

// raise returns c with at least the amounts of more.
func (c costs) raise(more costs) costs {
	next := append(make(costs, 0, len(c)+len(more)), c...)
	for _, m := range more {
		switch i := next.position(m.tracker); {
		case i < 0:
			next = append(next, m)
		case m.amount.Gt(&next[i].amount):
			next[i].amount = m.amount
		}
	}
	return next
}

// lessCapped is total - part. It is total if that may be more than addCapped could count. Too much is the safe side.
func lessCapped(total, part uint256.Int) uint256.Int {
	if part.Gt(&total) || total.Eq(new(uint256.Int).SetAllOne()) {
		return total
	}
	return *new(uint256.Int).Sub(&total, &part)
}

// mostByLimit is the most that c costs on each limit, in whichever period.
func (c costs) mostByLimit() costs {
	var most costs
	for _, have := range c {
		most = most.raise(costs{{limitOf(have.tracker), have.amount}})
	}
	return most
}

// limitOf is t without its period: the limit that t counts for.
func limitOf(t policy.Tracker) policy.Tracker {
	t.PeriodID = 0
	return t
}

// nonces are costs by nonce.
type nonces map[uint64]costs

// carry raises what each nonce costs on the allowances among trackers to the most that it
// costs in any period, and returns those that it changed.
func (open nonces) carry(trackers []policy.Tracker) nonces {
	raised := nonces{}
	for nonce, c := range open {
		most := c.mostByLimit()
		for _, t := range trackers {
			amount, had := most.of(limitOf(t)), c.of(t)
			if !t.Allowance || !amount.Gt(&had) {
				continue
			}
			c = c.with(t, amount)
			open[nonce], raised[nonce] = c, c
		}
	}
	return raised
}

// sum is what the nonces cost on t; the largest number if that does not fit.
func (open nonces) sum(t policy.Tracker) (total uint256.Int) {
	for _, c := range open {
		total = addCapped(total, c.of(t))
	}
	return total
}

// addCapped is x + y, or the largest number if that does not fit. Too much is the safe side.
func addCapped(x, y uint256.Int) uint256.Int {
	sum, overflow := new(uint256.Int).AddOverflow(&x, &y)
	if overflow {
		return *sum.SetAllOne()
	}
	return *sum
}
