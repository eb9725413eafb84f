package session

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// make endurance sets it to 10 million.
var transactions = flag.Int("transactions", 12_000, "that TestEndurance signs")

const (
	enduringSessions = 4
	enduringOpen     = 3  // nonces of a session that the chain lags behind
	enduringParts    = 10 // of the run, whose latencies are compared
)

// endurance is a ledger whose sessions sign without end, and a chain that follows them: an hour of its time is a round.
type endurance struct {
	t        *testing.T
	l        *Ledger
	dir      string
	callers  int    // grants that wait for the disk at a time
	perRound uint64 // nonces of each session
	rounds   uint64 // so far
	nonce    uint64 // the next of every session
	digests  uint64 // granted so far
	mostHeld int    // digests in the store after a round
	took     []time.Duration
}

// However many transactions are signed, the store holds what the chain has not passed or passed in the last two
// days, and what a limit has counted is exact.
func TestEndurance(t *testing.T) {
	e := &endurance{t: t, callers: 64, perRound: 25}
	if *transactions > 1_000_000 {
		e.callers, e.perRound = 256, 250
	}
	e.l, e.dir = newLedger(t)
	spec := &policy.Spec{
		FeeLimit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(1 << 60)},
		TransferPolicies: []policy.TransferSpec{{Target: target, ValueLimit: policy.UsageLimit{
			LimitType: policy.Allowance, Limit: *uint256.NewInt(1 << 60), Period: *uint256.NewInt(hour)}}},
	}
	var created []*change
	for s := range enduringSessions {
		sess := &Session{ID: enduringID(s), Kind: AGW, Status: Active, Spec: spec}
		created = append(created, &change{id: sess.ID, session: sess, spec: spec})
		e.l.addLocked(sess)
	}
	if err := e.l.store.commit(&batch{changes: created}); err != nil {
		t.Fatal(err)
	}
	e.settle()
	begun, told, parts := time.Now(), time.Now(), 0
	for int(e.digests) < *transactions {
		e.signRound()
		e.settle()
		e.checkHeld()
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("%d of %d signed, %.0f/s, store %d kB, %d digests in it",
				e.digests, *transactions, float64(e.digests)/time.Since(begun).Seconds(), e.storeBytes()>>10, e.mostHeld)
		}
		if int(e.digests) >= (parts+1)**transactions/enduringParts {
			parts++
			e.reportPart(parts)
		}
	}
	e.reopen()
	e.checkTotals()
	t.Logf("%d signed in %v with %d callers, %d digests in the store at most", e.digests,
		time.Since(begun).Round(time.Second), e.callers, e.mostHeld)
}

func enduringID(s int) ID { return ID(fmt.Sprintf("s%d", s)) }

// now is the time of the newest block, and the agent's.
func (e *endurance) now() int64 { return 500_000*hour + int64(e.rounds)*hour }

// signRound signs perRound nonces of each session, every fourth with a replacement and every fifth a second time.
func (e *endurance) signRound() {
	next := make(chan uint64, e.callers)
	var all sync.WaitGroup
	var mu sync.Mutex
	for range e.callers {
		all.Go(func() {
			for i := range next {
				id, nonce := enduringID(int(i%enduringSessions)), e.nonce+i/enduringSessions
				took := []time.Duration{e.grant(id, nonce, 0, 1)}
				if nonce%4 == 0 {
					took = append(took, e.grant(id, nonce, 1, 2))
				}
				if nonce%5 == 0 {
					e.grant(id, nonce, 0, 1) // costs nothing
				}
				mu.Lock()
				e.took = append(e.took, took...)
				e.digests += uint64(len(took))
				mu.Unlock()
			}
		})
	}
	for i := range e.perRound * enduringSessions {
		next <- i
	}
	close(next)
	all.Wait()
	e.nonce += e.perRound
	e.rounds++
}

// grant reserves one transaction of the digest that is which for its nonce, and returns how long that took.
func (e *endurance) grant(id ID, nonce uint64, which byte, amount uint64) time.Duration {
	begun := time.Now()
	value := policy.Charge{Tracker: valueIn(e.now()), Limit: policy.Decimal(*uint256.NewInt(1 << 60)),
		Amount: policy.Decimal(*uint256.NewInt(amount))}
	g := Grant{Nonce: nonce, Digest: policy.Hash(uint256.NewInt(nonce<<8 | uint64(which)).Bytes32()),
		Charges: append(feeCharge(1<<60, amount), value)}
	r, err := e.l.Reserve(id, g, &audit.Record{Event: audit.SignGranted, Session: string(id), Digest: g.Digest.String()})
	if err == nil {
		err = r.Durable(e.t.Context())
	}
	if err != nil {
		e.t.Error(err)
	}
	return time.Since(begun)
}

