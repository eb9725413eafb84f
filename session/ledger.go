package session

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// Ledger counts what sessions have signed for, in memory at once and on disk
// before a signature is released, and chains the audit trail. Limits hold under any
// concurrency because every count is checked and taken under one mutex, which is held
// across no device, network or prompt.
type Ledger struct {
	store store
	trail *audit.Trail

	settling sync.Mutex // one Settle at a time; held across the disk, never the network

	mu      sync.Mutex
	books   map[ID]*book
	tallies map[string]*openTally // of guard rules, looked at since the start. Made when needed
	index   *index                // of the sessions in books
	intents map[ID]intent         // keys that may exist without their session
	queue   []*entry
	head    audit.Head // of the last record on disk
	halted  error      // not nil: nothing is signed any more
	closed  bool       // nothing new gets in line

	locked      bool                 // by the operator
	lockVersion uint64               // raised by each lock
	writers     map[*writer]struct{} // of signatures, under way

	wake         chan struct{}
	closing      chan struct{}
	stopped      chan struct{}
	observe      atomic.Pointer[Config] // whose Observe is told; nil before Open has opened everything
	lag          atomic.Int64           // unsynced, for others to read
	segmentBytes atomic.Int64           // size at which a new segment of the trail begins
	segmentAge   atomic.Int64           // age at which it does, nanoseconds; 0: any
	sealNext     atomic.Bool            // a new segment begins with the next batch

	lines    []byte    // room for those of a batch; the committer's alone
	begun    time.Time // when the newest segment's first record was written; the committer's alone
	unsynced int       // bytes of the trail not known to be on disk; the committer's alone
	trim     bool      // the journal's older batches are synced and can go; the committer's alone
}

const maxCachedTotals = 4096

// book is one session's page of the ledger.
type book struct {
	*listed                                // the session
	used    map[policy.Tracker]uint256.Int // what was looked at since the start; the store has all. Made when needed
	open    map[uint64]*openNonce          // nonces with entries that are not on disk yet. Made when needed

	chain *settled // what the chain was last seen to say; nil: never. Replaced, never changed
	ahead int      // entries of Settle and of carrying that are not on disk yet

	flights map[digestKey]*flight // calls that may still take back their charge. Made when needed

	version  uint64 // raised when the session stops signing; see Pass
	inDevice int    // charged signatures on which the device still works
}

// session returns b's session, which may be brief; nil has none.
func (b *book) session() *Session {
	if b == nil {
		return nil
	}
	return b.Load()
}

// openNonce is the state of a nonce ahead of the disk.
type openNonce struct {
	costs    costs                 // of all signatures for it
	signed   bool                  // for any digest, ever
	digests  map[policy.Hash]costs // granted, perhaps not on disk yet. Made when needed
	reverted []policy.Hash         // taken back, perhaps on disk still
	entries  int                   // not on disk yet
}

// Grant is what a reservation is for.
type Grant struct {
	Nonce   uint64
	Digest  policy.Hash
	Charges []policy.Charge // from [policy.Spec.Check]
	Denied  error           // from the same

	Counters []rules.Counter // what guard rules count, from [rules.Set.Judge]
	Rules    string          // the version of the rules, from [rules.Set.Hash]; for the record
	At       time.Time       // when the rules judged
}

// Reservation is a grant that is counted. It is durable once Durable returned nil.
type Reservation struct {
	Counted []policy.Charge // what was added, beyond what the nonce had cost already
	entry   *entry
	pass    *Pass
	ledger  *Ledger
	digest  digestKey
	flight  *flight // nil: the digest was charged before
	left    bool    // the call has ended
}

// Record is the number of the grant's audit record, once Durable returned nil.
func (r *Reservation) Record() uint64 { return r.entry.seq }

