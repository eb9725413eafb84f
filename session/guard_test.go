package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// guard compiles rules and puts them into force.
func (a *agent) guard(t *testing.T, list ...rules.Rule) *rules.Set {
	t.Helper()
	set, err := rules.Compile(list)
	if err != nil {
		t.Fatal(err)
	}
	a.Guard.Store(set)
	return set
}

// outcomes signs nonces from first on, n of them in parallel, and returns how many were granted, and how many guard
// rules denied.
func (a *agent) outcomes(t *testing.T, sess *Session, first, n uint64) (granted, denied int) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for nonce := first; nonce < first+n; nonce++ {
		wg.Go(func() {
			_, err := a.Sign(t.Context(), app, transfer(sess, nonce))
			for errors.Is(err, ErrOverloaded) { // on a slow machine fewer may wait
				time.Sleep(10 * time.Millisecond)
				_, err = a.Sign(t.Context(), app, transfer(sess, nonce))
			}
			mu.Lock()
			defer mu.Unlock()
			var d *policy.Denial
			switch {
			case err == nil:
				granted++
			case errors.As(err, &d) && d.Reason == ReasonGuardRule:
				denied++
			default:
				t.Errorf("nonce %d: %v", nonce, err)
			}
		})
	}
	wg.Wait()
	return granted, denied
}

// auditText is the trail, which is in one segment.
func (a *agent) auditText(t *testing.T) string {
	t.Helper()
	a.events(t) // checks the chain
	text, err := os.ReadFile(a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (a *agent) lastLine(t *testing.T) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(a.auditText(t)), "\n")
	return lines[len(lines)-1]
}

// TestEachCountingRuleIsExact sends 1,000 requests in parallel against each rule that counts. A request costs 1 wei and
// a fee of 10, and the session allows 100 of them.
func TestEachCountingRuleIsExact(t *testing.T) {
	for _, r := range []rules.Rule{
		{Use: "rate", Per: "client", Limit: "37", Window: time.Hour},
		{Use: "rate", Per: "session", Limit: "37", Window: time.Hour, Sliding: true},
		{Use: "rate", Per: "target", Limit: "37", Window: time.Hour},
		{Use: "rate", Per: "account", Limit: "37", Window: 24 * time.Hour},
		{Use: "spend", Per: "all", Limit: "410", Window: 24 * time.Hour}, // 37 × 11, and 3 more
		{Count: "tx.value", Per: "all", Limit: "37", Window: 24 * time.Hour},
		{Count: "tx.maxFee", When: `tx.value > wei("0")`, Per: "all", Limit: "379", Window: 24 * time.Hour},
	} {
		t.Run(fmt.Sprint(r.Use, r.Count, " per ", r.Per), func(t *testing.T) {
			a := newAgent(t)
			sess := a.active(t)
			r.Name = "counted"
			a.guard(t, r)
			if granted, denied := a.outcomes(t, sess, 0, 1000); granted != 37 || denied != 963 {
				t.Errorf("%d granted and %d denied, want 37 and 963", granted, denied)
			}
			a.restart(t)
			a.guard(t, r)
			if granted, _ := a.outcomes(t, sess, 1000, 3); granted != 0 {
				t.Error("a restart gave some back")
			}
		})
	}
}

// TestRulesOnlyNarrow has rules that would allow what the spec refuses: the spec's own reason comes first.
func TestRulesOnlyNarrow(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	set := a.guard(t, rules.Rule{Name: "none", When: "true", Message: "not today"})
	req := transfer(sess, 1)
	req.Tx.To = policy.Address{1}
	_, err := a.Sign(t.Context(), app, req)
	wantDenial(t, err, policy.ReasonTransferNotAllowed)
	_, err = a.Sign(t.Context(), app, transfer(sess, 1))
	wantDenial(t, err, ReasonGuardRule)
	if err == nil || !strings.Contains(err.Error(), `guard rule "none": not today`) {
		t.Errorf("%v", err)
	}
	if last := a.lastLine(t); !strings.Contains(last, `"rules":"`+set.Hash()+`"`) ||
		!strings.Contains(last, `"reason":"guardRule"`) {
		t.Errorf("the record does not name the rules: %s", last)
	}
	v, err := a.Simulate(t.Context(), app, transfer(sess, 1))
	if err != nil || v.Denial == nil || v.Denial.Reason != ReasonGuardRule {
		t.Errorf("Simulate: %+v, %v", v, err)
	}
	a.guard(t)
	if _, err = a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
		t.Error(err)
	}
	if last := a.lastLine(t); strings.Contains(last, `"rules"`) {
		t.Errorf("a version without rules: %s", last)
	}
}

// TestOneVersionJudges changes the rules while requests run: of two versions one allows no even nonce, the other no odd
// one. What was granted agrees with the version in its record.
func TestOneVersionJudges(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	versions := map[string]uint64{}
	odd := a.guard(t, rules.Rule{Name: "odd", When: "tx.nonce % 2 == 0"})
	even := a.guard(t, rules.Rule{Name: "even", When: "tx.nonce % 2 == 1"})
	versions[odd.Hash()], versions[even.Hash()] = 1, 0
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				a.Guard.Store([]*rules.Set{odd, even}[i%2])
			}
		}
	}()
	granted, denied := a.outcomes(t, sess, 0, 150)
	close(stop)
	<-done
	if granted == 0 || denied == 0 {
		t.Errorf("%d granted, %d denied: nothing to compare", granted, denied)
	}
	checked := 0
	for line := range strings.Lines(a.auditText(t)) {
		var rec struct {
			Event       string
			Transaction struct{ Nonce string }
			Verdict     struct{ Rules string }
		}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			t.Fatal(err)
		}
		if rec.Event != "sign.granted" {
			continue
		}
		checked++
		nonce, err := strconv.ParseUint(rec.Transaction.Nonce, 0, 64)
		parity, known := versions[rec.Verdict.Rules]
		if err != nil || !known || nonce%2 != parity {
			t.Errorf("nonce %s was granted by version %q", rec.Transaction.Nonce, rec.Verdict.Rules)
		}
	}
	if checked != granted {
		t.Errorf("%d records of %d grants", checked, granted)
	}
}
