package session

import (
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

func TestSessionsFollowTheChain(t *testing.T) {
	o := startOnNode(t, WatchConfig{ClockBound: time.Minute})
	first := o.create()
	o.mustRound()
	o.want(first, Pending)
	o.node.CreateSession(o.account, first.Spec)
	o.onTime()
	o.mustRound()
	sess := o.want(first, Active)

	// Nonce 0 lands, nonce 1 is taken by the owner, nonce 2 is outstanding.
	nonce := o.node.Nonce(o.account)
	for i := range uint64(3) {
		signed := o.sign(sess, nonce+i)
		if i == 0 {
			o.land(sess, nonce, signed)
		}
	}
	o.wantFees(sess, 30, 0)
	o.node.TakeNonces(o.account, 1)
	o.mustRound()
	o.wantFees(sess, 20, 10)
	if n, err := o.Outstanding(sess.ID); err != nil || n != 1 {
		t.Errorf("%d outstanding, %v, want 1", n, err)
	}
	if seen, ok := o.watcher.Seen(sess); !ok || seen.Status != chain.Active || seen.Err != nil {
		t.Errorf("seen %+v", seen)
	}
	// A round in which nothing has happened writes no record.
	records := len(o.events(t))
	o.node.Mine(2)
	o.mustRound()
	if got := len(o.events(t)); got != records {
		t.Errorf("%d records after a quiet round, want %d", got, records)
	}
	o.restart(t)
	o.watch(WatchConfig{})
	o.wantFees(sess, 20, 10)

	o.node.Revoke(o.account, sess.Hash)
	o.onTime()
	o.mustRound()
	o.want(sess, Closed)
	_, err := o.Sign(t.Context(), app, transfer(sess, nonce+2))
	wantDenial(t, err, policy.ReasonSessionNotActive)
	if got := o.events(t); !slices.Contains(got, string(audit.SessionReconciled)) ||
		!slices.Contains(got, string(audit.SessionClosed)) {
		t.Errorf("events %v, want the settlement and the end", got)
	}
	// Its key goes after the grace period.
	o.pass(2 * time.Hour)
	o.runUntil(t, func() bool { s, _ := o.Get(sess.ID); return !s.KeyDestroyedAt.IsZero() })

	expiring := o.approved()
	o.node.SetTime(expiring.Spec.ExpiresAt.Uint64() + 1)
	o.mustRound()
	o.want(expiring, Expired)
}

// Whatever the node does: what is signed stays counted, a session that may sign signs, and nothing
// that a wrong node says is believed.
func TestNodeThatDoesWrong(t *testing.T) {
	o := startOnNode(t, WatchConfig{ClockBound: time.Minute})
	sess, pending := o.approved(), o.create()
	o.node.CreateSession(o.account, pending.Spec) // nobody has seen it yet
	nonce := o.node.Nonce(o.account)
	o.onTime()
	used := uint64(0)
	for name, fault := range map[string]chaintest.Fault{
		"slow": chaintest.Slow, "wrong chain": chaintest.WrongChain, "garbled": chaintest.Garbled,
		"truncated": chaintest.Truncated, "huge": chaintest.Huge,
		"rate limit": chaintest.TooManyRequests, "rate limit of JSON-RPC": chaintest.LimitExceeded,
		"calls refused": chaintest.CallsRefused,
		"short":         chaintest.Short, "server error": chaintest.ServerError, "gone": chaintest.Gone,
	} {
		o.proxy.Set(fault)
		if err := o.round(); err == nil {
			t.Errorf("%s: the round succeeded", name)
		}
		o.want(pending, Pending)
		o.sign(sess, nonce+used/10)
		used += 10
		o.wantFees(sess, used, 0)
		if st := o.watcher.Chains(); st[0].Err == nil || st[0].Clock != nil {
			t.Errorf("%s: state %+v, want why it can't be read", name, st[0])
		}
	}
	// A node that lies about the registry, or says half, is an error and not a Blocked.
	o.proxy.Set(chaintest.None)
	o.proxy.Rewrite(func(m *chaintest.Message) {
		if m.Method == "eth_call" {
			m.Result = []byte(`"0x"`)
		}
	})
	if err := o.round(); !errors.Is(err, chain.ErrGarbled) {
		t.Errorf("calls that give nothing: %v, want ErrGarbled", err)
	}
	o.sign(sess, nonce)
	o.proxy.Rewrite(nil)
	o.mustRound()
	o.want(pending, Active)
	if err := o.watcher.Chains()[0].Err; err != nil {
		t.Errorf("back to normal: %v", err)
	}
}

// A reorganisation counts again what it brings back, and is no external usage.
func TestReorganisation(t *testing.T) {
	o := startOnNode(t, WatchConfig{StopOnExternalUse: true})
	sess := o.approved()
	nonce := o.node.Nonce(o.account)
	signed := o.sign(sess, nonce)
	before := o.node.Snapshot()
	o.node.TakeNonces(o.account, 1) // the owner's
	o.onTime()
	o.mustRound()
	o.wantFees(sess, 0, 0)

	o.node.Revert(before)
	o.node.Mine(1) // other blocks
	o.mustRound()
	o.wantFees(sess, 10, 0)

	before = o.node.Snapshot()
	o.node.TakeNonces(o.account, 1)
	o.mustRound()
	o.wantFees(sess, 0, 0)
	o.node.Revert(before)
	o.land(sess, nonce, signed) // as many blocks and nonces as before, but another transaction
	o.node.Mine(2)
	o.mustRound()
	o.wantFees(sess, 10, 10)
	o.want(sess, Active)
	if got := o.External(sess.ID); len(got) != 0 {
		t.Errorf("external usage %v, but a reorganisation was all", got)
	}
}

func TestExternalUsage(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	sess := o.approved()
	o.sign(sess, o.node.Nonce(o.account))
	if err := o.node.Use(o.account, sess.Spec, chaintest.Use{To: target, Value: big.NewInt(5),
		Fee: big.NewInt(100)}); err != nil {
		t.Fatal(err)
	}
	o.mustRound()
	o.wantFees(sess, 100, 100)
	o.want(sess, Active) // an alarm only
	external := o.External(sess.ID)
	// What was signed for the nonce may be what landed, so 90 is what is certain.
	if got := external[feeTracker]; len(external) != 2 || got.String() != "90" {
		t.Errorf("external %v, want 90 of fees and 4 of value", external)
	}
	if got := o.lastEvent(t); got != string(audit.SessionExternal) {
		t.Errorf("last event %s, want %s", got, audit.SessionExternal)
	}
	if st := o.watcher.Chains()[0]; st.External != 1 {
		t.Errorf("state %+v, want one session", st)
	}
	o.node.Mine(1)
	records := len(o.events(t))
	o.mustRound()
	if got := len(o.events(t)); got != records {
		t.Errorf("told again: %v", o.events(t)[records:])
	}
	// An agent that is told to stop such sessions stops it, also after a restart.
	o.restart(t)
	o.watch(WatchConfig{StopOnExternalUse: true})
	o.mustRound()
	o.want(sess, Revoked)
}

func TestRegistryStopsAndReleases(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	sess := o.approved()
	nonce := o.node.Nonce(o.account)
	q := sess.Spec.RegistryQueries()[0]
	blocked := func(want bool) {
		t.Helper()
		_, err := o.Sign(t.Context(), app, transfer(sess, nonce))
		if want {
			wantDenial(t, err, ReasonBlocked)
		} else if err != nil {
			t.Errorf("Sign = %v", err)
		}
	}
	blocked(false)
	for _, status := range []policy.RegistryStatus{policy.Blocked, policy.Unset} {
		o.node.SetRegistry(q, status)
		blocked(false) // not seen yet
		o.mustRound()
		blocked(true)
		if _, err := o.ledger.Reserve(sess.ID, grantOf(99, 99, nil), &audit.Record{}); err == nil {
			t.Error("the ledger grants what the registry has stopped")
		}
		if got := o.lastEvent(t); status == policy.Blocked && got != string(audit.SignDenied) {
			t.Errorf("last event %s, want the denial's", got)
		}
		// Neither a restart nor a chain that is gone forgets it.
		o.restart(t)
		o.proxy.Set(chaintest.Gone)
		o.watch(WatchConfig{})
		if err := o.round(); err == nil {
			t.Error("the round succeeds")
		}
		blocked(true)
		o.proxy.Set(chaintest.None)
		o.node.SetRegistry(q, policy.Allowed)
		o.mustRound()
		blocked(false)
	}
	if got := o.events(t); !slices.Contains(got, string(audit.SessionBlocked)) ||
		!slices.Contains(got, string(audit.SessionUnblocked)) {
		t.Errorf("events %v, want the stop and the release", got)
	}
}

// A registry that can't be read stops nothing, unless the operator bounds the age of its answers.
func TestRegistryAge(t *testing.T) {
	o := startOnNode(t, WatchConfig{RegistryMaxAge: time.Hour})
	sess := o.approved()
	nonce := o.node.Nonce(o.account)
	o.proxy.Set(chaintest.Gone)
	o.pass(59 * time.Minute)
	o.sign(sess, nonce)
	o.pass(2 * time.Minute)
	if err := o.round(); err == nil {
		t.Error("the round succeeds")
	}
	if _, err := o.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, ErrRegistryStale) {
		t.Errorf("Sign = %v, want ErrRegistryStale", err)
	}
	o.watch(WatchConfig{})
	o.sign(sess, nonce)
	o.watch(WatchConfig{RegistryMaxAge: time.Hour})
	o.sign(sess, nonce) // a fresh start has as long
	o.pass(2 * time.Hour)
	if _, err := o.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, ErrRegistryStale) {
		t.Errorf("Sign = %v, want ErrRegistryStale", err)
	}
	o.proxy.Set(chaintest.None)
	o.mustRound()
	o.sign(sess, nonce)
}

