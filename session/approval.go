package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

// Errors about approvals.
var (
	// ErrNotApproved: a guard rule wants an approval, and nobody has decided yet. Nothing was counted or recorded.
	// [Signer.AwaitApproval] waits for the decision.
	ErrNotApproved = errors.New("a guard rule wants an operator's approval")
	// ErrNotVoter: this peer may not vote on approvals.
	ErrNotVoter = errors.New("only root and the group of operators in the configuration may vote on approvals")
	// ErrNoApproval: no request of that id waits for an approval. It may have been decided, or its time may be over.
	ErrNoApproval = errors.New("no request of that id waits for an approval")
	// ErrApprovalsFull: so many requests wait for an approval that one more can't. Retry after a pause.
	ErrApprovalsFull = fmt.Errorf("%w: too many requests wait for an operator's approval", ErrOverloaded)
)

// WaitsForApproval is what a client is told that its request waits for.
const WaitsForApproval = "waiting for an operator's approval (keyward approve)"

// ApprovalConfig says who approves what guard rules want approved, and how long a request waits for that.
type ApprovalConfig struct {
	Voters   *Client       // a group whose members may vote, besides root; nil: the agent's own user may
	Required int           // yes votes of different voters; 0: 1. A single no denies
	Timeout  time.Duration // that a request waits, and that a decision is kept for the same digest; 0: 5 minutes
	OwnVotes bool          // a user may vote on requests of its own programs
	Deciders []Decider     // programs that vote
}

// Decider is a program that votes on requests, as one of the voters.
type Decider struct {
	Name string // the voter in records, such as "hook"
	// Decide returns the program's vote. An error is no vote. It must return soon after ctx ends, and is called
	// concurrently.
	Decide func(ctx context.Context, a *Approval) (yes bool, err error)
}

func (c *ApprovalConfig) required() int { return max(1, c.Required) }

func (c *ApprovalConfig) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return 5 * time.Minute
}

// Approval is a request that waits for one.
type Approval struct {
	ID       string // 32 hex digits, random
	Session  ID
	Digest   policy.Hash
	Peer     audit.Peer // the first that asked
	Method   string     // that it called
	Tx       *zktx.Transaction
	Rules    string       // the version of the guard rules
	Needs    []rules.Need // the rules that want it
	Charges  []policy.Charge
	AskedAt  time.Time
	Until    time.Time // it is denied then
	Required int       // yes votes
	Votes    []Vote
}

// Vote is an operator's word on a request. It is on disk.
type Vote struct {
	By  string // "uid:N", or a decider's name
	Yes bool
	At  time.Time
}

// AwaitApproval waits until the request, for which [Signer.Sign] returned [ErrNotApproved], is decided. It holds no
// device and nothing of the ledger meanwhile. After nil the caller calls Sign again, which judges everything again and
// finds the decision. The same digest asked for again joins the request that waits.
//
// ctx needs no deadline: the time of the approval is bounded. Errors: a *policy.Denial by a voter or since the time is
// over, [ErrApprovalsFull], [ErrLocked], what Sign returns for a session that has ended, or the context's.
func (s *Signer) AwaitApproval(ctx context.Context, peer audit.Peer, req *SignRequest) error {
	sess, err := s.find(peer, req)
	if err != nil {
		return s.refuseAccess(ctx, peer, req, err)
	}
	j := s.judge(peer, sess, req)
	rec := s.grantRecord(peer, req, j)
	if j.refused == nil { // operators are not asked about what a limit refuses
		j.charges, j.refused = s.Sessions.ledger.Preview(sess.ID, j.grant())
	}
	if j.refused != nil {
		return s.deny(ctx, rec, j, req.Tx, j.refused)
	}
	if !j.unapproved {
		return nil
	}
	if tell := backends.Waiting(ctx); tell != nil {
		tell(WaitsForApproval)
		defer tell("")
	}
	if err := s.awaitDecision(ctx, peer, req, j); err != nil {
		return s.deny(ctx, rec, j, req.Tx, err)
	}
	return nil
}

// awaitDecision joins or makes the request's approval and waits for its end.
func (s *Signer) awaitDecision(ctx context.Context, peer audit.Peer, req *SignRequest, j *judgement) error {
	p, made, err := s.Sessions.approvals.join(s.Sessions, &Approval{
		Session: j.sess.ID, Digest: j.digest, Peer: peer, Method: req.Method, Tx: req.Tx, Rules: j.rules,
		Needs: j.guard.Approvals, Charges: j.charges, AskedAt: j.at.UTC(),
	})
	if err != nil {
		return err
	}
	// A lock or revoke that came before the request was in the book did not find it there.
	if s.Locked() {
		s.Sessions.approvals.end(p, ErrLocked, reasonLocked)
	} else if now, err := s.Sessions.Get(j.sess.ID); err != nil || !now.signs() {
		s.Sessions.approvals.end(p, notActive(now), string(Revoked))
	}
	if made {
		if err := s.Sessions.announce(ctx, p, req, j); err != nil {
			s.Sessions.approvals.end(p, err, "not recorded")
			return err
		}
	}
	select {
	case <-p.done:
		return p.outcome
	case <-ctx.Done():
		return fmt.Errorf("waiting for an approval: %w", ctx.Err())
	}
}

