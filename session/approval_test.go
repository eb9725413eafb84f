package session

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

var (
	alice    = audit.Peer{UID: 2001, GID: 2001, Groups: []uint32{60}}
	bob      = audit.Peer{UID: 2002, GID: 60}
	rootPeer = audit.Peer{UID: 0}
	outsider = audit.Peer{UID: 2003, GID: 2003, Groups: []uint32{61}}
)

// approving has all transactions wait for an approval by required members of group 60.
func (a *agent) approving(t *testing.T, required int, timeout time.Duration, deciders ...Decider) {
	t.Helper()
	a.Sessions.cfg.Approval = ApprovalConfig{Voters: &Client{Group: true, ID: 60}, Required: required, Timeout: timeout, Deciders: deciders}
	a.guard(t, rules.Rule{Name: "ask", When: "true", Then: rules.Approve, Message: "people decide"})
}

// signApproved is what a server does: sign, and where an approval is needed wait for it and sign again.
func (a *agent) signApproved(ctx context.Context, req *SignRequest) (*Signed, error) {
	signed, err := a.Sign(ctx, app, req)
	if !errors.Is(err, ErrNotApproved) {
		return signed, err
	}
	if err := a.AwaitApproval(ctx, app, req); err != nil {
		return nil, err
	}
	return a.Sign(ctx, app, req)
}

// begin has req signed in the background, and returns its approval's id once it waits.
func (a *agent) begin(t *testing.T, req *SignRequest) (id string, result chan error) {
	t.Helper()
	result = make(chan error, 1)
	go func() {
		_, err := a.signApproved(t.Context(), req)
		result <- err
	}()
	digest := req.Tx.Digest()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		for _, w := range a.Approvals() {
			if w.Digest == digest {
				return w.ID, result
			}
		}
	}
	t.Fatal("the request does not wait for an approval")
	return "", nil
}

func (a *agent) mustVote(t *testing.T, by audit.Peer, id string, yes bool) {
	t.Helper()
	if err := a.Vote(t.Context(), by, id, yes); err != nil {
		t.Fatalf("vote of uid %d: %v", by.UID, err)
	}
}

// waits fails if the request of result is over.
func waits(t *testing.T, result chan error) {
	t.Helper()
	select {
	case err := <-result:
		t.Fatalf("it does not wait any more: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
}

func (a *agent) trail(t *testing.T) string { return strings.Join(a.events(t), " ") }

// TestApprovalNeedsTwoOperators has one operator and root vote often, and outsiders: all of it is less than two votes of operators.
func TestApprovalNeedsTwoOperators(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 2, time.Minute)
	id, result := a.begin(t, transfer(sess, 1))
	for range 3 {
		a.mustVote(t, alice, id, true)
	}
	for _, peer := range []audit.Peer{outsider, app, {UID: 60}, {UID: 2001, GID: 2001}} {
		if err := a.Vote(t.Context(), peer, id, true); !errors.Is(err, ErrNotVoter) {
			t.Errorf("%+v votes: %v", peer, err)
		}
	}
	waits(t, result)
	a.mustVote(t, rootPeer, id, true)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	want := "approval.asked approval.voted access.refused access.refused access.refused access.refused approval.voted sign.granted"
	if got := a.trail(t); !strings.HasSuffix(got, want) {
		t.Errorf("trail %s\nwant its end %s", got, want)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
		t.Errorf("the same digest again: %v", err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 2)); !errors.Is(err, ErrNotApproved) {
		t.Errorf("another digest: %v", err)
	}
}

func TestRootIsOneVote(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 2, time.Minute)
	id, result := a.begin(t, transfer(sess, 1))
	var votes sync.WaitGroup
	for pid := range int32(50) {
		votes.Go(func() {
			if err := a.Vote(t.Context(), audit.Peer{UID: 0, GID: uint32(pid), PID: pid}, id, true); err != nil {
				t.Error(err)
			}
		})
	}
	votes.Wait()
	waits(t, result)
	a.mustVote(t, bob, id, false) // one no denies, whatever the yes votes
	wantDenial(t, <-result, ReasonGuardRule)
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err == nil || !strings.Contains(err.Error(), "denied by uid:2002") {
		t.Errorf("asked again: %v, want the same denial without a new vote", err)
	}
	if n, err := a.Outstanding(sess.ID); n != 0 || err != nil {
		t.Errorf("%d liabilities, %v", n, err)
	}
}

