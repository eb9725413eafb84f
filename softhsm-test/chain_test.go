package softhsmtest

import (
	"encoding/json"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// chainAgent is an agent that watches a real node, driven by its commands and sockets alone.
type chainAgent struct {
	*Agent
	node    *chaintest.Node
	account policy.Address
}

func newChainAgent(t *testing.T) *chainAgent {
	t.Helper()
	a := &chainAgent{Agent: NewAgent(t), node: chaintest.Start(t)}
	a.account = a.node.NewAccount()
	a.Stop()
	a.configure(fmt.Sprintf("[chains.abstract]\nrpc = [%q]\n[watch]\ninterval = \"100ms\"\nregistry_interval = \"100ms\"\n", a.node.URL))
	a.Start()
	return a
}

// configure adds to the configuration. Its sections must not be there yet: the template has them as comments.
func (a *chainAgent) configure(text string) {
	a.t.Helper()
	path := filepath.Join(a.Dir, "config.toml")
	a.replaceConfig("\n[watch]\n", "\n")
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		a.t.Fatal(err)
	}
}

// replaceConfig changes the first place in the configuration that says old.
func (a *chainAgent) replaceConfig(old, text string) {
	a.t.Helper()
	path := filepath.Join(a.Dir, "config.toml")
	conf, err := os.ReadFile(path)
	if err != nil {
		a.t.Fatal(err)
	}
	if !strings.Contains(string(conf), old) {
		a.t.Fatalf("the configuration has no %q", old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(conf), old, text, 1)), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// session runs a command that prints a session.
func (a *chainAgent) session(args ...string) *api.Session {
	a.t.Helper()
	out := a.Keyward(append(args, "--json")...)
	sess := new(api.Session)
	if err := json.Unmarshal([]byte(out), sess); err != nil {
		a.t.Fatalf("%v printed %q: %v", args, out, err)
	}
	return sess
}

// create makes a session whose policies the registry allows.
func (a *chainAgent) create(spec string) *api.Session {
	a.t.Helper()
	parsed, err := policy.ParseSpec([]byte(spec), false)
	if err != nil {
		a.t.Fatal(err)
	}
	for _, q := range parsed.RegistryQueries() {
		a.node.SetRegistry(q, policy.Allowed)
	}
	file := filepath.Join(a.t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return a.session("session", "create", "--spec", file, "--account", a.account.String(), "--chain", "abstract")
}

// wait waits until session show says what is wanted, and fails the test after a minute.
func (a *chainAgent) wait(id, what string, ok func(*api.Session) bool) *api.Session {
	a.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		sess := a.session("session", "show", id)
		if ok(sess) {
			return sess
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("session is not %s after a minute: %+v\n%s", what, sess, a.log)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (a *chainAgent) waitStatus(id, status string) *api.Session {
	a.t.Helper()
	return a.wait(id, status, func(s *api.Session) bool { return s.Status == status })
}

// tx is a transfer of 1 wei from the account.
func (a *chainAgent) tx(session string, nonce uint64) map[string]any {
	tx := transferTx(session, nonce)
	tx["from"], tx["chainId"] = a.account.String(), chaintest.ChainID
	return tx
}

// land has the node take what was signed for the nonce.
func (a *chainAgent) land(sess *api.Session, nonce uint64, signed *api.SignedTransaction) {
	a.t.Helper()
	var to policy.Address
	if err := to.UnmarshalText([]byte(recipient)); err != nil {
		a.t.Fatal(err)
	}
	err := a.node.Land(a.account, sess.Session, &chaintest.Transaction{
		To: to, GasLimit: big.NewInt(100000), GasPerPubdataByteLimit: big.NewInt(50000), MaxFeePerGas: big.NewInt(1),
		MaxPriorityFeePerGas: new(big.Int), Nonce: nonce, Value: big.NewInt(1),
	}, signed.Signature)
	if err != nil {
		a.t.Fatal(err)
	}
}

// A session's life on a node, from its creation to its end there, by commands and sockets alone: the owner approves it
// and it is active; what is signed lands and is settled; the registry stops and releases it; its
// successor takes over; and it is gone when its owner revokes it.
func TestLifecycleOnANode(t *testing.T) {
	a := newChainAgent(t)
	app := a.Client()
	sess := a.create(transferSpec(10))
	if _, err := app.SignTransaction(t.Context(), a.tx(sess.ID, 0)); client.Details(err) == nil {
		t.Errorf("signed before the owner approved: %v", err)
	}
	a.node.CreateSession(a.account, sess.Session)
	a.waitStatus(sess.ID, "active")
	nonce := a.node.Nonce(a.account)

	// Three are signed: one lands, the owner takes the nonce of one, one stays.
	for i := range uint64(3) {
		signed, err := app.SignTransaction(t.Context(), a.tx(sess.ID, nonce+i))
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			a.land(sess, nonce, signed)
		}
	}
	a.node.TakeNonces(a.account, 1)
	a.wait(sess.ID, "settled", func(s *api.Session) bool {
		l := s.Limits[1]
		return l.Used.String() == "2" && l.ChainUsed != nil && l.ChainUsed.String() == "1" && *s.Outstanding == 1
	})
	if out := a.Keyward("session", "show", sess.ID); !strings.Contains(out, "ON CHAIN") ||
		!strings.Contains(out, "Active, settled at block") {
		t.Errorf("session show printed %s", out)
	}
	if out := a.Keyward("status"); !strings.Contains(out, "chain abstract") || !strings.Contains(out, "ready, block ") {
		t.Errorf("status printed %s", out)
	}

	q := sess.Session.RegistryQueries()[0]
	a.node.SetRegistry(q, policy.Blocked)
	a.wait(sess.ID, "stopped by the registry", func(s *api.Session) bool { return s.Blocked != "" })
	_, err := app.SignTransaction(t.Context(), a.tx(sess.ID, nonce+2))
	if d := client.Details(err); d == nil || d.Code != api.CodeDenied || d.Details().Reason != "blockedByRegistry" {
		t.Errorf("stopped by the registry: %v", err)
	}
	a.node.SetRegistry(q, policy.Allowed)
	a.wait(sess.ID, "released", func(s *api.Session) bool { return s.Blocked == "" })

	next := a.session("session", "renew", sess.ID, "--lifetime", "100h")
	a.node.CreateSession(a.account, next.Session)
	a.waitStatus(next.ID, "active")
	nonce = a.node.Nonce(a.account)
	signed, err := app.SignTransaction(t.Context(), a.tx(sess.ID, nonce))
	if err != nil || signed.Session != next.ID {
		t.Fatalf("signed %+v, %v, want it by the successor %s", signed, err, next.ID)
	}
	a.land(next, nonce, signed)
	a.node.Revoke(a.account, sess.SessionHash)
	a.waitStatus(sess.ID, "closed")
	var seen []string
	for _, rec := range a.trail() {
		if !strings.HasPrefix(rec.Event, "sign.") {
			seen = append(seen, rec.Event)
		}
	}
	text := strings.Join(seen, " ")
	for _, event := range []string{"session.activated", "session.reconciled", "session.blocked", "session.unblocked",
		"session.succeeded", "session.closed"} {
		if !strings.Contains(text, event) {
			t.Errorf("the trail has %s, and no %s", text, event)
		}
	}
	a.Keyward("audit", "verify")
}

// The production rules at session create: the registry's answer counts, and where it can't be had there is
// no session. The calldata that is printed for the owner is what the validator takes.
func TestProductionRulesOnANode(t *testing.T) {
	a := newChainAgent(t)
	text := transferSpec(10) // ends a day from now
	file := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	create := []string{"session", "create", "--spec", file, "--account", a.account.String(), "--chain", "abstract"}
	refused := func(words string) {
		t.Helper()
		if out, err := a.try(create...); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("session create: %s, %v, want a refusal with %q", out, err, words)
		}
	}
	refused("Session key policy violation. Target: " + recipient)
	spec, err := policy.ParseSpec([]byte(text), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range spec.RegistryQueries() {
		a.node.SetRegistry(q, policy.Allowed)
	}
	out := a.Keyward(create...)
	for _, want := range []string{"What it can lose at most:", "total ETH", "await agwClient.createSession({ session: {",
		"expiresAt\":" + spec.ExpiresAt.Dec() + "n"} {
		if !strings.Contains(out, want) {
			t.Errorf("session create printed %s, want %q in it", out, want)
		}
	}
	sess := a.session(create...)
	if sess.Risk == nil || sess.Risk.Sentence == "" || sess.Warnings == nil {
		t.Errorf("session create --json has risk %v and warnings %v", sess.Risk, sess.Warnings)
	}

	if err := a.node.Execute(a.account, *sess.Validator, calldata(t, sess.CreateSessionCalldata)); err != nil {
		t.Fatalf("the owner's createSession: %v", err)
	}
	a.waitStatus(sess.ID, "active")
	if out := a.Keyward("session", "revoke", sess.ID); !strings.Contains(out, sess.RevokeKeysCalldata) {
		t.Errorf("session revoke printed %s, want the calldata of revokeKeys", out)
	}
	if err := a.node.Execute(a.account, *sess.Validator, calldata(t, sess.RevokeKeysCalldata)); err != nil {
		t.Fatalf("the owner's revokeKeys: %v", err)
	}
	client, err := chain.New(chaintest.Config(a.node.URL))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if status, err := client.SessionStatus(t.Context(), a.account, sess.SessionHash); err != nil ||
		status != chain.Closed {
		t.Errorf("after revokeKeys the session is %v (%v), want Closed", status, err)
	}

	check := a.Keyward("chain", "check", "abstract")
	for _, want := range []string{"ready", "production docs", "agw-client", "there is no contract"} {
		if !strings.Contains(check, want) {
			t.Errorf("chain check printed %s, want %q in it", check, want)
		}
	}
	a.Stop()
	a.replaceConfig(a.node.URL, "http://127.0.0.1:1")
	a.Start()
	refused("asking the policy registry, without which no session is made")
	if out, err := a.try("chain", "check"); err == nil || !strings.Contains(out, "failed") {
		t.Errorf("chain check without a node: %s, %v, want a failure", out, err)
	}
}

func calldata(t *testing.T, hex string) []byte {
	t.Helper()
	var b api.Bytes
	if err := b.UnmarshalText([]byte(hex)); err != nil {
		t.Fatal(err)
	}
	return b
}

// An agent that has lost its state gets a session back from the chain: its policy from the event, its key from the
// token, and what it has used from the validator.
func TestImportOnANode(t *testing.T) {
	a := newChainAgent(t)
	old := a.create(transferSpec(10))
	a.node.CreateSession(a.account, old.Session)
	a.waitStatus(old.ID, "active")
	nonce := a.node.Nonce(a.account)
	signed, err := a.Client().SignTransaction(t.Context(), a.tx(old.ID, nonce))
	if err != nil {
		t.Fatal(err)
	}
	a.land(old, nonce, signed)
	a.Stop()
	if err := os.Rename(filepath.Join(a.Dir, "state"), filepath.Join(a.Dir, "lost")); err != nil {
		t.Fatal(err)
	}
	a.Start()
	sess := a.session("session", "import", "--from-chain", "--chain", "abstract", "--account", a.account.String(),
		"--session-hash", old.SessionHash.String())
	if sess.Signer != old.Signer || sess.SessionHash != old.SessionHash || sess.Status != "active" {
		t.Fatalf("imported %+v, want the session of %v, active", sess, old.Signer)
	}
	a.wait(sess.ID, "settled", func(s *api.Session) bool { return s.Limits[1].Used.String() == "1" })
	if _, err := a.Client().SignTransaction(t.Context(), a.tx(sess.ID, nonce+1)); err != nil {
		t.Errorf("signing with the imported session: %v", err)
	}
	if _, err := a.try("session", "import", "--from-chain", "--chain", "abstract", "--account", a.account.String(),
		"--session-hash", old.SessionHash.String()); err == nil {
		t.Error("the same session was imported twice")
	}
}
