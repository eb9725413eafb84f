package session

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// failingStore fails each commit once gate is closed.
type failingStore struct {
	store
	gate    chan struct{}
	commits *atomic.Int64
}

func (s failingStore) commit(*batch) error {
	s.commits.Add(1)
	<-s.gate
	return errors.New("fdatasync: input/output error")
}

// After a commit has failed, the store is not asked for another, also not for what was in line already; the error says
// why nothing is signed. The next start knows nothing of it.
func TestNothingIsWrittenAfterAFailedCommit(t *testing.T) {
	l, dir := newLedger(t)
	l.addActive("s", &policy.Spec{})
	failing := failingStore{l.store, make(chan struct{}), new(atomic.Int64)}
	l.mu.Lock()
	l.store = failing
	l.mu.Unlock()
	first := reservation(t, l, 1, 1, 10)
	for begun := time.Now(); failing.commits.Load() == 0; time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatal("no commit began")
		}
	}
	queued := reservation(t, l, 2, 2, 20)
	close(failing.gate)
	for name, r := range map[string]*Reservation{"the first": first, "the one in line": queued} {
		if err := r.Durable(t.Context()); !errors.Is(err, ErrHalted) || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("%s: Durable = %v, want ErrHalted and why", name, err)
		}
	}
	if _, err := l.Reserve("s", grantOf(3, 3, feeCharge(1000, 1)), &audit.Record{}); !errors.Is(err, ErrHalted) {
		t.Errorf("Reserve = %v, want ErrHalted", err)
	}
	if n := failing.commits.Load(); n != 1 {
		t.Errorf("%d commits, want 1", n)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	if n := failing.commits.Load(); n != 1 {
		t.Errorf("%d commits after the end, want 1", n)
	}
	l = reopenLedger(t, dir)
	l.addActive("s", &policy.Spec{})
	if used := feeUsed(t, l); used != 0 {
		t.Errorf("%d used after the next start, want 0", used)
	}
}

// A fee bump of the very nonce that the chain expects next costs the larger amount, not the sum.
func TestReplacementOfTheNextNonce(t *testing.T) {
	f := newForgetting(t)
	f.seen(time.Minute, 5, 0)
	f.sign(5, 1, 40)
	if more := f.sign(5, 2, 50); more != 10 || f.total(feeTracker) != 50 {
		t.Errorf("the replacement cost %d more, %d in all, want 10 and 50", more, f.total(feeTracker))
	}
}

// Totals that are ahead of the disk stay in memory, however many there are.
func TestTotalsAheadOfTheDiskAreKept(t *testing.T) {
	b := &book{}
	for i := range uint64(maxCachedTotals + 1) {
		b.setUsed(policy.Tracker{Allowance: true, PeriodID: i}, *uint256.NewInt(1))
	}
	first, second := &openNonce{entries: 1}, &openNonce{entries: 1}
	b.setOpen(1, first)
	b.setOpen(2, second)
	if b.committed(1, first); len(b.used) != maxCachedTotals+1 {
		t.Fatalf("%d totals are left while a grant is not on disk", len(b.used))
	}
	b.ahead = 1
	if b.committed(2, second); len(b.used) != maxCachedTotals+1 {
		t.Fatalf("%d totals are left while a settlement is not on disk", len(b.used))
	}
	b.ahead = 0
	third := &openNonce{entries: 1}
	b.setOpen(3, third)
	if b.committed(3, third); len(b.used) != 0 {
		t.Errorf("%d totals are left, want none: all are on disk", len(b.used))
	}
}
