package session

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
)

var (
	account  = policy.Address{0xac}
	target   = policy.Address{0x7a}
	operator = audit.Peer{UID: 0, PID: 1}
	app      = audit.Peer{UID: 1000, GID: 1000, PID: 2}
	stranger = audit.Peer{UID: 1001, GID: 1001, PID: 3}
)

// agent is Sessions with a soft backend and a clock that the test sets.
type agent struct {
	*Sessions
	*Signer
	soft *soft.Backend
	dir  string

	mu  sync.Mutex
	now time.Time
}

func newAgent(t testing.TB) *agent {
	t.Helper()
	a := &agent{soft: &soft.Backend{}, dir: t.TempDir(), now: time.Unix(1_800_000_000, 0)}
	a.start(t)
	t.Cleanup(func() { a.Close() })
	return a
}

// start opens the state in a.dir.
func (a *agent) start(t testing.TB) {
	t.Helper()
	if err := a.open(); err != nil {
		t.Fatal(err)
	}
}

func (a *agent) open() error {
	s, err := Open(Config{
		LedgerPath: a.ledgerPath(), AuditPath: a.auditPath(),
		Backends:     map[string]backends.Backend{"soft": a.soft},
		ExpiryMargin: time.Minute, KeyGrace: time.Hour, Now: a.clock,
	})
	if err == nil {
		a.Sessions, a.Signer = s, &Signer{Sessions: s}
	}
	return err
}

// restart closes the state and opens it again.
func (a *agent) restart(t testing.TB) {
	t.Helper()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.start(t)
}

func (a *agent) ledgerPath() string { return filepath.Join(a.dir, "ledger") }
func (a *agent) auditPath() string  { return filepath.Join(a.dir, "audit.jsonl") }

func (a *agent) clock() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now
}

func (a *agent) pass(d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = a.now.Add(d)
}

// testSpec allows transfers to target, with a lifetime fee limit of 1,000 wei, and expires a day on.
func (a *agent) testSpec() *policy.Spec {
	return &policy.Spec{
		ExpiresAt: *uint256.NewInt(uint64(a.clock().Unix()) + 86400),
		FeeLimit:  policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(1000)},
		TransferPolicies: []policy.TransferSpec{{
			Target: target, MaxValuePerUse: *uint256.NewInt(50),
			ValueLimit: policy.UsageLimit{LimitType: policy.Allowance, Limit: *uint256.NewInt(100),
				Period: *uint256.NewInt(3600)},
		}},
	}
}

func (a *agent) createRequest() *CreateRequest {
	return &CreateRequest{
		Kind: AGW, Spec: a.testSpec(), Account: account, ChainID: 11124,
		Validator: vectorValidator, Clients: []Client{{ID: app.UID}},
	}
}

// active makes an active session.
func (a *agent) active(t testing.TB) *Session {
	t.Helper()
	sess, err := a.Create(t.Context(), operator, a.createRequest())
	if err != nil {
		t.Fatal(err)
	}
	sess, err = a.Activate(t.Context(), operator, sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	return sess
}

// events returns the trail's events, one word each, and checks the chain.
func (a *agent) events(t *testing.T) []string {
	t.Helper()
	head := a.AuditHead()
	if rep, err := audit.Verify(a.auditPath(), head, nil, true); err != nil || rep.Head.Seq < head.Seq {
		t.Fatalf("Verify = %+v, %v, want record %d", rep, err, head.Seq)
	}
	data, err := os.ReadFile(a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	var words []string
	for line := range bytes.Lines(data) {
		var rec struct{ Event string }
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatal(err)
		}
		words = append(words, rec.Event)
	}
	return words
}

func (a *agent) lastEvent(t *testing.T) string {
	t.Helper()
	all := a.events(t)
	return all[len(all)-1]
}

// runUntil runs the upkeep until done, or fails the test.
func (a *agent) runUntil(t *testing.T, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	stopped := make(chan struct{})
	go func() { defer close(stopped); a.Run(ctx) }()
	for !done() && ctx.Err() == nil {
		a.wakeRun()
		time.Sleep(time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("upkeep did not do it in 10 s")
	}
	cancel()
	<-stopped
}

func removeAll(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func copyDir(t *testing.T, to, from string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

// ledgerLog is the ledger's write-ahead log, in which everything is that was written since the last start.
func (a *agent) ledgerLog(t *testing.T) string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(a.ledgerPath(), "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatalf("logs %v, %v", logs, err)
	}
	return logs[len(logs)-1]
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func truncate(t *testing.T, path string, part float64) {
	t.Helper()
	if err := os.Truncate(path, int64(float64(len(read(t, path)))*part)); err != nil {
		t.Fatal(err)
	}
}

// scribble overwrites the second half of every file of the ledger.
func scribble(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		data := read(t, filepath.Join(dir, e.Name()))
		for i := len(data) / 2; i < len(data); i++ {
			data[i] = 0xa5
		}
		if err := os.WriteFile(filepath.Join(dir, e.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
