package session

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"
	"go.uber.org/goleak"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// make kills sets it to 1,000.
var kills = flag.Int("kills", 15, "of TestKilledWhileSettling")

const (
	killedDir     = "KEYWARD_TEST_KILLED_DIR" // set for the process that is killed
	killedWorkers = 4                         // each with the nonces that leave its number as the rest
)

// TestMain is also the process that TestKilledWhileSettling kills. It fails if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	if dir := os.Getenv(killedDir); dir != "" {
		if err := killed(dir); err != nil {
			fmt.Println("failed", err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, crashedStores()...)
}

// crashedStores are goroutines of Pebble's that a crash on a simulated disk leaves: such a process can't end them. A
// ledger that a test forgets to close leaves its committer, too, which is not among them.
func crashedStores() (left []goleak.Option) {
	const pebble = "github.com/cockroachdb/pebble/v2"
	for _, name := range []string{
		".(*ConcurrencyLimitScheduler).periodicGranter", ".(*cleanupManager).mainLoop",
		"/internal/genericcache.(*shard[...]).releaseLoop", "/record.(*LogWriter).flushLoop",
	} {
		left = append(left, goleak.IgnoreAnyFunction(pebble+name))
	}
	return left
}

// killed signs, replaces, takes back and settles until it is killed. It prints what is durable: "granted" or
// "reverted", the nonce and the kind of its digest; and "asking" before what it takes back is charged.
func killed(dir string) error {
	l, err := openLedger(vfs.Default, filepath.Join(dir, "ledger"), filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		return err
	}
	if l.books["s"] == nil {
		sess := &Session{ID: "s", Kind: AGW, Status: Active, Spec: &policy.Spec{
			FeeLimit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(1 << 60)}}}
		l.addLocked(sess)
		if err := l.store.commit(&batch{changes: []*change{{id: "s", session: sess, spec: sess.Spec}}}); err != nil {
			return err
		}
	}
	var mu sync.Mutex // around what has landed
	landed := map[uint64]uint64{}
	nonce, fees := uint64(0), uint64(0)
	if last := l.books["s"].chain; last != nil {
		used := uint256.Int(last.Used[feeTracker])
		nonce, fees = last.Nonce, used.Uint64()
	}
	first := nonce
	var all sync.WaitGroup
	failed := make(chan error, killedWorkers+1)
	for w := range uint64(killedWorkers) {
		all.Go(func() {
			// None that the chain is past: what is taken back there counts until the next settlement.
			for n := first + (w+killedWorkers-first%killedWorkers)%killedWorkers; ; n += killedWorkers {
				fee, err := killedSign(l, n)
				if err != nil {
					failed <- err
					return
				}
				mu.Lock()
				landed[n] = fee
				mu.Unlock()
			}
		})
	}
	all.Go(func() {
		for block := uint64(time.Now().UnixNano()); ; block++ {
			mu.Lock()
			for fee, ok := landed[nonce]; ok; fee, ok = landed[nonce] {
				delete(landed, nonce)
				nonce, fees = nonce+1, fees+fee
			}
			v := &ChainView{Block: chain.Block{Number: block, Time: block / uint64(time.Second)}, Nonce: nonce,
				Used: map[policy.Tracker]uint256.Int{feeTracker: *uint256.NewInt(fees)}}
			mu.Unlock()
			if _, err := l.Settle(context.Background(), "s", v, time.Now(),
				&audit.Record{Event: audit.SessionReconciled}); err != nil {
				failed <- err
				return
			}
		}
	})
	return <-failed
}

// killedFee is what a digest of a kind costs: of kind 0 and 1 one lands, kind 2 is never signed.
func killedFee(nonce uint64, kind byte) uint64 {
	return [...]uint64{10 + nonce%7, 12 + nonce%5, 40 + nonce%3}[kind]
}

// killedSign signs both digests for the nonce and takes back a third. It returns the fee of the one that lands.
func killedSign(l *Ledger, nonce uint64) (fee uint64, err error) {
	for _, kind := range []byte{0, 2, 1} {
		g := grantOf(nonce, kind, feeCharge(1<<60, killedFee(nonce, kind)))
		if kind == 2 {
			fmt.Println("asking", nonce, kind)
		}
		r, err := l.Reserve("s", g, &audit.Record{Event: audit.SignGranted, Detail: killedName(nonce, kind)})
		if err != nil {
			return 0, err
		}
		if kind == 2 {
			e, err := r.failed(true, audit.Record{Event: audit.SignFailed, Detail: killedName(nonce, kind)})
			if err == nil && e != nil {
				err = e.wait(context.Background())
			}
			if err != nil {
				return 0, err
			}
			if e != nil {
				fmt.Println("reverted", nonce, kind)
			}
			continue
		}
		r.signed()
		if err := r.Durable(context.Background()); err != nil {
			return 0, err
		}
		fmt.Println("granted", nonce, kind)
	}
	return killedFee(nonce, byte(nonce%2)), nil
}