// TestNobodyApprovesTheirOwn has an operator whose own program asks.
func TestNobodyApprovesTheirOwn(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, time.Minute)
	a.Sessions.cfg.Approval.Voters = &Client{ID: app.UID}
	id, result := a.begin(t, transfer(sess, 1))
	if err := a.Vote(t.Context(), app, id, true); !errors.Is(err, ErrInvalid) {
		t.Errorf("own vote: %v", err)
	}
	waits(t, result)
	a.Sessions.cfg.Approval.OwnVotes = true
	a.mustVote(t, app, id, true)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestVoteAfterTimeout(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, 200*time.Millisecond)
	id, result := a.begin(t, transfer(sess, 1))
	err := <-result
	wantDenial(t, err, ReasonGuardRule)
	if !strings.Contains(err.Error(), `guard rule "ask": people decide: nobody approved it within 200ms`) {
		t.Error(err)
	}
	if err := a.Vote(t.Context(), alice, id, true); !errors.Is(err, ErrNoApproval) {
		t.Errorf("a late vote: %v", err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); !errors.Is(err, ErrNotApproved) {
		t.Errorf("after a late vote: %v", err)
	}
	if got := a.trail(t); !strings.HasSuffix(got, "approval.asked approval.ended sign.denied") {
		t.Errorf("trail %s", got)
	}
}

// TestWhatEndsAWait locks, revokes, closes and stops the agent while a request waits.
func TestWhatEndsAWait(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(a *agent, sess *Session) error
		want func(error) bool
	}{
		{"lock", func(a *agent, _ *Session) error { return a.Lock() }, func(err error) bool { return errors.Is(err, ErrLocked) }},
		{"revoke", func(a *agent, s *Session) error { _, err := a.Revoke(t.Context(), operator, s.ID); return err }, isNotActive},
		{"close", func(a *agent, s *Session) error { _, err := a.CloseSession(t.Context(), operator, s.ID); return err }, isNotActive},
		{"expiry", func(a *agent, _ *Session) error {
			a.pass(48 * time.Hour)
			a.sweep(t.Context(), map[ID]bool{})
			return nil
		}, isNotActive},
		{"the end of the agent", func(a *agent, _ *Session) error { return a.Close() }, func(err error) bool { return errors.Is(err, context.Canceled) || errors.Is(err, ErrHalted) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAgent(t)
			sess := a.active(t)
			a.approving(t, 1, time.Hour)
			id, result := a.begin(t, transfer(sess, 1))
			if err := tc.do(a, sess); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-result:
				if !tc.want(err) {
					t.Errorf("the request got %v", err)
				}
			case <-time.After(30 * time.Second):
				t.Fatal("it still waits")
			}
			if err := a.Vote(t.Context(), alice, id, true); !errors.Is(err, ErrNoApproval) {
				t.Errorf("a vote after it: %v", err)
			}
		})
	}
}

func isNotActive(err error) bool {
	var d *policy.Denial
	return errors.As(err, &d) && d.Reason == policy.ReasonSessionNotActive
}

// TestLockForgetsApprovals approves a request and locks the agent before it is signed.
func TestLockForgetsApprovals(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, time.Hour)
	id, result := a.begin(t, transfer(sess, 1))
	a.mustVote(t, alice, id, true)
	<-result
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	if err := a.Unlock(a.LockVersion(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); !errors.Is(err, ErrNotApproved) {
		t.Errorf("after lock and unlock: %v", err)
	}
}

// TestJudgedAgainWhenReleased uses up the limit, changes the rules, or takes the client away while a request waits.
func TestJudgedAgainWhenReleased(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(t *testing.T, a *agent, sess *Session)
		want func(error) bool
	}{
		{"limit", func(t *testing.T, a *agent, sess *Session) {
			set := a.Guard.Load()
			a.guard(t)
			for nonce := range uint64(100) {
				if _, err := a.Sign(t.Context(), app, transfer(sess, 100+nonce)); err != nil {
					t.Fatal(err)
				}
			}
			a.Guard.Store(set)
		}, func(err error) bool { var d *policy.Denial; return errors.As(err, &d) && d.Reason != ReasonGuardRule }},
		{"rules", func(t *testing.T, a *agent, _ *Session) {
			a.guard(t, rules.Rule{Name: "stop", When: "true"})
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), `guard rule "stop"`) }},
		{"an approval of other rules", func(t *testing.T, a *agent, _ *Session) {
			a.guard(t, rules.Rule{Name: "ask", When: "1 == 1", Then: rules.Approve})
		}, func(err error) bool { return errors.Is(err, ErrNotApproved) }},
		{"client", func(t *testing.T, a *agent, sess *Session) {
			if _, err := a.SetClients(t.Context(), operator, sess.ID, []Client{{ID: 77}}); err != nil {
				t.Fatal(err)
			}
		}, func(err error) bool { return errors.Is(err, ErrUnknownSigner) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAgent(t)
			sess := a.active(t)
			a.approving(t, 1, time.Hour)
			id, result := a.begin(t, transfer(sess, 1))
			tc.do(t, a, sess)
			a.mustVote(t, alice, id, true)
			if err := <-result; !tc.want(err) {
				t.Errorf("released with %v", err)
			}
		})
	}
}

