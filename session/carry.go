package session

import (
	"maps"

	"github.com/holiman/uint256"
	bolt "go.etcd.io/bbolt"

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
		c := &carrying{raised: open.carry([]policy.Tracker{t}), used: map[policy.Tracker]uint256.Int{t: open.sum(t)}}
		if err := l.enqueueLocked(&entry{
			apply: func(tx *bolt.Tx) error { return c.put(tx, b.sess.ID) },
			after: func() { b.carried(c) },
		}); err != nil {
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
	err = l.db.View(func(tx *bolt.Tx) error {
		_, entered, err = getUsage(tx, b.sess.ID, t)
		return err
	})
	return entered, err
}

// carrying is what becomes durable when liabilities are carried or settled.
type carrying struct {
	raised nonces
	used   map[policy.Tracker]uint256.Int // new totals
	chain  *settled                       // nil: not settled
}

func (c *carrying) put(tx *bolt.Tx, id ID) error {
	for t, used := range c.used {
		if err := putUsage(tx, id, t, used); err != nil {
			return err
		}
	}
	for nonce, n := range c.raised {
		if err := putJSON(tx, liabilitiesBucket, liabilityKey(id, nonce), n.liability); err != nil {
			return err
		}
	}
	if c.chain == nil {
		return nil
	}
	return putJSON(tx, chainBucket, []byte(id), c.chain)
}

// carry makes c's changes in memory. Its entry is in line already, so what is in memory is ahead of the disk.
func (b *book) carry(c *carrying) {
	b.ahead++
	for nonce, raised := range c.raised {
		n := b.open[nonce]
		if n == nil {
			n = &openNonce{signed: true, digests: map[policy.Hash]bool{}}
			b.open[nonce] = n
		}
		n.liability = raised.liability
		n.entries++
	}
	maps.Copy(b.used, c.used)
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

// nonces are liabilities by nonce. Their charges belong to the caller.
type nonces map[uint64]*openNonce

// openLocked returns copies of the liabilities from nonce first on, those ahead of the disk included.
func (l *Ledger) openLocked(b *book, first uint64) (nonces, error) {
	open := nonces{}
	err := l.db.View(func(tx *bolt.Tx) (err error) {
		forLiabilities(tx, b.sess.ID, first, func(nonce uint64, v []byte) bool {
			if b.open[nonce] != nil {
				return true
			}
			var parsed liability
			parsed, err = parseLiability(b.sess.ID, nonce, v)
			open[nonce] = &openNonce{liability: parsed}
			return err == nil
		})
		return err
	})
	for nonce, n := range b.open {
		if nonce >= first {
			open[nonce] = &openNonce{liability: liability{Charges: maps.Clone(n.Charges)}}
		}
	}
	return open, err
}

// carry raises what each liability costs on the allowances among trackers to the most that it
// costs in any period, and returns those that it changed.
func (open nonces) carry(trackers []policy.Tracker) nonces {
	raised := nonces{}
	for nonce, n := range open {
		most := n.mostByLimit()
		for _, t := range trackers {
			cost, had := most[limitOf(t)], n.cost(t)
			if !t.Allowance || !cost.Gt(&had) {
				continue
			}
			dec := policy.Decimal(cost)
			n.Charges[t] = &dec // not nil: it has a cost
			raised[nonce] = n
		}
	}
	return raised
}

// sum is what the liabilities cost on t; the largest number if that does not fit.
func (open nonces) sum(t policy.Tracker) (total uint256.Int) {
	for _, n := range open {
		total = addCapped(total, n.cost(t))
	}
	return total
}

// mostByLimit is the most that l costs on each limit, in whichever period.
func (l *liability) mostByLimit() map[policy.Tracker]uint256.Int {
	most := make(map[policy.Tracker]uint256.Int, len(l.Charges))
	for t, c := range l.Charges {
		cost, had := uint256.Int(*c), most[limitOf(t)]
		if cost.Gt(&had) {
			most[limitOf(t)] = cost
		}
	}
	return most
}

// limitOf is t without its period: the limit that t counts for.
func limitOf(t policy.Tracker) policy.Tracker {
	t.PeriodID = 0
	return t
}

// addCapped is x + y, or the largest number if that does not fit. Too much is the safe side.
func addCapped(x, y uint256.Int) uint256.Int {
	sum, overflow := new(uint256.Int).AddOverflow(&x, &y)
	if overflow {
		return *sum.SetAllOne()
	}
	return *sum
}
