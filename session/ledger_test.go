package session

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// newLedger makes a ledger in a fresh directory.
func newLedger(t *testing.T) (*Ledger, string) {
	t.Helper()
	dir := t.TempDir()
	return reopenLedger(t, dir), dir
}

// reopenLedger opens the ledger in dir and closes it with the test.
func reopenLedger(t *testing.T, dir string) *Ledger {
	t.Helper()
	l, err := openLedger(vfs.Default, filepath.Join(dir, "ledger"), filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.close() })
	return l
}

// heldStore is a store whose commits wait for a lock.
type heldStore struct {
	store
	mu *sync.Mutex
}

func (s heldStore) commit(b *batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.store.commit(b)
}

// hold keeps l's commits from the disk until release is called. No commit may be under way.
func hold(l *Ledger) (release func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := heldStore{l.store, &sync.Mutex{}}
	s.mu.Lock()
	l.store = s
	return s.mu.Unlock
}

// addActive puts an active session into l, in memory only.
func (l *Ledger) addActive(id ID, spec *policy.Spec) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.addLocked(&Session{ID: id, Spec: spec, Status: Active})
}

// feeCharge is a charge against a lifetime fee limit.
func feeCharge(limit, amount uint64) []policy.Charge {
	return []policy.Charge{{
		Tracker: policy.Tracker{Kind: policy.FeeTracker},
		Limit:   policy.Decimal(*uint256.NewInt(limit)),
		Amount:  policy.Decimal(*uint256.NewInt(amount)),
	}}
}

func grantOf(nonce uint64, digest byte, charges []policy.Charge) Grant {
	return Grant{Nonce: nonce, Digest: policy.Hash{digest}, Charges: charges}
}

