package session

import (
	"maps"
	"math"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Period ids travel outside the signed digest: a transaction that was signed in one period of an
// allowance can land in another one, with that period's id. So once the chain is watched, a
// liability costs its largest amount in every period in which it may still land. Carrying
// writes that down: it raises the liability's cost on a period's tracker, and the
// tracker's total with it, so that a total is always what is settled plus the sum of the costs.

// enterPeriodsLocked carries the open liabilities into each charge's period that has counted
// nothing yet. An offline agent, which settles nothing, carries nothing: its
// abandoned signatures would weigh on every period to come.
func (l *Ledger) enterPeriodsLocked(b *book, charges []policy.Charge) error {
	for _, ch := range charges {
		if !b.carries(ch.Tracker) {
			continue
		}
		entered, err := l.enteredLocked(b, ch.Tracker)
		if err != nil {
			return err
		}
		if entered {
			continue
		}
		open, err := l.openLocked(b, b.chain.Nonce)
		if err != nil {
			return err
		}
		t := ch.Tracker
		c := &carrying{raised: open.carry([]policy.Tracker{t})}
		c.used = costs{{t, open.sum(t)}}
		if err := l.enqueueLocked(&entry{change: c.change(b.Load().ID), after: func() { b.carried(c) }}); err != nil {
			return err
		}
		b.carry(c)
	}
	return nil
}

// carries reports whether t is of a period that liabilities are carried into.
func (b *book) carries(t policy.Tracker) bool { return t.Allowance && b.chain != nil }

// carriedLocked is what a period's total will be once the open liabilities are carried into it.
func (l *Ledger) carriedLocked(b *book, t policy.Tracker) (uint256.Int, error) {
	open, err := l.openLocked(b, b.chain.Nonce)
	if err != nil {
		return uint256.Int{}, err
	}
	open.carry([]policy.Tracker{t})
	return open.sum(t), nil
}

// enteredLocked reports whether t has a total, in memory or on disk.
func (l *Ledger) enteredLocked(b *book, t policy.Tracker) (entered bool, err error) {
	if _, ok := b.used[t]; ok {
		return true, nil
	}
	_, entered, err = l.store.usage(b.Load().ID, t)
	return entered, err
}

// carrying is what becomes durable when liabilities are carried or settled.
type carrying struct {
	raised nonces
	used   costs    // new totals
	chain  *settled // nil: not settled
	forget forgotten
}

func (c *carrying) change(id ID) *change {
	return &change{id: id, used: c.used, costs: c.raised, chain: c.chain, forget: c.forget}
}

// carry makes c's changes in memory. Its entry is in line already, so what is in memory is ahead of the disk.
func (b *book) carry(c *carrying) {
	b.ahead++
	for nonce, raised := range c.raised {
		n := b.open[nonce]
		if n == nil {
			n = &openNonce{signed: true}
			b.setOpen(nonce, n)
		}
		n.costs = raised
		n.entries++
	}
	for _, t := range c.forget.periods {
		maps.DeleteFunc(b.used, func(have policy.Tracker, _ uint256.Int) bool {
			return limitOf(have) == limitOf(t) && have.PeriodID < t.PeriodID
		})
	}
	for _, total := range c.used {
		b.setUsed(total.tracker, total.amount)
	}
	if c.chain != nil {
		b.chain = c.chain
	}
}

// carried is called with what carry was, once it is on disk.
func (b *book) carried(c *carrying) {
	b.ahead--
	for nonce := range c.raised {
		b.committed(nonce, b.open[nonce])
	}
}

// openLocked returns the liabilities from nonce first on, those ahead of the disk included.
func (l *Ledger) openLocked(b *book, first uint64) (nonces, error) {
	open := nonces{}
	err := l.store.liabilities(b.Load().ID, first, math.MaxUint64, func(nonce uint64, c costs) error {
		open[nonce] = c
		return nil
	})
	for nonce, n := range b.open {
		if nonce >= first {
			open[nonce] = n.costs
		}
	}
	return open, err
}
