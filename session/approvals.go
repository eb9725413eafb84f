package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// Bounds of the book of approvals. A decision that falls out of it has to be made again.
const (
	maxWaitingApprovals = 128
	maxWaitingPerUser   = 32
	maxKeptDecisions    = 1024
)

// approvals is the book of requests that wait for an approval, and of decisions of late. It is in memory only: after a
// restart the votes are in the audit trail, and a request has to be approved again. Safe for concurrent use.
//
// A decision is about one digest of one session under one version of the guard rules. A yes lets that digest be signed
// until the decision is forgotten. A no keeps a client from asking the operators again and again.
type approvals struct {
	running sync.WaitGroup // deciders

	mu      sync.Mutex
	waiting map[approvalKey]*waitingApproval
	decided map[approvalKey]*decision
	closed  bool // nothing waits any more
}

type approvalKey struct {
	session ID
	digest  policy.Hash
	rules   string
}

// waitingApproval is an approval with its waiters.
type waitingApproval struct {
	Approval                 // Votes is guarded by approvals.mu
	of       *Sessions       // the configuration that it was asked under
	users    map[uint32]bool // whose programs ask
	deadline time.Time       // Until by the monotonic clock
	timer    *time.Timer     // ends it
	open     context.Context // ends with it; the deciders'
	close    func()
	done     chan struct{}
	outcome  error // why it is not approved; nil: it is. Final once done is closed
}

// decision is what was decided on a digest.
type decision struct {
	denied error // nil: approved
	until  time.Time
}

func newApprovals() *approvals {
	return &approvals{waiting: map[approvalKey]*waitingApproval{}, decided: map[approvalKey]*decision{}}
}

func (a *Approval) key() approvalKey { return approvalKey{a.Session, a.Digest, a.Rules} }

// decision returns what was decided on what a key names. known is false if nobody has decided, or the decision is too
// old.
func (b *approvals) decision(key approvalKey) (known bool, denied error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := b.decided[key]
	if d == nil || !time.Now().Before(d.until) {
		return false, nil
	}
	return true, d.denied
}

// join returns the approval of a request, which waits already or from now on. made says that it is new. Once the book
// is closed, what it returns has ended.
func (b *approvals) join(s *Sessions, a *Approval) (p *waitingApproval, made bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p = b.waiting[a.key()]
	if p == nil {
		if p, err = b.addLocked(s, a); err != nil {
			return nil, false, err
		}
		made = true
	}
	p.users[a.Peer.UID] = true
	return p, made, nil
}

func (b *approvals) addLocked(s *Sessions, a *Approval) (*waitingApproval, error) {
	own := 0
	for _, p := range b.waiting {
		if p.Peer.UID == a.Peer.UID {
			own++
		}
	}
	if len(b.waiting) >= maxWaitingApprovals || own >= maxWaitingPerUser {
		return nil, fmt.Errorf("%w: %d do, %d of them for uid %d", ErrApprovalsFull, len(b.waiting), own, a.Peer.UID)
	}
	timeout := s.cfg.Approval.timeout()
	p := &waitingApproval{Approval: *a, of: s, users: map[uint32]bool{}, done: make(chan struct{}),
		deadline: time.Now().Add(timeout)}
	p.open, p.close = context.WithCancel(context.Background())
	id := make([]byte, 16)
	_, _ = rand.Read(id) // never fails
	p.ID, p.Required, p.Until = hex.EncodeToString(id), s.cfg.Approval.required(), a.AskedAt.Add(timeout)
	p.timer = time.AfterFunc(timeout, func() {
		b.end(p, guardNeed(&p.Approval, fmt.Sprintf("nobody approved it within %v", timeout)), "timed out")
	})
	b.waiting[a.key()] = p
	if b.closed {
		b.removeLocked(p)
		p.finish(errStopping)
	}
	return p, nil
}

// errStopping ends what waits when the agent stops.
var errStopping = fmt.Errorf("%w: the agent is stopping", context.Canceled)

// guardNeed is the denial by the rules that want an approval.
func guardNeed(a *Approval, why string) error {
	return &policy.Denial{
		Reason: ReasonGuardRule, Policy: -1, Constraint: -1,
		Detail: fmt.Sprintf("guard rule %s: %s", strings.Join(needed(a.Needs), ", "), why),
	}
}

