package session

import (
	"bytes"
	"container/list"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"
	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/policy"
)

// A session that was made without asking the registry is one after a restart, too, and one that was made with it is
// not.
func TestUncheckedIsKept(t *testing.T) {
	for _, unchecked := range []bool{false, true} {
		d := decoder{b: (&Session{Spec: &policy.Spec{}, Unchecked: unchecked}).append(nil)}
		if got := d.session(map[string]string{}, false); d.failed || got.Unchecked != unchecked {
			t.Errorf("unchecked %v is %v when it is read again", unchecked, got.Unchecked)
		}
	}
}

// A directory that can't be marked is warned of.
func TestMarkUsedWarns(t *testing.T) {
	for dir, want := range map[string]bool{t.TempDir(): false, filepath.Join(t.TempDir(), "missing"): true} {
		var log bytes.Buffer
		markUsed(&Config{LedgerPath: filepath.Join(dir, "ledger"), FS: durable.OS, Now: time.Now,
			Logger: slog.New(slog.NewTextHandler(&log, nil))}, false)
		if got := strings.Contains(log.String(), "can't be marked as used"); got != want {
			t.Errorf("%s: a warning %v, want %v: %s", dir, got, want, &log)
		}
	}
}

// The longest of a list is the first of those that have the most.
func TestLongest(t *testing.T) {
	for _, tt := range []struct{ all, want []int }{{[]int{3}, []int{3}}, {[]int{1, 7, 2}, []int{7}},
		{[]int{4, 9, 12}, []int{12}}, {[]int{5, 1}, []int{5}}} {
		l := list.New()
		for _, n := range tt.all {
			l.PushBack(n)
		}
		if got := longest(l, func(n int) int { return n }); got != tt.want[0] {
			t.Errorf("longest(%v) = %d, want %d", tt.all, got, tt.want[0])
		}
	}
}

// Before 1970 and in a period of no length, there is one period.
func TestPeriodID(t *testing.T) {
	usage := &policy.UsageLimit{Period: *uint256.NewInt(10)}
	for at, want := range map[int64]uint64{-100: 0, 0: 0, 9: 0, 10: 1, 25: 2} {
		if got := periodID(usage, time.Unix(at, 0)); got != want {
			t.Errorf("periodID at %d = %d, want %d", at, got, want)
		}
	}
	if got := periodID(&policy.UsageLimit{}, time.Unix(100, 0)); got != 0 {
		t.Errorf("periodID without a period = %d", got)
	}
}

// The rules of production concern no policy of the session in particular.
func TestProductionDenialNamesNoPolicy(t *testing.T) {
	d := productionDenial([]policy.Violation{{Path: "a", Message: "b"}, {Path: "c", Message: "d"}})
	if d.Reason != ReasonProductionRules || d.Policy != -1 || d.Constraint != -1 || d.Detail != "a: b; c: d" {
		t.Errorf("productionDenial = %+v", d)
	}
}

// A page of one session has one, also for a peer that several clients' lists are for.
func TestVisiblePageOfOne(t *testing.T) {
	user, group := Client{ID: app.UID}, Client{Group: true, ID: app.GID}
	s := onlyIndex(numbered(1, policy.Address{1}, user), numbered(2, policy.Address{1}, group),
		numbered(3, policy.Address{1}, user, group))
	for limit, want := range map[int]int{0: 3, 1: 1, 2: 2, 3: 3, 9: 3} {
		if got := s.VisiblePage(app, Page{Limit: limit}); len(got) != want {
			t.Errorf("a page of %d has %d sessions, want %d", limit, len(got), want)
		}
	}
}

// A clock that was set right is given as many looks as a new one before it is taken for fast again.
func TestClockCountsFromNothingWhenSetRight(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	at := func(seconds, ours int64) moment {
		return moment{start.Add(time.Duration(seconds+ours) * time.Second), time.Duration(seconds) * time.Second}
	}
	block := func(i int64) chain.Block { return chain.Block{Number: uint64(i), Time: uint64(start.Unix() + 10*i)} }
	// looks is how many looks from i on find the clock fast before check does.
	looks := func(c *clock, i int64) (n int) {
		for c.check(at(10*i, 300)) == nil {
			i++
			n++
			c.look(block(i), at(10*i, 300))
		}
		return n
	}
	fresh := &clock{bound: time.Minute}
	fresh.look(block(0), at(0, 0))
	want := looks(fresh, 0)

	again := &clock{bound: time.Minute}
	again.look(block(0), at(0, 0))
	looks(again, 0)
	again.look(block(int64(want)), at(10*int64(want)+1, 0)) // the same block, and the clock is right
	if got := looks(again, int64(want)); got != want || want < 2 {
		t.Errorf("after %d looks, want %d and more than one", got, want)
	}
}

