package session

import (
	"context"
	"sync"

	"github.com/holiman/uint256"
	bolt "go.etcd.io/bbolt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// Ledger counts what sessions have signed for, in memory at once and on disk
// before a signature is released, and chains the audit trail. Limits hold under any
// concurrency because every count is checked and taken under one mutex, which is held
// across no device, network or prompt.
type Ledger struct {
	db    *bolt.DB
	trail *audit.Trail

	settling sync.Mutex // one Settle at a time; held across the disk, never the network

	mu     sync.Mutex
	books  map[ID]*book
	index  *index // of the sessions in books
	queue  []*entry
	head   audit.Head // of the last record on disk
	halted error      // not nil: nothing is signed any more
	closed bool       // nothing new gets in line

	locked      bool                 // by the operator
	lockVersion uint64               // raised by each lock
	writers     map[*writer]struct{} // of signatures, under way

	wake     chan struct{}
	closing  chan struct{}
	stopped  chan struct{}
	unsynced int  // bytes of the trail not known to be on disk; the committer's alone
	trim     bool // the journal's older batches are synced and can go; the committer's alone
}

const maxCachedTotals = 4096

// book is one session's page of the ledger.
type book struct {
	sess *Session                       // replaced, never changed
	used map[policy.Tracker]uint256.Int // what was looked at since the start; the file has all
	open map[uint64]*openNonce          // nonces with entries that are not on disk yet

	chain *settled // what the chain was last seen to say; nil: never. Replaced, never changed
	ahead int      // entries of Settle and of carrying that are not on disk yet

	version  uint64 // raised when the session stops signing; see Pass
	inDevice int    // charged signatures on which the device still works
}

// openNonce is the state of a nonce ahead of the disk.
type openNonce struct {
	liability
	signed  bool                 // for any digest, ever
	digests map[policy.Hash]bool // granted, perhaps not on disk yet
	entries int                  // not on disk yet
}

func (n *openNonce) sign(digest policy.Hash) {
	n.signed = true
	n.digests[digest] = true
	n.entries++
}

// Grant is what a reservation is for.
type Grant struct {
	Nonce   uint64
	Digest  policy.Hash
	Charges []policy.Charge // from [policy.Spec.Check]
	Denied  error           // from the same
}

// Reservation is a grant that is counted. It is durable once Durable returned nil.
type Reservation struct {
	Counted []policy.Charge // what was added, beyond what the nonce had cost already
	entry   *entry
	pass    *Pass
	ledger  *Ledger
}

// leftDevice says that the device is done with the signature, whatever came of it.
func (r *Reservation) leftDevice() {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.ledger.books[r.pass.id].inDevice--
}

// Durable returns nil once the charge and its audit record are on disk. After an
// error the charge stays: nothing is given back on a guess.
func (r *Reservation) Durable(ctx context.Context) error { return r.entry.wait(ctx) }

// Reserve counts g's charges against session id: all or none. The error is a
// *policy.Denial, the chain's own first refusal, ErrLocked or ErrHalted.
//
// rec is recorded with it; Reserve fills in its verdict.
func (l *Ledger) Reserve(id ID, g Grant, rec *audit.Record) (*Reservation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[id]
	switch {
	case l.locked:
		return nil, ErrLocked
	case b == nil || !b.sess.signs():
		return nil, notActive(b)
	}
	n, known, c, err := l.weighLocked(b, &g)
	if err != nil {
		return nil, err
	}
	rec.Verdict = &audit.Verdict{Allow: true, Charges: c.counted, Repeat: known, Replaces: !known && n.signed}
	r := &Reservation{Counted: c.counted, ledger: l, pass: &Pass{id, b.version, l.lockVersion, rec}, entry: &entry{
		rec:   rec,
		apply: func(tx *bolt.Tx) error { return c.put(tx, id, g) },
		after: func() { b.committed(g.Nonce, n) },
	}}
	if err := l.enqueueLocked(r.entry); err != nil {
		return nil, err
	}
	c.take(b, n)
	n.sign(g.Digest)
	b.open[g.Nonce] = n
	b.inDevice++
	return r, nil
}

// Preview returns what Reserve would count now. Nothing is counted or recorded.
func (l *Ledger) Preview(id ID, g Grant) ([]policy.Charge, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[id]
	if b == nil || !b.sess.signs() {
		return nil, notActive(b)
	}
	_, _, c, err := l.weighLocked(b, &g)
	if err != nil {
		return nil, err
	}
	return c.counted, nil
}

// weighLocked finds the state of g's nonce, whether g's digest was granted for it before, and
// what g changes. A digest that was granted before loses its charges.
func (l *Ledger) weighLocked(b *book, g *Grant) (n *openNonce, known bool, c *changes, err error) {
	if err := l.enterPeriodsLocked(b, g.Charges); err != nil {
		return nil, false, nil, err
	}
	n, known, err = l.nonceLocked(b, g.Nonce, g.Digest)
	if err != nil {
		return nil, false, nil, err
	}
	if known {
		g.Charges = nil
	}
	c, err = l.priceLocked(b, n, *g)
	return n, known, c, err
}

// changes is what a grant changes.
type changes struct {
	counted   []policy.Charge                // beyond what the nonce had cost already
	used      map[policy.Tracker]uint256.Int // new totals
	liability map[policy.Tracker]*policy.Decimal
}

// priceLocked works out what g costs beyond what its nonce has cost already. Of all
// signatures for one nonce only one can land, so they cost the largest amount, not the sum.
func (l *Ledger) priceLocked(b *book, n *openNonce, g Grant) (*changes, error) {
	without, err := l.usedLocked(b, n, &g)
	if err != nil {
		return nil, err
	}
	if err := policy.Settle(g.Charges, g.Denied, func(t policy.Tracker) uint256.Int { return without[t] }); err != nil {
		return nil, b.sess.Spec.Locate(err)
	}
	c := &changes{used: map[policy.Tracker]uint256.Int{}, liability: map[policy.Tracker]*policy.Decimal{}}
	for _, ch := range g.Charges {
		cost, old := uint256.Int(ch.Amount), n.cost(ch.Tracker)
		if cost.Cmp(&old) < 0 {
			cost = old
		}
		base := without[ch.Tracker]
		c.used[ch.Tracker] = *new(uint256.Int).Add(&base, &cost) // Settle made sure that this fits
		dec := policy.Decimal(cost)
		c.liability[ch.Tracker] = &dec
		counted := b.counted(g.Nonce, n, ch.Tracker)
		if more := new(uint256.Int).Sub(&cost, &counted); !more.IsZero() {
			c.counted = append(c.counted, policy.Charge{Tracker: ch.Tracker, Limit: ch.Limit, Amount: policy.Decimal(*more)})
		}
	}
	return c, nil
}

// usedLocked returns the totals of the trackers that g charges, without what n has cost.
func (l *Ledger) usedLocked(b *book, n *openNonce, g *Grant) (map[policy.Tracker]uint256.Int, error) {
	without := make(map[policy.Tracker]uint256.Int, len(g.Charges))
	for _, ch := range g.Charges {
		used, err := l.totalLocked(b, ch.Tracker)
		if err != nil {
			return nil, err
		}
		old := b.counted(g.Nonce, n, ch.Tracker)
		without[ch.Tracker] = *new(uint256.Int).Sub(&used, &old)
	}
	return without, nil
}

// totalLocked returns what t has counted, from memory or else from the file.
func (l *Ledger) totalLocked(b *book, t policy.Tracker) (used uint256.Int, err error) {
	if used, ok := b.used[t]; ok {
		return used, nil
	}
	found := false
	err = l.db.View(func(tx *bolt.Tx) error {
		used, found, err = getUsage(tx, b.sess.ID, t)
		return err
	})
	switch {
	case err != nil:
		return used, err
	case !found && b.carries(t):
		return l.carriedLocked(b, t) // not kept: enterPeriodsLocked writes it down
	}
	b.used[t] = used
	return used, nil
}

// nonceLocked returns the state of a nonce, and whether digest was granted for it before.
func (l *Ledger) nonceLocked(b *book, nonce uint64, digest policy.Hash) (n *openNonce, known bool, err error) {
	n = b.open[nonce]
	if n != nil && n.digests[digest] {
		return n, true, nil
	}
	err = l.db.View(func(tx *bolt.Tx) error {
		known = tx.Bucket(signedBucket).Get(signedKey(b.sess.ID, nonce, digest)) != nil
		if n != nil {
			return nil
		}
		stored, found, err := getLiability(tx, b.sess.ID, nonce)
		n = &openNonce{liability: stored, signed: found, digests: map[policy.Hash]bool{}}
		return err
	})
	return n, known, err
}

// cost is what the signatures for the nonce have cost on t.
func (l *liability) cost(t policy.Tracker) uint256.Int {
	if c := l.Charges[t]; c != nil {
		return uint256.Int(*c)
	}
	return uint256.Int{}
}

// counted is how much of n's cost on t is in t's total: nothing once the chain is past the
// nonce, so a signature for it counts anew until the next Settle finds that it can't land.
func (b *book) counted(nonce uint64, n *openNonce, t policy.Tracker) uint256.Int {
	if b.passed(nonce) {
		return uint256.Int{}
	}
	return n.cost(t)
}

// passed reports whether the account has used the nonce, as the chain was last seen.
func (b *book) passed(nonce uint64) bool { return b.chain != nil && nonce < b.chain.Nonce }

// take makes the changes in memory.
func (c *changes) take(b *book, n *openNonce) {
	for t, used := range c.used {
		b.used[t] = used
	}
	// Entries in line still hold the old map: a fresh one, as theirs must not change.
	merged := make(map[policy.Tracker]*policy.Decimal, len(n.Charges)+len(c.liability))
	for t, cost := range n.Charges {
		merged[t] = cost
	}
	for t, cost := range c.liability {
		merged[t] = cost
	}
	n.Charges = merged
	c.liability = merged
}

// put writes the changes.
func (c *changes) put(tx *bolt.Tx, id ID, g Grant) error {
	for t, used := range c.used {
		if err := putUsage(tx, id, t, used); err != nil {
			return err
		}
	}
	if err := putJSON(tx, liabilitiesBucket, liabilityKey(id, g.Nonce), liability{Charges: c.liability}); err != nil {
		return err
	}
	return tx.Bucket(signedBucket).Put(signedKey(id, g.Nonce, g.Digest), []byte{1})
}

// committed forgets a nonce whose entries are all on disk, and totals, of which
// allowances add some with every period, when there are too many and none is ahead of the disk.
func (b *book) committed(nonce uint64, n *openNonce) {
	if n.entries--; n.entries == 0 {
		delete(b.open, nonce)
	}
	if len(b.open) == 0 && b.ahead == 0 && len(b.used) > maxCachedTotals {
		clear(b.used)
	}
}