// find returns the request with that id that waits, or nil.
func (b *approvals) find(id string) *waitingApproval {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.waiting {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// asks reports whether a program of user uid waits for p.
func (b *approvals) asks(p *waitingApproval, uid uint32) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return p.users[uid]
}

// voted reports whether by has voted so before, and p still waits.
func (b *approvals) voted(p *waitingApproval, by string, yes bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.waiting[p.key()] == p && slices.ContainsFunc(p.Votes, func(v Vote) bool { return v.By == by && v.Yes == yes })
}

// count counts a vote that is on disk. It returns false if p does not wait any more, or its time is over.
func (b *approvals) count(p *waitingApproval, v Vote) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting[p.key()] != p || !time.Now().Before(p.deadline) {
		return false
	}
	p.Votes = append(p.Votes, v)
	switch {
	case !v.Yes:
		b.decideLocked(p, guardNeed(&p.Approval, "denied by "+v.By))
	case p.approvalsLocked() >= p.Required:
		b.decideLocked(p, nil)
	}
	return true
}

// approvalsLocked is how many voters have said yes. A user whose programs ask is none of them, unless the configuration
// says so.
func (p *waitingApproval) approvalsLocked() int {
	by := map[string]bool{}
	for _, v := range p.Votes {
		by[v.By] = v.Yes
	}
	if !p.of.cfg.Approval.OwnVotes {
		for uid := range p.users {
			delete(by, Client{ID: uid}.String())
		}
	}
	return len(by)
}

// decideLocked ends p and keeps the decision.
func (b *approvals) decideLocked(p *waitingApproval, denied error) {
	now := time.Now()
	maps.DeleteFunc(b.decided, func(_ approvalKey, d *decision) bool { return !now.Before(d.until) })
	if len(b.decided) >= maxKeptDecisions {
		for key := range b.decided {
			delete(b.decided, key)
			break
		}
	}
	b.decided[p.key()] = &decision{denied, now.Add(p.of.cfg.Approval.timeout())}
	b.removeLocked(p)
	p.finish(denied)
}

// removeLocked takes p out of the book. The caller, if it returns true, calls finish.
func (b *approvals) removeLocked(p *waitingApproval) bool {
	if b.waiting[p.key()] != p {
		return false
	}
	delete(b.waiting, p.key())
	p.timer.Stop()
	return true
}

// finish lets the waiters go on.
func (p *waitingApproval) finish(outcome error) {
	p.outcome = outcome
	p.close()
	close(p.done)
}

// end ends p without a decision, and puts a record of that in line.
func (b *approvals) end(p *waitingApproval, outcome error, why string) {
	b.mu.Lock()
	ended := b.removeLocked(p)
	b.mu.Unlock()
	if !ended {
		return
	}
	defer p.finish(outcome) // after the record is in line, before those of the waiters
	rec := &audit.Record{Time: p.of.cfg.Now().UTC(), Event: audit.ApprovalEnded, Session: string(p.Session),
		Digest: p.Digest.String()}
	rec.Detail = map[string]any{"id": p.ID, "why": why}
	l := p.of.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enqueueLocked(&entry{rec: rec}); err != nil {
		p.of.cfg.Logger.Error("the audit trail lacks the end of an approval", "approval", p.ID, "why", why, "error", err)
	}
}

// endAll ends what waits for an approval, of session id or of all sessions if id is "", and forgets what was decided.
func (b *approvals) endAll(id ID, outcome error, why string) {
	b.mu.Lock()
	var waiting []*waitingApproval
	for key, p := range b.waiting {
		if id == "" || key.session == id {
			waiting = append(waiting, p)
		}
	}
	maps.DeleteFunc(b.decided, func(key approvalKey, _ *decision) bool { return id == "" || key.session == id })
	b.mu.Unlock()
	for _, p := range waiting {
		b.end(p, outcome, why)
	}
}

// StopApprovals ends what waits for an approval, now and later: the agent stops.
func (s *Sessions) StopApprovals() { s.approvals.close() }

// close ends what waits, now and later.
func (b *approvals) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.endAll("", errStopping, "the agent stops")
}

// list returns copies of what waits, oldest first.
func (b *approvals) list() []Approval {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]Approval, 0, len(b.waiting))
	for _, p := range b.waiting {
		all = append(all, p.copyLocked())
	}
	slices.SortFunc(all, func(a, b Approval) int { return cmp.Or(a.AskedAt.Compare(b.AskedAt), cmp.Compare(a.ID, b.ID)) })
	return all
}

func (b *approvals) show(p *waitingApproval) Approval {
	b.mu.Lock()
	defer b.mu.Unlock()
	return p.copyLocked()
}

func (p *waitingApproval) copyLocked() Approval {
	a := p.Approval
	a.Votes = slices.Clone(p.Votes)
	return a
}
