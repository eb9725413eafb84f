package session

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	bolt "go.etcd.io/bbolt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// What the agent of version 2 had in testdata: 5 signatures and a settlement that left 3 of them open, a revoked
// session, and a creation that was cut short. It was killed when its trail was 300 bytes behind.
const (
	oldActive, oldRevoked = ID("2ee4ad87a166d6ef"), ID("52e01ff4ec403058")
	oldIntent             = ID("00112233445566aa")
	oldRecords            = 11
)

// oldState puts the files of version 2 into a fresh directory.
func oldState(t *testing.T) *agent {
	t.Helper()
	a := &agent{dir: t.TempDir()}
	for name, to := range map[string]string{"ledger-v2.db.gz": a.ledgerPath() + ".db",
		"audit-v2.jsonl.gz": a.auditPath()} {
		f, err := os.Open(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zr, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(zr)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return a
}

// checkOldState opens a's ledger and compares it with what version 2 had.
func checkOldState(t *testing.T, a *agent) {
	t.Helper()
	l, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if len(l.books) != 2 || l.index.get(oldRevoked).Status != Revoked || len(l.intents) != 1 ||
		l.intents[oldIntent].Backend != "soft" {
		t.Errorf("%d sessions, intents %v, want two and one", len(l.books), l.intents)
	}
	b, sess := l.books[oldActive], l.index.get(oldActive)
	if sess.Hash != sess.Spec.Hash() || sess.Status != Active || b.chain.Nonce != 2 || b.chain.Block.Number != 7 {
		t.Errorf("session %+v, last view %+v", sess, b.chain)
	}
	fee := policy.Tracker{Kind: policy.FeeTracker}
	if used, err := l.totalLocked(b, fee); err != nil || used.Uint64() != 55 {
		t.Errorf("used %v, %v, want 55", used, err)
	}
	open, err := l.openLocked(b, 0)
	if err != nil || len(open) != 5 {
		t.Errorf("%d liabilities, %v, want 5", len(open), err)
	}
	if cost := open[3].of(fee); cost.Uint64() != 10 {
		t.Errorf("nonce 3 costs %v, want 10", cost)
	}
	if l.head.Seq != oldRecords {
		t.Errorf("the last record is %d, want %d", l.head.Seq, oldRecords)
	}
	if _, err := audit.Verify(a.auditPath(), l.head, nil, true); err != nil {
		t.Errorf("Verify = %v", err)
	}
}

// The old file is taken over with all that it has, kept, and replaced by a mark that an older agent refuses.
func TestTakeOver(t *testing.T) {
	a := oldState(t)
	old := read(t, a.ledgerPath()+".db")
	if head, journal, err := ReadTrail(a.ledgerPath()); err != nil || head.Seq != oldRecords || len(journal) == 0 {
		t.Errorf("ReadTrail before = %+v, %d bytes, %v, want record %d and a journal", head, len(journal), err, oldRecords)
	}
	for range 2 {
		checkOldState(t, a)
	}
	if head, _, err := ReadTrail(a.ledgerPath()); err != nil || head.Seq != oldRecords {
		t.Errorf("ReadTrail after = %+v, %v, want record %d", head, err, oldRecords)
	}
	if kept := read(t, a.ledgerPath()+".db.old"); string(kept) != string(old) {
		t.Error("the old file was not kept as it was")
	}
	db, err := bolt.Open(a.ledgerPath()+".db", 0o600, &bolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_ = db.View(func(tx *bolt.Tx) error { // what version 2 looked at first, and refused by
		if v := string(tx.Bucket([]byte("meta")).Get([]byte("version"))); v == "" || v == "1" || v == "2" {
			t.Errorf("at the old file's place is version %q, which an older agent takes for its own", v)
		}
		return nil
	})
}

// A takeover that is killed after any of its steps ends well at the next start, and loses nothing.
func TestTakeOverIsCutShort(t *testing.T) {
	steps := []func(st *embedded, old *oldLedger) error{
		// a part of the copy
		func(st *embedded, old *oldLedger) error { return st.db.Set([]byte{liabilityKey, 1, 'x'}, nil, nil) },
		func(st *embedded, old *oldLedger) error { return st.copyOld(old.db) },
		func(_ *embedded, old *oldLedger) error { return old.putAside() },
		func(_ *embedded, old *oldLedger) error {
			return os.WriteFile(old.path+".new", []byte("half a mark"), 0o600)
		},
		func(_ *embedded, old *oldLedger) error { return old.mark() },
	}
	for done := range len(steps) + 1 {
		a := oldState(t)
		old, err := openOld(vfs.Default, a.ledgerPath())
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(a.ledgerPath(), 0o700); err != nil {
			t.Fatal(err)
		}
		lock, err := lockStore(vfs.Default, a.ledgerPath())
		if err != nil {
			t.Fatal(err)
		}
		st, err := openPebble(vfs.Default, a.ledgerPath(), lock, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, step := range steps[:done] {
			if err := step(st, old); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
		}
		old.close()
		if err := st.close(); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			checkOldState(t, a)
		}
		if t.Failed() {
			t.Fatalf("after %d steps", done)
		}
	}
}

// An old file that comes back beside a ledger that has gone on is refused, and neither is touched.
func TestOldFileComesBack(t *testing.T) {
	a := oldState(t)
	old := read(t, a.ledgerPath()+".db")
	checkOldState(t, a)
	if err := os.WriteFile(a.ledgerPath()+".db", old, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath()); !errors.Is(err, ErrDamaged) ||
		!strings.Contains(err.Error(), "older version") {
		t.Errorf("openLedger = %v, want ErrDamaged that names both", err)
	}
	removeAll(t, a.ledgerPath()+".db")
	checkOldState(t, a)
	if _, err := os.Stat(a.ledgerPath() + ".db"); errors.Is(err, fs.ErrNotExist) {
		t.Error("the mark was not made again")
	}
}

// The directory without its ledger, but with the mark or the old file put aside, is no fresh one.
func TestTakenOverLedgerIsLost(t *testing.T) {
	a := oldState(t)
	checkOldState(t, a)
	removeAll(t, a.ledgerPath())
	if _, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath()); !errors.Is(err, ErrDamaged) {
		t.Errorf("openLedger = %v, want ErrDamaged", err)
	}
	if _, _, err := ReadTrail(a.ledgerPath()); !errors.Is(err, ErrDamaged) {
		t.Errorf("ReadTrail = %v, want ErrDamaged", err)
	}
}

// Damage of the old file is found before anything is taken over.
func TestOldFileIsDamaged(t *testing.T) {
	for _, part := range []float64{0.01, 0.3} {
		a := oldState(t)
		truncate(t, a.ledgerPath()+".db", part)
		if _, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath()); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %v: openLedger = %v, want ErrDamaged", part, err)
		}
	}
	a := oldState(t)
	if err := os.WriteFile(a.auditPath(), bytes.Replace(read(t, a.auditPath()), []byte("seq"), []byte("sec"), 1),
		0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLedger(vfs.Default, a.ledgerPath(), a.auditPath()); !errors.Is(err, audit.ErrDamaged) {
		t.Errorf("trail edited: openLedger = %v, want audit.ErrDamaged", err)
	}
}

func TestStoreVersions(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
		t.Fatal(err)
	}
	a.restart(t)
	if u := mustUsage(t, a, sess.ID); u[0].Used != feeCharge(0, 10)[0].Amount {
		t.Errorf("used %v, want 10", u[0].Used)
	}
	if err := a.ledger.store.(*embedded).setVersion("4"); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if err := a.open(); !errors.Is(err, ErrOtherVersion) {
		t.Errorf("version 4: %v, want it refused", err)
	}
}
