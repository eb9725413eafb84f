package softhsmtest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/client"
)

// make kills sets it to 1,000.
var kills = flag.Int("kills", 50, "of TestKilledUnderLoad")

// The agent is killed at 50 random moments under load, of which a third are replacements: the same nonce, another
// transaction. After each start: every signature that a client received is charged and in the audit trail, nothing
// under-counts, and the trail verifies.
func TestKilledUnderLoad(t *testing.T) {
	const workers = 8
	a := NewPlainAgent(t, t.TempDir())
	sess := a.ActiveSession(strings.Replace(transferSpec(1_000_000_000), `"maxValuePerUse": "1"`, `"maxValuePerUse": "2"`,
		1), userAccount)
	var nonces, first [workers]uint64 // each worker has its own range, below 2^32: no node takes a nonce beyond it
	for w := range nonces {
		first[w] = uint64(w) << 24
		nonces[w] = first[w]
	}
	received := map[string]bool{} // digests of signatures that arrived
	for kill := range *kills {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for w := range nonces {
			wg.Go(func() {
				for _, digest := range a.signUntilKilled(t, sess.ID, &nonces[w]) {
					mu.Lock()
					received[digest] = true
					mu.Unlock()
				}
			})
		}
		time.Sleep(time.Duration(30+rand.IntN(200)) * time.Millisecond) // the moment is the test's input
		a.Kill()
		wg.Wait()
		a.Start()
		a.checkNothingLost(fmt.Sprintf("kill %d", kill), sess.ID, received)
		if kill%100 == 99 {
			t.Logf("%d of %d kills, %d signatures received", kill+1, *kills, len(received))
		}
	}
	if len(received) < *kills*workers {
		t.Errorf("only %d signatures arrived: there was no load", len(received))
	}
	for w, nonce := range nonces {
		if nonce == first[w] {
			t.Errorf("worker %d got no signature: the load was smaller than it seems", w)
		}
	}
	t.Logf("%d kills, %d signatures received, %d audit records", *kills, len(received), len(a.trail()))
}

// signUntilKilled signs one transaction after the other until the connection ends, and
// returns the digests of what arrived.
func (a *Agent) signUntilKilled(t *testing.T, session string, nonce *uint64) (digests []string) {
	c, err := client.Dial(t.Context(), a.Socket())
	if err != nil {
		return nil
	}
	defer c.Close()
	for {
		txs := []map[string]any{transferTx(session, *nonce)}
		switch *nonce % 3 {
		case 0: // the same digest costs nothing
			txs = append(txs, txs[0])
		case 1: // a replacement costs the larger amount: 1 wei more
			txs = append(txs, transferTx(session, *nonce))
			txs[1]["value"] = "2"
		}
		for _, tx := range txs {
			signed, err := c.SignTransaction(t.Context(), tx)
			if err != nil {
				return digests
			}
			digests = append(digests, signed.Digest.String())
		}
		*nonce++
	}
}

// checkNothingLost compares what arrived with the ledger and the audit trail.
func (a *Agent) checkNothingLost(when, session string, received map[string]bool) {
	a.t.Helper()
	inTrail, charged := map[string]bool{}, 0
	for _, rec := range a.trail() {
		if rec.Event != "sign.granted" {
			continue
		}
		inTrail[rec.Digest] = true
		for _, c := range rec.Verdict.Charges {
			if n, err := strconv.Atoi(c.Amount); err == nil && c.Tracker != "fee" {
				charged += n
			}
		}
	}
	for digest := range received {
		if !inTrail[digest] {
			a.t.Errorf("%s: the signature of %s arrived and is not in the audit trail", when, digest)
		}
	}
	used := a.transferred(session)
	if used < len(received) {
		a.t.Errorf("%s: %d signatures of 1 wei each arrived, %d wei are counted", when, len(received), used)
	}
	if used != charged || charged != len(inTrail) {
		a.t.Errorf("%s: ledger counts %d wei, the trail's charges are %d for %d transactions", when, used, charged,
			len(inTrail))
	}
}

// transferred is what the session's value limit has counted.
func (a *Agent) transferred(session string) int {
	a.t.Helper()
	c, err := client.Dial(a.t.Context(), a.Socket())
	if err != nil {
		a.t.Fatal(err)
	}
	defer c.Close()
	s, err := c.Session(a.t.Context(), session)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, l := range s.Limits {
		if used := l.Used.Int(); l.Tracker.Kind == policy.TransferValueTracker {
			return int(used.Uint64())
		}
	}
	a.t.Fatal("the session shows no transfer limit")
	return 0
}