// Durable returns nil once the charge and its audit record are on disk. After an
// error the charge stays, whatever becomes of its entry: nothing is given back on a guess.
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
	case b == nil || !b.Load().signs():
		return nil, notActive(b.session())
	}
	n, known, p, err := l.weighLocked(b, &g)
	if err != nil {
		return nil, err
	}
	tallies, added, err := l.countLocked(&g, known)
	if err != nil {
		return nil, err
	}
	rec.Verdict = &audit.Verdict{Allow: true, Charges: policy.Charges(p.counted), Repeat: known, Replaces: !known &&
		n.signed, Rules: g.Rules}
	var c *change // a digest that is known changes nothing
	if !known {
		c = &change{id: id, used: p.used, costs: nonces{g.Nonce: p.nonce}, grant: &granted{g.Nonce, g.Digest, p.digest},
			tallies: tallies}
	}
	at := digestKey{g.Nonce, g.Digest}
	r := &Reservation{Counted: p.counted, ledger: l, digest: at, pass: &Pass{id, b.version, l.lockVersion, rec},
		entry: &entry{
			rec: rec, change: c, after: func() {
				b.committed(g.Nonce, n)
				l.talliedLocked(tallies)
			},
		}}
	if err := l.enqueueLocked(r.entry); err != nil {
		return nil, err
	}
	b.take(g.Nonce, n, p)
	l.tallyAheadLocked(tallies)
	if !known {
		n.grant(g.Digest, p.digest)
	}
	n.signed = true
	n.entries++
	b.inDevice++
	r.flight = b.join(at, !known, added)
	return r, nil
}

// Preview returns what Reserve would count now. Nothing is counted or recorded.
func (l *Ledger) Preview(id ID, g Grant) ([]policy.Charge, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books[id]
	if b == nil || !b.Load().signs() {
		return nil, notActive(b.session())
	}
	_, known, p, err := l.weighLocked(b, &g)
	if err != nil {
		return nil, err
	}
	if _, _, err := l.countLocked(&g, known); err != nil {
		return nil, err
	}
	return p.counted, nil
}

// weighLocked finds the state of g's nonce, whether g's digest was granted for it before, and what g comes to. A digest
// that was granted before loses its charges.
func (l *Ledger) weighLocked(b *book, g *Grant) (n *openNonce, known bool, p *priced, err error) {
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
	used := make(costs, 0, len(g.Charges))
	for _, ch := range g.Charges {
		total, err := l.totalLocked(b, ch.Tracker)
		if err != nil {
			return nil, false, nil, err
		}
		used = append(used, cost{ch.Tracker, total})
	}
	counted := n.costs
	if b.passed(g.Nonce) { // it counts again until the next Settle finds that it can't land
		counted = nil
	}
	p, err = price(g, n.costs, counted, used)
	if err != nil {
		return nil, false, nil, l.index.whole(b.listed).Spec.Locate(err)
	}
	return n, known, p, nil
}

// totalLocked returns what t has counted, from memory or else from the store.
func (l *Ledger) totalLocked(b *book, t policy.Tracker) (used uint256.Int, err error) {
	if used, ok := b.used[t]; ok {
		return used, nil
	}
	used, found, err := l.store.usage(b.Load().ID, t)
	switch {
	case err != nil:
		return used, err
	case !found && b.carries(t):
		return l.carriedLocked(b, t) // not kept: enterPeriodsLocked writes it down
	}
	b.setUsed(t, used)
	return used, nil
}

// nonceLocked returns the state of a nonce, and whether digest was granted for it before.
func (l *Ledger) nonceLocked(b *book, nonce uint64, digest policy.Hash) (n *openNonce, known bool, err error) {
	n = b.open[nonce]
	if n != nil {
		if _, granted := n.digests[digest]; granted || slices.Contains(n.reverted, digest) {
			return n, granted, nil
		}
	}
	stored, signed, known, err := l.store.nonce(b.Load().ID, nonce, digest)
	if n == nil {
		n = &openNonce{costs: stored, signed: signed}
	}
	return n, known, err
}

// passed reports whether the account has used the nonce, as the chain was last seen.
func (b *book) passed(nonce uint64) bool { return b.chain != nil && nonce < b.chain.Nonce }

// take makes p, which is for nonce n, count in memory.
func (b *book) take(nonce uint64, n *openNonce, p *priced) {
	for _, c := range p.used {
		b.setUsed(c.tracker, c.amount)
	}
	n.costs = p.nonce
	b.setOpen(nonce, n)
}

func (b *book) setUsed(t policy.Tracker, used uint256.Int) {
	if b.used == nil {
		b.used = map[policy.Tracker]uint256.Int{}
	}
	b.used[t] = used
}

func (b *book) setOpen(nonce uint64, n *openNonce) {
	if b.open == nil {
		b.open = map[uint64]*openNonce{}
	}
	b.open[nonce] = n
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