func TestClockStopsSigning(t *testing.T) {
	o := startOnNode(t, WatchConfig{ClockBound: time.Minute})
	sess := o.approved()
	nonce := o.node.Nonce(o.account)
	o.sign(sess, nonce)
	_, now := o.node.Head()
	o.node.SetTime(now + 600)
	o.mustRound()
	if _, err := o.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, ErrClock) {
		t.Errorf("Sign = %v, want ErrClock", err)
	}
	if st := o.watcher.Chains()[0]; !errors.Is(st.Clock, ErrClock) {
		t.Errorf("state %+v, want it to say so", st)
	}
	if v, err := o.Simulate(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, ErrClock) {
		t.Errorf("Simulate = %v, %v, want ErrClock", v, err)
	}
	o.onTime()
	o.node.Mine(1)
	o.mustRound()
	o.sign(sess, nonce)
}

// A session whose usage the validator can't tell, as with two policies for one target, is still followed.
func TestStatusWithoutUsage(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	req := o.createRequest()
	req.Account, req.ChainID, req.Validator = o.account, chaintest.ChainID, config.SessionKeyValidator
	req.Spec.TransferPolicies = []policy.TransferSpec{
		{Target: target, MaxValuePerUse: *uint256.NewInt(50),
			ValueLimit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(100)}},
		{Target: target, MaxValuePerUse: *uint256.NewInt(50), ValueLimit: policy.UsageLimit{LimitType: policy.Lifetime}},
	}
	sess, err := o.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range sess.Spec.RegistryQueries() {
		o.node.SetRegistry(q, policy.Allowed)
	}
	o.node.CreateSession(o.account, sess.Spec)
	o.onTime()
	o.mustRound()
	o.want(sess, Active)
	nonce := o.node.Nonce(o.account)
	o.land(sess, nonce, o.sign(sess, nonce))
	o.mustRound()
	if seen, _ := o.watcher.Seen(sess); !errors.Is(seen.Err, chain.ErrReverted) || seen.Status != chain.Active {
		t.Errorf("seen %+v, want Active and why the usage is not known", seen)
	}
	if used, _ := o.fees(sess); used != 10 {
		t.Errorf("%d of fees used, want what was signed, 10", used)
	}
	o.node.Revoke(o.account, sess.Hash)
	o.onTime()
	o.mustRound()
	o.want(sess, Closed)
}