// reserve makes a durable reservation and returns the fee total after it.
func reserve(t *testing.T, l *Ledger, id ID, g Grant) (feeUsed uint64, err error) {
	t.Helper()
	r, err := l.Reserve(id, g, &audit.Record{Event: audit.SignGranted})
	if err == nil {
		if err := r.Durable(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	used, totalErr := l.totalLocked(l.books[id], policy.Tracker{Kind: policy.FeeTracker})
	if totalErr != nil {
		t.Fatal(totalErr)
	}
	return used.Uint64(), err
}

func TestReserveCounts(t *testing.T) {
	type step struct {
		name   string
		nonce  uint64
		digest byte
		amount uint64
		denied bool
		used   uint64 // after the step
	}
	steps := []step{
		{"first", 1, 0xa, 40, false, 40},
		{"same digest costs nothing", 1, 0xa, 40, false, 40},
		{"another nonce adds", 2, 0xb, 30, false, 70},
		{"replacement costs the larger: cheaper", 2, 0xc, 10, false, 70},
		{"replacement costs the larger: dearer", 2, 0xd, 45, false, 85},
		{"replacement by the first digest again", 2, 0xb, 30, false, 85},
		{"over the limit", 3, 0xe, 16, true, 85},
		{"over the limit only together with what it replaces", 2, 0xf, 60, false, 100},
		{"a replacement that is over it", 2, 0x10, 61, true, 100},
		{"the limit is full", 4, 0x11, 1, true, 100},
		{"a full limit still repeats", 1, 0xa, 40, false, 100},
		{"zero fits a full limit", 5, 0x12, 0, false, 100},
	}
	l, dir := newLedger(t)
	l.addActive("s", &policy.Spec{})
	for _, st := range steps {
		used, err := reserve(t, l, "s", grantOf(st.nonce, st.digest, feeCharge(100, st.amount)))
		var d *policy.Denial
		if errors.As(err, &d) != st.denied || used != st.used {
			t.Fatalf("%s: used %d, err %v, want used %d, denied %v", st.name, used, err, st.used, st.denied)
		}
		// Whatever was counted is on disk: a fresh start knows all of it.
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		l = reopenLedger(t, dir)
		l.addActive("s", &policy.Spec{})
	}
}

// A transaction that one of its limits refuses counts against none of them.
func TestReserveIsAllOrNone(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	both := append(feeCharge(100, 10), policy.Charge{
		Tracker: policy.Tracker{Kind: policy.TransferValueTracker},
		Limit:   policy.Decimal(*uint256.NewInt(5)),
		Amount:  policy.Decimal(*uint256.NewInt(6)),
	})
	if used, err := reserve(t, l, "s", grantOf(1, 1, both)); err == nil || used != 0 {
		t.Errorf("used %d, err %v, want 0 and a denial", used, err)
	}
}

func TestReserveRefusesAllButActive(t *testing.T) {
	l, _ := newLedger(t)
	for _, status := range []Status{Pending, Expired, Revoked, Closed} {
		l.addActive("s", &policy.Spec{})
		l.books["s"].Load().Status = status
		_, err := l.Reserve("s", grantOf(1, 1, nil), &audit.Record{})
		var d *policy.Denial
		if !errors.As(err, &d) || d.Revert != "Session is not active" {
			t.Errorf("%s: Reserve = %v, want the chain's denial", status, err)
		}
	}
	if _, err := l.Reserve("none", grantOf(1, 1, nil), &audit.Record{}); err == nil {
		t.Error("Reserve for an unknown session succeeded")
	}
}

// Nothing is durable while the disk is busy, and everything in line becomes so together.
func TestDurableWaitsForTheDisk(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	release := hold(l)
	var all []*Reservation
	for i := range uint64(10) {
		r, err := l.Reserve("s", grantOf(i, byte(i), feeCharge(100, 10)), &audit.Record{Event: audit.SignGranted})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, r)
	}
	if _, err := l.Reserve("s", grantOf(10, 10, feeCharge(100, 1)), &audit.Record{}); err == nil {
		t.Error("an eleventh reservation fits a limit that ten have filled in memory")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	for i, r := range all {
		if err := r.Durable(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("reservation %d: Durable = %v while the disk is held up", i, err)
		}
	}
	release()
	for i, r := range all {
		if err := r.Durable(t.Context()); err != nil {
			t.Errorf("reservation %d: Durable = %v", i, err)
		}
	}
}

// If the audit trail can't be written, nothing is signed any more, and what was in line
// is not released.
func TestHaltsWhenTheTrailCannotBeWritten(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	l.trail.Close()
	r, err := l.Reserve("s", grantOf(1, 1, feeCharge(100, 10)), &audit.Record{Event: audit.SignGranted})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Durable(t.Context()); !errors.Is(err, ErrHalted) {
		t.Errorf("Durable = %v, want ErrHalted", err)
	}
	if _, err := l.Reserve("s", grantOf(2, 2, feeCharge(100, 10)), &audit.Record{}); !errors.Is(err, ErrHalted) {
		t.Errorf("Reserve after it = %v, want ErrHalted", err)
	}
}

func TestHaltsWhenTheTrailIsMovedAway(t *testing.T) {
	l, dir := newLedger(t)
	l.addActive("s", &policy.Spec{})
	if err := os.Rename(filepath.Join(dir, "audit.jsonl"), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	for i, begun := uint64(0), time.Now(); time.Since(begun) < time.Minute; i++ { // until the next sync notices it
		r, err := l.Reserve("s", grantOf(i, 1, nil), &audit.Record{Event: audit.SignGranted})
		if err == nil {
			err = r.Durable(t.Context())
		}
		if errors.Is(err, ErrHalted) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("the ledger goes on for a minute")
}

// The ledger's arithmetic, memory and disk together, gives the chain's verdict on every vector.
func TestReserveAgreesWithTheVectors(t *testing.T) {
	f, err := os.Open("../policy/testdata/session-vectors.jsonl.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zr, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := newLedger(t)
	validator := vectorValidator
	steps := 0
	for c, err := range policy.ReadCases(zr) {
		if err != nil {
			t.Fatal(err)
		}
		if !c.Created || c.Session.Validate() != nil {
			continue // never active here
		}
		id := ID(c.Name)
		l.addActive(id, &c.Session)
		for i, want := range c.Run(validator) {
			st := &c.Steps[i]
			if st.Revoke {
				break
			}
			if st.Tx.From != c.Account {
				continue // the signer refuses it before the ledger
			}
			call := st.Tx.Call(validator)
			charges, denied := c.Session.Check(call, want.PeriodIDs, st.Now)
			var digest policy.Hash
			binary.BigEndian.PutUint64(digest[:], uint64(i))
			r, err := l.Reserve(id, Grant{Nonce: uint64(i), Digest: digest, Charges: charges, Denied: denied}, &audit.Record{})
			var d *policy.Denial
			if errors.As(err, &d) && d.Revert != want.Reason || (err == nil) != want.Allow {
				t.Errorf("%s step %d: Reserve = %v, want %q", c.Name, i, err, want.Reason)
			}
			if r != nil && i%7 == 0 { // now and then from the disk rather than from memory
				if err := r.Durable(t.Context()); err != nil {
					t.Fatal(err)
				}
				l.mu.Lock()
				clear(l.books[id].used)
				l.mu.Unlock()
			}
			steps++
		}
	}
	if steps < 5000 {
		t.Errorf("only %d steps were compared", steps)
	}
}

// vectorValidator is the session module of the vectors: SessionKeyValidator on Abstract.
var vectorValidator = policy.Address{0x34, 0xca, 0x15, 0x01, 0xfa, 0xe2, 0x31, 0xcc, 0x2e, 0xbc, 0x99, 0x5c, 0xe0, 0x13,
	0xdb, 0xe8, 0x82, 0xd7, 0xd0, 0x81}
