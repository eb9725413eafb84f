package session

import (
	"maps"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// A charge is taken back only if no signature over its digest can exist. The backend says so of each call
// (backends.ErrNotSigned), and the ledger adds up the calls: those that were in flight together since the digest
// was charged. A digest that a later call, or a later process, finds charged is never taken back.

// digestKey names a digest of a session.
type digestKey struct {
	nonce  uint64
	digest policy.Hash
}

// flight is the calls for one digest, from the one that charged it to the last that ends.
type flight struct {
	calls int       // that have not ended
	doubt bool      // one has ended, and a signature may exist
	added []counted // to the counters of guard rules
}

// join adds a call for a digest, which first charged, to its flight. It returns nil if the flight is over.
func (b *book) join(at digestKey, first bool, added []counted) *flight {
	f := b.flights[at]
	if first {
		f = &flight{added: added}
		if b.flights == nil {
			b.flights = map[digestKey]*flight{}
		}
		b.flights[at] = f
	}
	if f != nil {
		f.calls++
	}
	return f
}

// signed says that the device has made the signature.
func (r *Reservation) signed() {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.leaveLocked(false)
}

// failed says that the call has ended without a signature, and whether it is certain that the device has made none. If
// that is certain of all calls for the digest, the charge is taken back: failed makes rec the record of that and
// returns the entry, which the caller waits for. Else it returns nil, and the caller records rec.
func (r *Reservation) failed(certain bool, rec audit.Record) (*entry, error) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if !r.leaveLocked(certain) {
		return nil, nil
	}
	return r.ledger.revertLocked(r.ledger.books[r.pass.id], r.digest, r.flight.added, rec)
}

// abandon is for a call that ended neither way: by a panic. A signature may exist.
func (r *Reservation) abandon() {
	if r.left {
		return
	}
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.leaveLocked(false)
}

// leaveLocked takes the call out of the device and its flight, and reports whether the charge is to be taken back.
func (r *Reservation) leaveLocked(certain bool) bool {
	b, f := r.ledger.books[r.pass.id], r.flight
	r.left = true
	b.inDevice--
	if f == nil {
		return false
	}
	f.calls--
	f.doubt = f.doubt || !certain
	if f.calls > 0 {
		return false
	}
	delete(b.flights, r.digest)
	return !f.doubt
}

// revertedDetail is the detail of a record of what was taken back.
type revertedDetail struct {
	Why      any     `json:"why"`
	Returned amounts `json:"returned,omitempty"` // by which totals became lower
}

// revertLocked takes back what a digest was charged: the nonce costs the most of what is left, and totals fall by
// the difference. Its entry is in line after that of the charge. It returns nil if the digest is forgotten already.
func (l *Ledger) revertLocked(b *book, at digestKey, added []counted, rec audit.Record) (*entry, error) {
	n, known, err := l.nonceLocked(b, at.nonce, at.digest)
	if err != nil || !known {
		return nil, err
	}
	remain, err := l.othersLocked(b, n, at)
	if err != nil {
		return nil, err
	}
	used, err := l.countedLocked(b, at.nonce, n.costs)
	if err != nil {
		return nil, err
	}
	tallies, err := l.uncountLocked(added)
	if err != nil {
		return nil, err
	}
	left, totals := takeBack(n.costs, remain, b.chain != nil, used)
	returned := amounts{}
	for _, after := range totals {
		returned[after.tracker] = policy.Decimal(lessCapped(used.of(after.tracker), after.amount))
	}
	rec.Event, rec.Detail = audit.SignReverted, revertedDetail{rec.Detail, returned}
	last := len(remain) == 0
	c := &change{id: b.Load().ID, used: totals, revert: &reverted{at.nonce, at.digest, last}, tallies: tallies}
	if !last {
		c.costs = nonces{at.nonce: left}
	}
	e := &entry{rec: &rec, change: c, after: func() {
		b.committed(at.nonce, n)
		l.talliedLocked(tallies)
	}}
	if err := l.enqueueLocked(e); err != nil {
		return nil, err
	}
	for _, total := range totals {
		b.setUsed(total.tracker, total.amount)
	}
	l.tallyAheadLocked(tallies)
	n.costs, n.signed = left, !last
	n.revert(at.digest)
	n.entries++
	b.setOpen(at.nonce, n)
	return e, nil
}

// othersLocked returns what each other digest costs that is granted for the nonce.
func (l *Ledger) othersLocked(b *book, n *openNonce, at digestKey) (others []costs, err error) {
	all := maps.Clone(n.digests)
	if all == nil {
		all = map[policy.Hash]costs{}
	}
	err = l.store.digests(b.Load().ID, at.nonce, func(digest policy.Hash, c costs) error {
		if _, ahead := all[digest]; !ahead {
			all[digest] = c
		}
		return nil
	})
	delete(all, at.digest)
	for _, gone := range n.reverted {
		if _, again := n.digests[gone]; !again {
			delete(all, gone)
		}
	}
	for _, c := range all {
		others = append(others, c)
	}
	return others, err
}

// countedLocked returns the totals that a nonce with costs c counts in: none once the chain is past it, and not those
// of periods that are forgotten.
func (l *Ledger) countedLocked(b *book, nonce uint64, c costs) (used costs, err error) {
	if b.passed(nonce) {
		return nil, nil
	}
	for _, have := range c {
		entered, err := l.enteredLocked(b, have.tracker)
		if err != nil {
			return nil, err
		}
		if !entered {
			continue
		}
		total, err := l.totalLocked(b, have.tracker)
		if err != nil {
			return nil, err
		}
		used = append(used, cost{have.tracker, total})
	}
	return used, nil
}

// grant notes that digest is granted and costs c alone.
func (n *openNonce) grant(digest policy.Hash, c costs) {
	if n.digests == nil {
		n.digests = map[policy.Hash]costs{}
	}
	n.digests[digest] = c
}

// revert notes that digest is taken back.
func (n *openNonce) revert(digest policy.Hash) {
	delete(n.digests, digest)
	n.reverted = append(n.reverted, digest)
}
