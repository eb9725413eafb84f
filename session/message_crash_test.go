package session

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// voucherGrant is a voucher of a channel up to amount, under a budget of 1,000.
func voucherGrant(amount uint64) *judgement {
	budget := &rules.Counter{Rule: "vouchers", Limit: *uint256.NewInt(1000)}
	return &judgement{message: true, at: time.Unix(1_800_000_000, 0), guard: &rules.Verdict{Allowed: &rules.Allowed{
		Rule: "vouchers", Digest: policy.Hash{byte(amount), byte(amount >> 8)}, Key: "channel/1", Rising: true,
		Amount: *uint256.NewInt(amount), Budget: budget,
	}}}
}

// TestMarkSurvivesACrashAtEveryStep takes a copy of the disk, as a kill or a power cut would leave it, before each of
// the file system's operations while vouchers are signed. In each copy the mark is at least what was released until
// then and the budget has counted as much, and a different voucher below it is refused.
func TestMarkSurvivesACrashAtEveryStep(t *testing.T) {
	for seed := range uint64(3) {
		rng := rand.New(rand.NewPCG(seed, 16))
		disk := vfs.NewCrashableMem()
		if err := disk.MkdirAll("state", 0o700); err != nil {
			t.Fatal(err)
		}
		if err := syncDir(disk, ""); err != nil {
			t.Fatal(err)
		}
		type crash struct {
			disk     *vfs.MemFS
			released uint64
			op       string
		}
		var mu sync.Mutex
		var crashes []crash
		var released uint64
		recording := false
		fsys := errorfs.Wrap(disk, errorfs.InjectorFunc(func(op errorfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			if recording && op.Kind.ReadOrWrite() == errorfs.OpIsWrite {
				lost := []int{0, 50, 100}[len(crashes)%3]
				crashes = append(crashes, crash{disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: lost, RNG: rng}), released,
					fmt.Sprint(op.Kind, " ", op.Path)})
			}
			return nil
		}))
		l, err := openLedger(fsys, "state/ledger", "state/audit.jsonl")
		if err != nil {
			t.Fatal(err)
		}
		l.segmentBytes.Store(600)
		l.addActive("s", &policy.Spec{})
		mu.Lock()
		recording = true
		mu.Unlock()
		var amount uint64
		for range 12 {
			amount += 1 + rng.Uint64N(20)
			r, err := l.grantMessage("s", voucherGrant(amount), &audit.Record{Event: audit.SignGranted})
			if err == nil {
				err = r.Durable(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			released = amount
			mu.Unlock()
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if len(crashes) < 24 {
			t.Fatalf("only %d steps", len(crashes))
		}
		for _, c := range crashes {
			again := openMem(t, c.disk)
			again.addActive("s", &policy.Spec{})
			checkMark(t, again, c.released, amount, c.op)
			again.close()
		}
	}
}

func checkMark(t *testing.T, l *Ledger, released, most uint64, op string) {
	t.Helper()
	l.mu.Lock()
	mark, err := l.tallyLocked(keyTally + "channel/1")
	spent, err2 := l.tallyLocked("vouchers/")
	l.mu.Unlock()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	up, counted := mark.since(0), spent.since(0)
	if up.Uint64() < released || up.Uint64() > most || up != counted {
		t.Errorf("before %s: the mark is %v and %v are counted, and %d was released", op, up, counted, released)
	}
	if released == 0 {
		return
	}
	below := voucherGrant(released - 1)
	below.guard.Allowed.Digest[31] = 1
	if _, err := l.grantMessage("s", below, &audit.Record{}); err == nil {
		t.Errorf("before %s: a voucher below %d was granted", op, released)
	}
	if _, err := l.grantMessage("s", voucherGrant(released), &audit.Record{Event: audit.SignGranted}); err != nil {
		t.Errorf("before %s: the voucher that was released: %v", op, err)
	}
}

// TestMessageGrantIsAllOrNothing has a counter of another rule refuse what the budget allows: the mark stays.
func TestMessageGrantIsAllOrNothing(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	j := voucherGrant(10)
	j.guard.Counters = []rules.Counter{{Rule: "calm", Amount: *uint256.NewInt(1), Window: time.Hour}} // its limit is 0
	_, err := l.grantMessage("s", j, &audit.Record{})
	wantDenial(t, err, ReasonGuardRule)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, key := range []string{keyTally + "channel/1", "vouchers/", signedTally + "s/" +
		j.guard.Allowed.Digest.String()} {
		if have, err := l.tallyLocked(key); err != nil || len(have) != 0 {
			t.Errorf("%s has %v, %v", key, have, err)
		}
	}
}