// announce records that a request waits, and has the deciders look at it.
func (s *Sessions) announce(ctx context.Context, p *waitingApproval, req *SignRequest, j *judgement) error {
	rec := s.record(audit.ApprovalAsked, &p.Peer, j.sess)
	rec.Method, rec.Digest, rec.Transaction = req.Method, j.digest.String(), brief(req.Tx)
	rec.Detail = map[string]any{"id": p.ID, "rules": needed(p.Needs), "required": p.Required, "until": p.Until}
	if err := s.Record(ctx, *rec); err != nil {
		return err
	}
	for _, d := range s.cfg.Approval.Deciders {
		s.approvals.running.Go(func() { s.consult(p, d) })
	}
	return nil
}

// consult takes a decider's vote.
func (s *Sessions) consult(p *waitingApproval, d Decider) {
	ctx, cancel := context.WithDeadline(p.open, p.deadline)
	defer cancel()
	shown := s.approvals.show(p)
	yes, err := d.Decide(ctx, &shown)
	if err == nil {
		err = s.vote(ctx, nil, d.Name, p, yes)
	}
	if err != nil && ctx.Err() == nil {
		s.cfg.Logger.Warn("no vote on an approval", "by", d.Name, "approval", p.ID, "error", err)
	}
}

// MayVote reports whether peer may vote on approvals. The kernel says which user and groups it has.
func (s *Sessions) MayVote(peer audit.Peer) bool {
	if voters := s.cfg.Approval.Voters; voters != nil {
		return peer.UID == 0 || voters.Is(peer)
	}
	return peer.UID == 0 || peer.UID == uint32(os.Geteuid())
}

// AwaitsApproval reports whether a request of the session waits for an approval.
func (s *Sessions) AwaitsApproval(id ID) bool {
	return slices.ContainsFunc(s.Approvals(), func(a Approval) bool { return a.Session == id })
}

// Approvals returns the requests that wait for an approval, oldest first.
func (s *Sessions) Approvals() []Approval { return s.approvals.list() }

// Approval returns the request with that id that waits, or [ErrNoApproval].
func (s *Sessions) Approval(id string) (*Approval, error) {
	p := s.approvals.find(id)
	if p == nil {
		return nil, fmt.Errorf("%q: %w", clip(id, 64), ErrNoApproval)
	}
	a := s.approvals.show(p)
	return &a, nil
}

// Vote takes peer's vote on the request with that id. It is on disk when Vote returns, and counted unless the request
// ended before. All votes of one user are one: a yes counts once, and a no denies, also after a yes of the same user.
//
// Errors: [ErrNotVoter], [ErrNoApproval], [ErrInvalid], [ErrHalted], or the context's.
func (s *Sessions) Vote(ctx context.Context, peer audit.Peer, id string, yes bool) error {
	if !s.MayVote(peer) {
		rec := audit.Record{Event: audit.AccessRefused, Peer: &peer, Method: "approve_vote"}
		return s.refused(ctx, rec, "notVoter", ErrNotVoter)
	}
	p := s.approvals.find(id)
	if p == nil {
		return fmt.Errorf("%q: %w", clip(id, 64), ErrNoApproval)
	}
	if !s.cfg.Approval.OwnVotes && s.approvals.asks(p, peer.UID) {
		return fmt.Errorf("%w: a program of uid %d asks, so that user has no vote on it; another operator has to decide",
			ErrInvalid, peer.UID)
	}
	return s.vote(ctx, &peer, Client{ID: peer.UID}.String(), p, yes)
}

// vote records a vote, then counts it.
func (s *Sessions) vote(ctx context.Context, peer *audit.Peer, by string, p *waitingApproval, yes bool) error {
	if s.approvals.voted(p, by, yes) {
		return nil
	}
	rec := audit.Record{Event: audit.ApprovalVoted, Peer: peer, Session: string(p.Session), Digest: p.Digest.String()}
	rec.Detail = map[string]any{"id": p.ID, "by": by, "approve": yes}
	if err := s.Record(ctx, rec); err != nil {
		return err
	}
	if !s.approvals.count(p, Vote{By: by, Yes: yes, At: s.cfg.Now().UTC()}) {
		return fmt.Errorf("%q: %w", p.ID, ErrNoApproval)
	}
	return nil
}

// needed are the names of the rules, and their messages.
func needed(needs []rules.Need) (names []string) {
	for _, n := range needs {
		name := strconv.Quote(n.Rule)
		if n.Message != "" {
			name += ": " + n.Message
		}
		names = append(names, name)
	}
	return names
}