func killedName(nonce uint64, kind byte) string { return fmt.Sprintf("%d/%d", nonce, kind) }

// A process that signs, replaces, takes back and settles is killed at random moments. After each: every grant that was
// durable is counted and in the trail, what was taken back is not counted, and the total is exactly what the chain has
// and what is open.
func TestKilledWhileSettling(t *testing.T) {
	dir := t.TempDir()
	granted, reverted := map[uint64]map[byte]bool{}, map[uint64]bool{}
	grants := 0
	for kill := range *kills {
		for _, line := range runKilled(t, dir) {
			var what string
			var nonce uint64
			var kind byte
			if n, err := fmt.Sscan(line, &what, &nonce, &kind); n != 3 || err != nil {
				t.Fatalf("kill %d: it says %q", kill, line)
			}
			switch what {
			case "granted":
				grants++
				if granted[nonce] == nil {
					granted[nonce] = map[byte]bool{}
				}
				granted[nonce][kind] = true
			case "asking":
				delete(reverted, nonce)
			case "reverted":
				reverted[nonce] = true
			}
		}
		checkKilled(t, dir, kill, granted, reverted)
	}
	if grants < *kills || len(reverted) == 0 {
		t.Errorf("%d grants and %d taken back in %d kills: there was no load", grants, len(reverted), *kills)
	}
	t.Logf("%d kills, %d grants, %d nonces with a replacement, %d taken back", *kills, grants, len(granted), len(reverted))
}

// runKilled starts the process on dir, kills it at some moment, and returns what it printed.
func runKilled(t *testing.T, dir string) (lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), killedDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	for said.Scan() {
		if lines = append(lines, said.Text()); len(lines) == 1 { // the load is there
			time.AfterFunc(time.Duration(rand.IntN(150))*time.Millisecond, func() { cmd.Process.Kill() })
		}
	}
	_ = cmd.Wait() // killed
	return lines
}

// checkKilled opens the ledger that a killed process has left.
func checkKilled(t *testing.T, dir string, kill int, granted map[uint64]map[byte]bool, reverted map[uint64]bool) {
	t.Helper()
	l := reopenLedger(t, dir)
	defer l.close()
	var trail strings.Builder
	segments, err := audit.Segments(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range segments {
		lines, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		trail.Write(lines)
	}
	recorded := map[string]bool{}
	for line := range strings.Lines(trail.String()) {
		if strings.Contains(line, `"sign.granted"`) {
			_, detail, _ := strings.Cut(line, `"detail":"`)
			name, _, _ := strings.Cut(detail, `"`)
			recorded[name] = true
		}
	}
	passed, used := uint64(0), uint64(0)
	if last := l.books["s"].chain; last != nil {
		counted := uint256.Int(last.Used[feeTracker])
		passed, used = last.Nonce, counted.Uint64()
	}
	open := map[uint64]uint64{}
	err = l.store.liabilities("s", passed, 1<<63, func(nonce uint64, c costs) error {
		most := c.of(feeTracker)
		open[nonce] = most.Uint64()
		used += most.Uint64()
		return nil
	})
	if total := feeUsed(t, l); err != nil || total != used {
		t.Fatalf("kill %d: %d counted, want %d: what the chain has and what is open; %v", kill, total, used, err)
	}
	for nonce, kinds := range granted {
		for kind := range kinds {
			if !recorded[killedName(nonce, kind)] {
				t.Fatalf("kill %d: grant %d/%d is not in the trail", kill, nonce, kind)
			}
			if _, _, known, err := l.store.nonce("s", nonce, policy.Hash{kind}); err != nil || !known {
				t.Fatalf("kill %d: grant %d/%d is not in the ledger, %v", kill, nonce, kind, err)
			}
			if fee := killedFee(nonce, kind); nonce >= passed && open[nonce] < fee {
				t.Fatalf("kill %d: nonce %d counts %d, and %d was granted", kill, nonce, open[nonce], fee)
			}
		}
	}
	for nonce := range reverted {
		if _, _, known, err := l.store.nonce("s", nonce, policy.Hash{2}); err != nil || known {
			t.Fatalf("kill %d: %d/2 was taken back and is in the ledger, %v", kill, nonce, err)
		}
		if open[nonce] >= killedFee(nonce, 2) {
			t.Fatalf("kill %d: nonce %d counts %d, also what was taken back", kill, nonce, open[nonce])
		}
	}
}