// What the old file says of the last view is all there is of older ones.
func TestTakeOverKeepsTheNonceAsTheOlder(t *testing.T) {
	a := oldState(t)
	l, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	c := l.books[oldActive].chain
	if want := (pastNonce{c.Block.Time, c.Nonce}); c.Older != want || want.Nonce == 0 {
		t.Errorf("older %+v, want %+v", c.Older, want)
	}
}

// An old file that takes many batches is taken over as one that takes a single one.
func TestTakeOverInManyBatches(t *testing.T) {
	defer func(n int) { copyBytes = n }(copyBytes)
	copyBytes = 20
	checkOldState(t, oldState(t))
}

// Each record of a batch is chained, those behind an entry without one, too.
func TestSealPassesOverEntriesWithoutARecord(t *testing.T) {
	l := &Ledger{}
	b := &batch{}
	last := &entry{rec: &audit.Record{Event: audit.SignGranted}}
	if err := l.seal(b, []*entry{{}, {rec: &audit.Record{Event: audit.SignGranted}}, {}, last}); err != nil {
		t.Fatal(err)
	}
	if got := bytes.Count(b.lines, []byte("\n")); got != 2 || b.head.Seq != 2 || last.seq != 2 {
		t.Errorf("%d records, head %d, the last entry's record %d; want 2 each", got, b.head.Seq, last.seq)
	}
}

// Amounts come in one order, which the trail's readers can compare.
func TestAmountsAreSorted(t *testing.T) {
	a := amounts{}
	for i := range uint64(9) {
		a[policy.Tracker{Kind: policy.CallValueTracker, Target: policy.Address{19: byte(i)}}] = policy.Decimal(*uint256.NewInt(i))
	}
	want := a.String()
	for range 50 {
		if got := a.String(); got != want {
			t.Fatalf("%s, and before it was %s", got, want)
		}
	}
}

// What was taken back leaves nothing of its nonce in memory.
func TestRevertForgetsTheNonce(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) { return nil, certainly }
	for nonce := range uint64(3) {
		if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, backends.ErrNotSigned) {
			t.Fatalf("Sign = %v", err)
		}
	}
	a.ledger.mu.Lock()
	defer a.ledger.mu.Unlock()
	if open := a.ledger.books[sess.ID].open; len(open) != 0 {
		t.Errorf("%d nonces are in memory, want none", len(open))
	}
}

// The time of a commit is told to the one who asked for it when the state was opened.
func TestObserveIsTold(t *testing.T) {
	a := newAgent(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var commits atomic.Int32
	s, err := Open(Config{
		LedgerPath: a.ledgerPath(), AuditPath: a.auditPath(), Backends: map[string]backends.Backend{"soft": a.soft},
		ExpiryMargin: time.Minute, KeyGrace: time.Hour, Now: a.clock,
		Observe: func(stage Stage, took time.Duration) {
			if stage == StageCommit && took > 0 {
				commits.Add(1)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Sessions, a.Signer = s, &Signer{Sessions: s}
	a.active(t)
	if commits.Load() == 0 {
		t.Error("no commit was told of")
	}
}

// A revoke ends no connection whose write was done in time, however many it waits for.
func TestRevokeLetsWritersEnd(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	var cut atomic.Int32
	var done []func()
	for nonce := range uint64(3) {
		_, end := a.Release([]*Pass{a.signed(t, sess, nonce)}, func() { cut.Add(1) })
		done = append(done, end)
	}
	version := func() uint64 {
		a.ledger.mu.Lock()
		defer a.ledger.mu.Unlock()
		return a.ledger.books[sess.ID].version
	}
	before := version()
	revoked := make(chan error, 1)
	go func() { _, err := a.Revoke(t.Context(), operator, sess.ID); revoked <- err }()
	for version() == before {
		time.Sleep(time.Millisecond)
	}
	for _, end := range done {
		end()
	}
	if err := <-revoked; err != nil || cut.Load() != 0 {
		t.Errorf("Revoke = %v, and %d connections were ended, want none", err, cut.Load())
	}
}

// Reading the trail's head leaves none of the ledger's files open.
func TestReadTrailClosesTheLedger(t *testing.T) {
	a := newAgent(t)
	a.active(t)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	open := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, a.dir) {
				n++
			}
		}
		return n
	}
	if head, _, err := ReadTrail(a.ledgerPath()); err != nil || head.Seq == 0 {
		t.Fatalf("ReadTrail = %+v, %v", head, err)
	}
	if n := open(); n != 0 {
		t.Errorf("%d files of the state are open after ReadTrail", n)
	}
}

// Of a device that is done, no signature of the session is under way; nor of a session that is not there.
func TestInDevice(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	var during int
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		during = a.InDevice(sess.ID)
		return nil, nil
	}
	a.signed(t, sess, 1)
	if after, none := a.InDevice(sess.ID), a.InDevice("0000000000000000"); during != 1 || after != 0 || none != 0 {
		t.Errorf("%d signatures in the device during the call, %d after it, %d of no session; want 1, 0, 0", during, after,
			none)
	}
}
