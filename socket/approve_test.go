package socket

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

// startApproving starts an agent whose transfers wait for an approval, with a third socket.
func startApproving(t *testing.T, cfg session.ApprovalConfig) (a *agent, voters *goclient.Client, sess *api.Session) {
	t.Helper()
	a = startAgent(t)
	path := filepath.Join(t.TempDir(), "approve.sock")
	l := a.listen(path)
	a.start(l, a.Server.voters, make(chan error, 1))
	sess = a.session("agw", testSpec)
	a.approve(t, cfg)
	return a, a.dial(path), sess
}

// approve makes a view of the sessions with cfg, and a rule that wants approvals.
func (a *agent) approve(t *testing.T, cfg session.ApprovalConfig) {
	t.Helper()
	set, err := rules.Compile([]rules.Rule{{Name: "ask", When: "true", Then: rules.Approve}})
	if err != nil {
		t.Fatal(err)
	}
	next := a.Now().Config
	signer := &session.Signer{Sessions: next.Signer.Sessions.With(session.Config{
		Backends: map[string]backends.Backend{"memory": a.device}, ExpiryMargin: time.Minute, KeyGrace: time.Hour,
		Approval: cfg,
	}), Rules: next.Signer.Rules}
	signer.Guard.Store(set)
	next.Signer = signer
	if _, err := a.Renew(next, signer.LockVersion()); err != nil {
		t.Fatal(err)
	}
}

// waitingOne returns the one request that waits.
func waitingOne(t *testing.T, voters *goclient.Client) *api.Approval {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		list, err := voters.Approvals(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 {
			return list[0]
		}
	}
	t.Fatal("no request waits")
	return nil
}

// TestApproveSocket has a request wait longer than requests may take, be told to its client, and be signed after a vote
// on its digest.
func TestApproveSocket(t *testing.T) {
	a, voters, sess := startApproving(t, session.ApprovalConfig{OwnVotes: true, Timeout: time.Minute})
	a.Now().limits.RequestTimeout = 50 * time.Millisecond
	told := make(chan string, 4)
	app := a.dial(a.appPath)
	app.OnWaiting = func(what string) { told <- what }
	result := make(chan error, 1)
	go func() {
		_, err := app.SignTransaction(t.Context(), tx(nil))
		result <- err
	}()
	w := waitingOne(t, voters)
	if what := <-told; what != session.WaitsForApproval {
		t.Errorf("the client is told %q", what)
	}
	time.Sleep(100 * time.Millisecond) // longer than its time
	if s, err := a.app.Session(t.Context(), sess.ID); err != nil || s.Waiting != session.WaitsForApproval {
		t.Errorf("session_get: %+v, %v", s, err)
	}
	one, err := voters.Approval(t.Context(), w.ID)
	if err != nil || one.Risk == "" || len(one.Limits) == 0 || one.Client.UID != uint32(os.Getuid()) ||
		one.Rules[0].Name != "ask" {
		t.Errorf("approve_get: %+v, %v", one, err)
	}
	vote := api.ApprovalVote{ID: w.ID, Approve: true}
	if err := voters.Vote(t.Context(), vote); err == nil ||
		!strings.Contains(err.Error(), "has the digest "+w.Digest.String()) {
		t.Errorf("a vote on another digest: %v", err)
	}
	vote.Digest = w.Digest
	a.Now().limits.RequestTimeout = time.Minute
	if err := voters.Vote(t.Context(), vote); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	if what := <-told; what != "" {
		t.Errorf("the client is told %q at the end", what)
	}
	if err := voters.Vote(t.Context(), vote); err == nil || goclient.Details(err).Details().Reason != "noApproval" {
		t.Errorf("a vote afterwards: %v", err)
	}
}

// TestClientLeavesItsApproval closes the client's connection while its request waits: nothing is signed or counted, and
// the approval holds for the same request.
func TestClientLeavesItsApproval(t *testing.T) {
	a, voters, _ := startApproving(t, session.ApprovalConfig{OwnVotes: true, Timeout: time.Minute})
	app := a.dial(a.appPath)
	failed := make(chan error, 1)
	go func() {
		_, err := app.SignTransaction(t.Context(), tx(nil))
		failed <- err
	}()
	w := waitingOne(t, voters)
	app.Close()
	if err := <-failed; err == nil {
		t.Fatal("it was signed")
	}
	if err := voters.Vote(t.Context(), api.ApprovalVote{ID: w.ID, Digest: w.Digest, Approve: true}); err != nil {
		t.Fatal(err)
	}
	for a.Server.agent.quota.inUse(callsInFlight) != 0 { // the request ends
		time.Sleep(time.Millisecond)
	}
	if counts := a.Signer.Counts(); counts.Granted != 0 {
		t.Errorf("%d signatures for nobody", counts.Granted)
	}
	if _, err := a.app.SignTransaction(t.Context(), tx(nil)); err != nil {
		t.Errorf("the same request again: %v", err)
	}
}

// TestStrangersHaveNoVote connects to approve.sock as a user that is not in the group.
func TestStrangersHaveNoVote(t *testing.T) {
	a, _, _ := startApproving(t, session.ApprovalConfig{Voters: &session.Client{Group: true, ID: 987654}})
	if a.mayVote(audit.Peer{UID: 4711, GID: 4711}) || !a.mayVote(audit.Peer{UID: 4711, Groups: []uint32{987654}}) ||
		!a.mayVote(audit.Peer{UID: 0}) {
		t.Error("root and the group may vote, and no others")
	}
	reply := replyTo(session.ErrNotVoter, false)
	if reply.Code != api.CodeUnauthorized || reply.Details().Reason != "notOperator" {
		t.Errorf("a stranger is told %+v", reply)
	}
}

// TestShutdownEndsApprovals stops the agent while a request waits for an hour.
func TestShutdownEndsApprovals(t *testing.T) {
	a, voters, _ := startApproving(t, session.ApprovalConfig{OwnVotes: true, Timeout: time.Hour})
	failed := make(chan error, 1)
	go func() {
		_, err := a.app.SignTransaction(t.Context(), tx(nil))
		failed <- err
	}()
	waitingOne(t, voters)
	begun := time.Now()
	if err := a.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil || goclient.Details(err) == nil ||
		goclient.Details(err).Details().Reason != "restarting" {
		t.Errorf("the client got %v", err)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("it took %v", took)
	}
}
