package session

import (
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// store keeps the ledger. Its reads return what was committed; what is ahead of the disk is in the
// ledger's memory. Reads are safe for concurrent use. One goroutine at a time calls commit and close.
type store interface {
	// load reads what the agent keeps in memory. It reads no liabilities, no digests and no specs: sessions are brief.
	load() (*kept, error)
	// session returns a session, whole.
	session(id ID) (*Session, error)
	// usage returns what tracker t of a session has counted, and whether it has counted anything.
	usage(id ID, t policy.Tracker) (used uint256.Int, found bool, err error)
	// nonce returns what the signatures for a nonce cost. signed says whether there is one, known whether
	// there is one for digest.
	nonce(id ID, nonce uint64, digest policy.Hash) (c costs, signed, known bool, err error)
	// digests calls do with each digest that was granted for a nonce and what it alone costs, until do returns an error,
	// which it returns.
	digests(id ID, nonce uint64, do func(digest policy.Hash, c costs) error) error
	// liabilities calls do with what each signed nonce from <= nonce < to of a session costs, lowest first,
	// until do returns an error, which it returns.
	liabilities(id ID, from, to uint64, do func(nonce uint64, c costs) error) error
	// tally returns a counter of a guard rule; nil if it has counted nothing.
	tally(key string) (tally, error)
	// commit makes b durable: all or nothing of it is there after a crash, and all once commit has returned nil.
	// It keeps nothing of b. After an error the store takes no further commit: its caller stops, and the next start reads
	// what is there.
	commit(b *batch) error
	close() error
}

// kept is what a store hands over when it is opened.
type kept struct {
	sessions []*Session
	chain    map[ID]*settled
	intents  map[ID]intent
	head     audit.Head // of the last record
	journal  []byte     // the last records' lines, which may not be on disk in the trail
}

// batch is what one commit makes durable.
type batch struct {
	changes []*change // in the order of their effects
	first   uint64    // number of the first of lines
	lines   []byte    // sealed records
	head    audit.Head
	synced  bool // the trail has every record before first on disk
}

// change is what one entry changes, as data: the embedded store writes what the ledger worked out. A store that
// decides for several agents works it out itself, from grant.
type change struct {
	id      ID
	session *Session     // its new state; nil: as before
	spec    *policy.Spec // of a new session; nil: it has one
	intent  *intent      // a key may exist without its session; nil: as before
	settled bool         // no key can exist without its session any more
	grant   *granted     // nil: none
	revert  *reverted    // nil: none
	used    costs        // new totals
	costs   nonces       // new costs of nonces
	chain   *settled     // nil: as before
	tallies []newTally   // new contents of guard rules' counters
	forget  forgotten    // what can't be asked for any more
}

// granted is a signature that was charged.
type granted struct {
	nonce  uint64
	digest policy.Hash
	costs  costs // of this digest alone, whatever others for its nonce cost
}

// reverted is a grant that was taken back.
type reverted struct {
	nonce  uint64
	digest policy.Hash
	last   bool // no other digest is granted for the nonce
}

// forgotten is what a store drops: liabilities and digests of nonces below nonce, and totals of allowances in periods
// before those of periods.
type forgotten struct {
	nonce   uint64
	periods []policy.Tracker
}

// intent says that a key may exist for a session that was never stored.
type intent struct {
	Backend string `json:"backend"`
}
