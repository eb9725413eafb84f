package session

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// simModel is what the simulation knows of all that was answered: by which state, signatures and totals are judged.
type simModel struct {
	mu       sync.Mutex
	sessions []*simSession
	txs      map[policy.Hash]*simTx // all that was ever asked for, by digest
	locks    int                    // answered
	locked   string                 // "yes", "no", or "" while not known
	problem  error                  // the first
	released int
}

// simSession is a session that was created, and its account on chain.
type simSession struct {
	*Session
	reached  Status // answered
	tried    map[Status]bool
	stops    int // answered
	released map[uint64][]*simTx

	// The chain's part: nothing here is enforced.
	nonce   uint64
	fee     uint64
	value   map[uint64]uint64 // by period
	block   uint64
	settled int  // views that were handed to the ledger
	late    bool // a nonce was asked for that the account has used: it counts until it is settled again
}

// simTx is a transaction that was asked for.
type simTx struct {
	sess       *simSession
	tx         *zktx.Transaction
	digest     policy.Hash
	fee, value uint64
}

const (
	simFeeLimit   = 1000
	simValueLimit = 400
	simPeriod     = 600 // seconds
)

func (m *simModel) fail(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.failLocked(format, args...)
}

func (m *simModel) failLocked(format string, args ...any) {
	if m.problem == nil {
		m.problem = fmt.Errorf(format, args...)
	}
}

// clone is the model as it is now.
func (m *simModel) clone() *simModel {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := &simModel{txs: maps.Clone(m.txs), locks: m.locks, locked: m.locked}
	for _, s := range m.sessions {
		c := *s
		c.tried, c.value, c.released = maps.Clone(s.tried), maps.Clone(s.value), map[uint64][]*simTx{}
		for nonce, txs := range s.released {
			c.released[nonce] = slices.Clone(txs)
		}
		next.sessions = append(next.sessions, &c)
	}
	return next
}

func (m *simModel) failed() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

// fences is what was answered so far that keeps a signature of s, which is charged already, from being released.
func (m *simModel) fences(s *simSession) [2]int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return [2]int{m.locks, s.stops}
}

// asked takes note that x may be granted.
func (m *simModel) asked(x *simTx) {
	m.mu.Lock()
	defer m.mu.Unlock()
	x.sess.late = x.sess.late || x.tx.Nonce < x.sess.nonce
}

// release takes note that x was handed to write(2) at a time, Unix seconds, and holds the session's limits to the worst
// that the chain can come to count.
func (m *simModel) release(x *simTx, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := x.sess
	m.released++
	s.released[x.tx.Nonce] = append(s.released[x.tx.Nonce], x)
	if end := int64(s.Spec.ExpiresAt.Uint64()) - 60; now > end {
		m.failLocked("session %s: a signature was released at %d, the session signs until %d", s.ID, now, end)
	}
	fee, value := s.fee, s.value[uint64(now/simPeriod)]
	for nonce, txs := range s.released {
		if nonce < s.nonce {
			continue
		}
		most := costliest(txs)
		fee, value = fee+most.fee, value+most.value
	}
	if fee > simFeeLimit || value > simValueLimit {
		m.failLocked("session %s: the chain can come to count fees of %d and a value of %d in this period, the limits are "+
			"%d and %d",
			s.ID, fee, value, simFeeLimit, simValueLimit)
	}
}

// costliest has the largest fee and the largest value of txs.
func costliest(txs []*simTx) (most simTx) {
	for _, x := range txs {
		most.fee, most.value = max(most.fee, x.fee), max(most.value, x.value)
	}
	return most
}

// land has the chain include one of the released transactions of the next nonce at a time, if there is one.
func (s *simSession) land(pick, now uint64) {
	s.block++
	txs := s.released[s.nonce]
	if len(txs) == 0 {
		return
	}
	x := txs[pick%uint64(len(txs))]
	s.fee += x.fee
	s.value[now/simPeriod] += x.value
	s.nonce++
}

// view is what the chain's newest block says.
func (s *simSession) view(now uint64) *ChainView {
	value := policy.Tracker{Kind: policy.TransferValueTracker, Target: target, Allowance: true, PeriodID: now / hour}
	return &ChainView{Block: chain.Block{Number: s.block, Time: now}, Nonce: s.nonce, Used: map[policy.Tracker]uint256.Int{
		feeTracker: *uint256.NewInt(s.fee), value: *uint256.NewInt(s.value[now/simPeriod]),
	}}
}
