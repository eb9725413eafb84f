package session

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

const (
	feeLimit   = 1000
	valueLimit = 100
	hour       = 3600
)

var feeTracker = policy.Tracker{Kind: policy.FeeTracker}

// valueIn is the value tracker of the period that holds the Unix time now.
func valueIn(now int64) policy.Tracker {
	return policy.Tracker{Kind: policy.TransferValueTracker, Target: target, Allowance: true, PeriodID: uint64(now / hour)}
}

// modelTx is a transaction that was signed.
type modelTx struct{ fee, value uint64 }

// modelState is the chain after a block: what it counts, and nothing that it enforces.
type modelState struct {
	time  int64
	nonce uint64
	used  map[policy.Tracker]uint64
}

// model is a ledger with a chain beside it that lands what was signed, in any order and
// period that the rules of the chain leave to whoever submits.
type model struct {
	t       *testing.T
	rng     *rand.Rand
	dir     string
	ledger  *Ledger
	now     int64
	blocks  []modelState // the last is the head
	signed  map[uint64][]modelTx
	digests byte
	poll    *ChainView // read, not settled yet
	history []string
}

func newModel(t *testing.T, seed uint64) *model {
	t.Helper()
	m := &model{
		t: t, rng: rand.New(rand.NewPCG(seed, 1)), dir: t.TempDir(), now: 500_000 * hour, signed: map[uint64][]modelTx{},
		blocks: []modelState{{time: 500_000 * hour, nonce: 3, used: map[policy.Tracker]uint64{}}},
	}
	m.ledger = reopenLedger(t, m.dir)
	sess := &Session{ID: "s", Kind: AGW, Status: Active, Spec: &policy.Spec{
		FeeLimit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(feeLimit)},
		TransferPolicies: []policy.TransferSpec{{Target: target, ValueLimit: policy.UsageLimit{
			LimitType: policy.Allowance, Limit: *uint256.NewInt(valueLimit), Period: *uint256.NewInt(hour)}}},
	}}
	if err := m.ledger.store.commit(&batch{changes: []*change{{id: "s", session: sess, spec: sess.Spec}}}); err != nil {
		t.Fatal(err)
	}
	m.restart()
	m.read(0)
	m.settle()
	return m
}

func (m *model) head() *modelState { return &m.blocks[len(m.blocks)-1] }

// mine adds a block to which edit is done.
func (m *model) mine(edit func(s *modelState)) {
	next := *m.head()
	next.time, next.used = m.now, maps.Clone(next.used)
	edit(&next)
	m.blocks = append(m.blocks, next)
}

// reserve asks for a signature at some nonce near the account's.
func (m *model) reserve() {
	nonce := m.head().nonce + m.rng.Uint64N(6)
	if nonce > 0 && m.rng.IntN(8) == 0 {
		nonce = m.head().nonce - 1 // the account has used it
	}
	tx := modelTx{fee: m.rng.Uint64N(60), value: m.rng.Uint64N(40)}
	m.digests++
	t := valueIn(m.now)
	g := Grant{Nonce: nonce, Digest: policy.Hash{m.digests, byte(nonce)}, Charges: []policy.Charge{
		{Tracker: t, Limit: policy.Decimal(*uint256.NewInt(valueLimit)), Amount: policy.Decimal(*uint256.NewInt(tx.value))},
		{Tracker: feeTracker, Limit: policy.Decimal(*uint256.NewInt(feeLimit)),
			Amount: policy.Decimal(*uint256.NewInt(tx.fee))},
	}}
	r, err := m.ledger.Reserve("s", g, &audit.Record{Event: audit.SignGranted})
	if err != nil {
		return // a denial is always allowed
	}
	if m.rng.IntN(3) == 0 { // mostly the disk is behind
		if err := r.Durable(m.t.Context()); err != nil {
			m.t.Fatal(err)
		}
	}
	m.signed[nonce] = append(m.signed[nonce], tx)
}

// land has one of the transactions that were signed for the next nonce land, in the block's period.
func (m *model) land() {
	txs := m.signed[m.head().nonce]
	if len(txs) == 0 {
		return
	}
	m.durable() // it was released
	tx := txs[m.rng.IntN(len(txs))]
	m.mine(func(s *modelState) {
		s.nonce++
		s.used[feeTracker] += tx.fee
		s.used[valueIn(s.time)] += tx.value
	})
}

// durable waits for all that is in line.
func (m *model) durable() {
	m.ledger.mu.Lock()
	e := &entry{}
	err := m.ledger.enqueueLocked(e)
	m.ledger.mu.Unlock()
	if err == nil {
		err = e.wait(m.t.Context())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// read reads the block that is back below the head.
func (m *model) read(back int) {
	i := max(0, len(m.blocks)-1-back)
	s := m.blocks[i]
	used := map[policy.Tracker]uint256.Int{feeTracker: *uint256.NewInt(s.used[feeTracker])}
	used[valueIn(s.time)] = *uint256.NewInt(s.used[valueIn(s.time)])
	m.poll = &ChainView{Block: chain.Block{Number: uint64(i), Time: uint64(s.time)}, Nonce: s.nonce, Used: used}
}

// settle hands the ledger what was read, perhaps long ago.
func (m *model) settle() *Settlement {
	m.t.Helper()
	if m.poll == nil {
		return &Settlement{}
	}
	st, err := m.ledger.Settle(m.t.Context(), "s", m.poll, time.Unix(m.now, 0),
		&audit.Record{Event: audit.SessionReconciled})
	if err != nil {
		m.t.Fatal(err)
	}
	m.poll = nil
	return st
}

func (m *model) restart() {
	m.t.Helper()
	if err := m.ledger.close(); err != nil {
		m.t.Fatal(err)
	}
	l, err := openLedger(vfs.Default, filepath.Join(m.dir, "ledger"), filepath.Join(m.dir, "audit.jsonl"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.ledger = l
	m.t.Cleanup(func() { l.close() })
}

// look looks at what is used, which changes nothing.
func (m *model) look() {
	m.t.Helper()
	spec := m.ledger.index.get("s").Spec
	if _, err := m.ledger.usage("s", limits(spec, time.Unix(m.now, 0))); err != nil {
		m.t.Fatal(err)
	}
}

// total is what a request would be held to now.
func (m *model) total(t policy.Tracker) uint64 {
	m.t.Helper()
	l := m.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books["s"]
	total, err := l.totalLocked(b, t)
	if err != nil {
		m.t.Fatal(err)
	}
	return total.Uint64()
}

// check holds the totals to the chain: never less than what it counted and what can still land.
func (m *model) check() {
	m.t.Helper()
	fee, value := m.head().used[feeTracker], m.head().used[valueIn(m.now)]
	for nonce, txs := range m.signed {
		if nonce < m.head().nonce {
			continue
		}
		var most modelTx
		for _, tx := range txs {
			most.fee, most.value = max(most.fee, tx.fee), max(most.value, tx.value)
		}
		fee, value = fee+most.fee, value+most.value
	}
	if got := m.total(feeTracker); got < fee {
		m.fatalf("fee total %d, but the chain can come to %d", got, fee)
	}
	if got := m.total(valueIn(m.now)); got < value {
		m.fatalf("value total %d, but the chain can come to %d", got, value)
	}
	for t, used := range m.head().used {
		if limit := map[bool]uint64{true: valueLimit, false: feeLimit}[t.Allowance]; used > limit {
			m.fatalf("%s: %d landed, the limit is %d", t, used, limit)
		}
	}
}

func (m *model) fatalf(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("%s\nafter: %v", fmt.Sprintf(format, args...), m.history)
}
