package session

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// After a power cut at any moment, with whatever part of the unsynced data, the ledger opens, has counted every grant
// that was durable, replacements at their larger cost, and its trail reaches the ledger's last record.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 7))
		fsys := vfs.NewCrashableMem()
		if err := fsys.MkdirAll("state", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syncDir(fsys, ""); err != nil { // the operator made the directory long ago
			t.Fatal(err)
		}
		most := map[uint64]uint64{} // nonce → the largest durable amount
		cut := func() *vfs.MemFS {
			return fsys.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rng})
		}
		first := cut() // of the first initialisation nothing may be there, or all
		l := openMem(t, fsys)
		l.segmentBytes.Store(600)
		l.addActive("s", &policy.Spec{})
		for i := range 1 + rng.IntN(20) {
			nonce, amount := rng.Uint64N(6), rng.Uint64N(50)
			r, err := l.Reserve("s", grantOf(nonce, byte(i), feeCharge(1<<40, amount)), &audit.Record{Event: audit.SignGranted})
			if err == nil {
				err = r.Durable(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			most[nonce] = max(most[nonce], amount)
		}
		after := cut()
		head := l.head.Seq
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		openMem(t, first).close()
		again := openMem(t, after)
		again.addActive("s", &policy.Spec{})
		want := uint64(0)
		for _, amount := range most {
			want += amount
		}
		used, err := again.totalLocked(again.books["s"], policy.Tracker{Kind: policy.FeeTracker})
		if err != nil || used.Uint64() != want || again.head.Seq != head {
			t.Errorf("seed %d: used %v, %v, record %d, want %d and record %d", seed, used, err, again.head.Seq, want, head)
		}
		again.close()
	}
}

func openMem(t *testing.T, fsys *vfs.MemFS) *Ledger {
	t.Helper()
	if err := fsys.MkdirAll("state", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := openLedger(fsys, "state/ledger", "state/audit.jsonl")
	if err != nil {
		t.Fatal(fmt.Errorf("after a power cut: %w", err))
	}
	return l
}
