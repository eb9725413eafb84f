package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/audit"
)

// cutBoth cuts the last records off the trail and off the ledger in dir, as a copy of both from an earlier moment
// would: each fits the other.
func cutBoth(t *testing.T, dir string, heads []audit.Head, records int) {
	t.Helper()
	head := heads[len(heads)-1-records]
	ledger := filepath.Join(dir, "ledger")
	lock, err := lockStore(vfs.Default, ledger)
	if err != nil {
		t.Fatal(err)
	}
	st, err := openPebble(vfs.Default, ledger, lock, false)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		st.db.DeleteRange([]byte{journalKey}, []byte{journalKey + 1}, pebble.NoSync),
		st.db.Set(headKey, appendHead(nil, head), pebble.Sync),
		st.close(),
		os.Truncate(filepath.Join(dir, "audit.jsonl"), head.Size),
	)
	if err != nil {
		t.Fatal(err)
	}
}

// The last 1 to 60 records are cut off the trail and off the ledger, which no look at the two can show. The witness's
// checkpoint shows it 60 times of 60, whether or not the file of the tree was cut too, when the next checkpoint is made
// and when the trail is verified; and so it does when the trail has grown again.
func TestCutOfTrailAndLedgerIsNoticed(t *testing.T) {
	const records, most = 65, 60
	dir := t.TempDir()
	cfg := Config{LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl")}
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	heads := []audit.Head{{}}
	for range records {
		if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStarted}); err != nil {
			t.Fatal(err)
		}
		heads = append(heads, s.AuditHead())
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	key, err := audit.MakeKey(audit.KeyPath(cfg.AuditPath), "example.com/trail")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := filepath.Join(t.TempDir(), "witness")
	if err := witnessIt(dir, elsewhere, key); err != nil {
		t.Fatal(err)
	}
	signed, err := os.ReadFile(elsewhere)
	if err != nil {
		t.Fatal(err)
	}
	seen, err := audit.OpenCheckpoint(signed, key.Verifier)
	if err != nil || seen.Tree.N != records {
		t.Fatalf("the witness has %+v, %v, want %d records", seen, err, records)
	}

	found := map[string]int{}
	for cut := 1; cut <= most; cut++ {
		copied := filepath.Join(t.TempDir(), "state")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		cutBoth(t, copied, heads, cut)
		trail := filepath.Join(copied, "audit.jsonl")
		head, journal, err := ReadTrail(filepath.Join(copied, "ledger"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := audit.Verify(trail, head, journal, false); err != nil || head.Seq != uint64(records-cut) {
			t.Fatalf("%d records cut: the trail does not fit its ledger: %v", cut, err)
		}
		note := func(how string, err error) {
			if errors.Is(err, audit.ErrDamaged) {
				found[how]++
			} else {
				t.Errorf("%d records cut, %s: %v, want audit.ErrDamaged", cut, how, err)
			}
		}
		note("audit verify --checkpoint", audit.VerifyCheckpoint(trail, seen))
		note("the tree's file", witnessIt(copied, filepath.Join(t.TempDir(), "new"), key))
		if err := os.Remove(audit.TreePath(trail)); err != nil {
			t.Fatal(err)
		}
		note("audit witness", witnessIt(copied, elsewhere, key))
		if cut%10 != 0 {
			continue
		}
		growAgain(t, copied, cut+1)
		note("audit witness, grown again", witnessIt(copied, elsewhere, key))
		note("audit verify --checkpoint, grown again", audit.VerifyCheckpoint(trail, seen))
	}
	t.Logf("found, of %d cuts: %v", most, found)
}

// growAgain opens the state in dir, which shows nothing, and records something else.
func growAgain(t *testing.T, dir string, records int) {
	t.Helper()
	s, err := Open(Config{LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl")})
	if err != nil {
		t.Fatalf("a ledger and a trail that fit each other do not open: %v", err)
	}
	defer s.Close()
	for i := range records {
		if err := s.Record(t.Context(), audit.Record{Event: audit.AgentStopped, Method: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
}

// witnessIt gives the witness in a file a checkpoint of all records that the ledger in dir knows.
func witnessIt(dir, witness string, key *audit.Key) error {
	head, _, err := ReadTrail(filepath.Join(dir, "ledger"))
	if err != nil {
		return err
	}
	trail := filepath.Join(dir, "audit.jsonl")
	tree, err := audit.OpenTree(audit.TreePath(trail))
	if err != nil {
		return err
	}
	defer tree.Close()
	log := &audit.Log{Trail: trail, Tree: tree, Key: key}
	c, signed, err := log.Checkpoint(head.Seq)
	if err == nil {
		_, err = audit.FileWitness(witness).Add(context.Background(), log, c, signed)
	}
	return err
}