// TestRestartForgetsApprovals restarts the agent between the approval and the signature.
func TestRestartForgetsApprovals(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, time.Hour)
	id, result := a.begin(t, transfer(sess, 1))
	a.mustVote(t, alice, id, true)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	a.restart(t)
	a.approving(t, 1, time.Hour)
	if err := a.Vote(t.Context(), alice, id, true); !errors.Is(err, ErrNoApproval) {
		t.Errorf("a vote on what waited before: %v", err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); !errors.Is(err, ErrNotApproved) {
		t.Errorf("after a restart: %v", err)
	}
}

// TestWaitingIsBounded has 1,000 requests ask: a bounded number waits, nothing is charged, no device is held, and the
// same digest takes no further place.
func TestWaitingIsBounded(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	full, joined := 0, 0
	var requests sync.WaitGroup
	for i := range 1000 {
		requests.Go(func() {
			_, err := a.signApproved(ctx, transfer(sess, uint64(i)%500))
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, ErrApprovalsFull) && errors.Is(err, ErrOverloaded):
				full++
			case errors.Is(err, context.Canceled):
				joined++
			default:
				t.Errorf("request %d: %v", i, err)
			}
		})
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		mu.Lock()
		enough := full == 1000-2*maxWaitingPerUser
		mu.Unlock()
		if enough {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d turned away", full)
		}
	}
	if n := len(a.Approvals()); n != maxWaitingPerUser {
		t.Errorf("%d wait, want %d", n, maxWaitingPerUser)
	}
	if q := a.Queues()["soft"]; q.Busy != 0 || q.Waiting != 0 {
		t.Errorf("they hold the device: %+v", q)
	}
	cancel() // the clients leave
	requests.Wait()
	if n, err := a.Outstanding(sess.ID); n != 0 || err != nil {
		t.Errorf("%d liabilities, %v", n, err)
	}
	if full+joined != 1000 {
		t.Errorf("%d and %d", full, joined)
	}
}

// TestDecidersVote has programs vote: each is one voter, an error is no vote, and the programs end with the request.
func TestDecidersVote(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	asked := make(chan Approval, 1)
	hanging := make(chan struct{})
	a.approving(t, 2, time.Hour,
		Decider{"hook", func(_ context.Context, w *Approval) (bool, error) { asked <- *w; return true, nil }},
		Decider{"broken", func(context.Context, *Approval) (bool, error) { return true, fmt.Errorf("it crashed") }},
		Decider{"hanging", func(ctx context.Context, _ *Approval) (bool, error) { <-ctx.Done(); close(hanging); return true, nil }},
	)
	id, result := a.begin(t, transfer(sess, 1))
	if w := <-asked; w.ID != id || w.Digest != transfer(sess, 1).Tx.Digest() || w.Peer.UID != app.UID || len(w.Charges) == 0 {
		t.Errorf("the hook was asked %+v", w)
	}
	waits(t, result)
	a.mustVote(t, alice, id, true)
	if err := <-result; err != nil {
		t.Error(err)
	}
	<-hanging
	a.Sessions.approvals.running.Wait()
	if got := a.Approvals(); len(got) != 0 {
		t.Errorf("still waiting: %v", got)
	}
}

// TestLimitsComeBeforePeople asks for more than the limit: nobody is bothered.
func TestLimitsComeBeforePeople(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.approving(t, 1, time.Hour)
	req := transfer(sess, 1)
	req.Tx.GasLimit.SetUint64(1001)
	_, err := a.signApproved(t.Context(), req)
	wantDenial(t, err, policy.ReasonLifetimeExceeded)
	v, err := a.Simulate(t.Context(), app, transfer(sess, 1))
	if err != nil || v.Denial == nil || v.Denial.Reason != ReasonGuardRule || !strings.Contains(v.Denial.Detail, "has to approve") {
		t.Errorf("Simulate: %+v, %v", v, err)
	}
}