// landed is the account's nonce: the chain has all but the last few.
func (e *endurance) landed() uint64 { return max(e.nonce, enduringOpen) - enduringOpen }

// costOf is what the nonces below n cost.
func costOf(n uint64) uint64 { return n + (n+3)/4 } // every fourth has a replacement that costs one more

// settle shows each session a block that has all but the last nonces.
func (e *endurance) settle() {
	for s := range enduringSessions {
		v := &ChainView{Block: chain.Block{Number: e.rounds, Time: uint64(e.now())}, Nonce: e.landed(),
			Used: map[policy.Tracker]uint256.Int{
				feeTracker:       *uint256.NewInt(costOf(e.landed())),
				valueIn(e.now()): {},
			}}
		st, err := e.l.Settle(e.t.Context(), enduringID(s), v, time.Unix(e.now(), 0),
			&audit.Record{Event: audit.SessionReconciled})
		if err != nil || len(st.External) > 0 {
			e.t.Fatal(st, err)
		}
	}
}

// checkHeld holds the store to two days of nonces and what is open, and to the totals of the periods of two days.
func (e *endurance) checkHeld() {
	const roundsHeld = 2*24 + 2
	if e.rounds%16 != 0 {
		return
	}
	held := heldIn(e.t, e.l)
	e.mostHeld = max(e.mostHeld, held[signedKey])
	most := int(roundsHeld*e.perRound+enduringOpen) * enduringSessions
	if held[liabilityKey] > most || held[signedKey] > most*5/4+enduringSessions ||
		held[usageKey] > (roundsHeld+2)*enduringSessions {
		e.t.Fatalf("after %d: %d liabilities, %d digests, %d totals in the store; want %d liabilities at most",
			e.digests, held[liabilityKey], held[signedKey], held[usageKey], most)
	}
}

// heldIn counts the entries of l's store by the first byte of their keys.
func heldIn(t *testing.T, l *Ledger) map[byte]int {
	t.Helper()
	held := map[byte]int{}
	err := l.store.(*embedded).scan([]byte{0}, []byte{0xff}, func(key, _ []byte) error { held[key[0]]++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	return held
}

// storeBytes is the size of the store's files.
func (e *endurance) storeBytes() (bytes int64) {
	_ = filepath.WalkDir(filepath.Join(e.dir, "ledger"), func(_ string, d fs.DirEntry, err error) error {
		if fi, infoErr := os.Stat(filepath.Join(e.dir, "ledger", d.Name())); err == nil && infoErr == nil && !fi.IsDir() {
			bytes += fi.Size()
		}
		return nil // a file may go while it is looked at
	})
	return bytes
}

// reportPart tells the latencies of a part of the run, and what is there after it. It removes all sealed segments of
// the trail, as an operator does who has archived them.
func (e *endurance) reportPart(part int) {
	slices.Sort(e.took)
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	at := func(p int) time.Duration { return e.took[len(e.took)*p/100].Round(time.Microsecond) }
	e.t.Logf("part %d of %d, %d signed: p50 %v, p99 %v; store %d kB with %v; heap %d MiB",
		part, enduringParts, e.digests, at(50), at(99), e.storeBytes()>>10, counts(heldIn(e.t, e.l)), m.HeapInuse>>20)
	e.took = e.took[:0]
	segments, err := audit.Segments(filepath.Join(e.dir, "audit.jsonl"))
	if err != nil {
		e.t.Fatal(err)
	}
	for _, sealed := range segments[:len(segments)-1] {
		if err := os.Remove(sealed); err != nil {
			e.t.Fatal(err)
		}
	}
}

func counts(held map[byte]int) string {
	return fmt.Sprintf("%d liabilities, %d digests, %d totals", held[liabilityKey], held[signedKey], held[usageKey])
}

// reopen starts the ledger again.
func (e *endurance) reopen() {
	if err := e.l.close(); err != nil {
		e.t.Fatal(err)
	}
	begun := time.Now()
	e.l = reopenLedger(e.t, e.dir)
	e.t.Logf("start after %d: %v", e.digests, time.Since(begun).Round(time.Microsecond))
}

// checkTotals wants the fee total of each session to be what all its nonces cost.
func (e *endurance) checkTotals() {
	for s := range enduringSessions {
		e.l.mu.Lock()
		total, err := e.l.totalLocked(e.l.books[enduringID(s)], feeTracker)
		e.l.mu.Unlock()
		if err != nil || total.Uint64() != costOf(e.nonce) {
			e.t.Errorf("session %d has counted %v, %v, want %d", s, &total, err, costOf(e.nonce))
		}
	}
}
