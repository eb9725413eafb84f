package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/policy"
)

// Errors that callers test for with errors.Is.
var (
	// ErrUnknownSigner: no session of that name, signer or account that this peer may use.
	// One error for both, so that a peer can't probe for sessions of others.
	ErrUnknownSigner = errors.New("unknown signer, or not one this client may use")
	// ErrAmbiguous: several sessions can sign for the account; the request has to name one. What wraps it
	// names those that the client may use, and no others.
	ErrAmbiguous = errors.New("several sessions fit")
	// ErrInvalid wraps what is wrong with an operator's request.
	ErrInvalid = errors.New("invalid request")
	// ErrHalted: the ledger or the audit trail could not be written, so nothing is
	// signed until the agent is started again. What wraps it says what failed.
	ErrHalted = errors.New("state could not be written; nothing is signed until the agent is restarted")
)

// ReasonBlocked is the reason of the denial of every transaction of a session of which the policy
// registry does not allow a policy any more. It is part of the protocol.
const (
	ReasonBlocked = "blockedByRegistry"
)

// Config is what [Open] needs.
type Config struct {
	// directory, made together with the audit trail if both are missing; its older form is this path and .db
	LedgerPath string
	AuditPath  string // JSON lines: the trail's newest segment, with the older ones beside it
	// file with what devices have counted; "": what they counted before the process began is not known
	CountsPath string
	// file whose existence says that the agent is locked; "": a lock ends with the process
	LockPath     string
	Backends     map[string]backends.Backend // by name in the configuration
	ExpiryMargin time.Duration               // a session ends this long before its spec's expiresAt
	KeyGrace     time.Duration               // an ended session's key is destroyed after this
	WarnAhead    time.Duration               // of limits that run out and sessions that end; 0: no warnings
	MaxLifetime  time.Duration               // longer ones are warned of when they are made; 0: none is
	Now          func() time.Time            // nil: time.Now
	FS           durable.FS                  // that all of these paths are on; nil: durable.OS

	// RefusalsPerSecond is how many refusals get an audit record of their own, of all clients together; the others are
	// counted. RefusalBurst is how many may come together. 0: 20 a second and 2000.
	RefusalsPerSecond float64
	RefusalBurst      int

	Approval ApprovalConfig

	SegmentBytes int64         // size at which a new segment of the audit trail begins; 0: 64 MiB
	SegmentAge   time.Duration // of its first record, at which a new one begins with the next record; 0: any

	Logger *slog.Logger // nil: slog.Default

	// Observe is told how long each stage of the work took; nil: nobody is. It must not block and is called concurrently.
	Observe func(stage Stage, took time.Duration)
}

// Sessions is every session of an agent, on disk and in memory, with one configuration. Methods are safe
// for concurrent use. Every change is recorded in the audit trail and durable when the
// method returns.
type Sessions struct {
	cfg    Config
	queues map[string]*queue // by backend; guarded by keysMu
	*state
}

// state is what the configurations of an agent have in common; see [Sessions.With].
type state struct {
	ledger   *Ledger
	nudge    chan struct{} // tells Run that there may be something to do
	forecast *forecast
	refusals *refusals
	counts   counters
	counted  *deviceCounts

	approvals *approvals

	lockFile sync.Mutex // held while the lock file changes; taken before Ledger.mu
	copying  sync.Mutex // held while the ledger is copied

	keysMu   sync.Mutex
	keys     map[ID]heldKey // found before
	creating map[ID]bool    // being created: Run leaves their intents alone
}

// heldKey is a key and the backend that found it.
type heldKey struct {
	backend backends.Backend
	key     backends.Key
}

// Open opens or makes the state. It refuses state that is missing, cut short or older than
// the audit trail's last record; the error says how to repair it: [ErrInUse], [ErrDamaged],
// audit.ErrDamaged, audit.ErrAhead.
func Open(cfg Config) (*Sessions, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.FS == nil {
		cfg.FS = durable.OS
	}
	fresh, err := checkFresh(&cfg)
	if err != nil {
		return nil, err
	}
	l, err := openLedger(cfg.FS, cfg.LedgerPath, cfg.AuditPath)
	if err != nil {
		return nil, err
	}
	l.rotateAt(&cfg)
	markUsed(&cfg, fresh)
	l.observe.Store(&cfg)
	l.locked = lockedOn(cfg.FS, cfg.LockPath)
	s := &Sessions{cfg: cfg, queues: map[string]*queue{}, state: &state{
		ledger: l, nudge: make(chan struct{}, 1), forecast: newForecast(), keys: map[ID]heldKey{}, creating: map[ID]bool{},
		approvals: newApprovals(),
	}}
	l.index.startSchedule(s.dueAt)
	s.refusals = newRefusals(s)
	s.counted = s.loadCounts()
	return s, nil
}

// Close makes what waits durable and closes the files. Backends are not closed.
func (s *Sessions) Close() error {
	s.approvals.close()
	s.approvals.running.Wait()
	s.refusals.close()
	return s.ledger.close()
}

// Activate says that the owner has approved the session on chain.
func (s *Sessions) Activate(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	return s.move(ctx, &by, id, Active, audit.SessionActive, nil)
}

// Revoke ends a session here: no signature is released once it returns.
func (s *Sessions) Revoke(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	return s.move(ctx, &by, id, Revoked, audit.SessionRevoked, nil)
}

// CloseSession says that the owner ended the session on chain.
func (s *Sessions) CloseSession(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	return s.move(ctx, &by, id, Closed, audit.SessionClosed, nil)
}

// move brings a session to status to. by is nil when the agent itself does it; detail says why then.
//
// A person may ask again, since the answer to the first time was lost: that changes nothing, and is answered when the
// first is on disk, as its own record in the trail is behind that one.
func (s *Sessions) move(ctx context.Context, by *audit.Peer, id ID, to Status, event audit.Event, detail any) (*Session,
	error) {
	now := s.cfg.Now().UTC()
	again := false
	next, err := s.change(ctx, id, by, event, detail, func(sess *Session) error {
		if again = by != nil && sess.Status == to; again {
			return nil
		}
		if !sess.Status.mayBecome(to) {
			return fmt.Errorf("%w: session %s is %s and can't become %s", ErrInvalid, id, sess.Status, to)
		}
		if to == Active && s.pastExpiry(sess, now) {
			return fmt.Errorf("%w: session %s has expired", ErrInvalid, id)
		}
		sess.Status = to
		if to == Active {
			sess.ActivatedAt = now
		} else {
			sess.EndedAt = now
		}
		return nil
	})
	if err == nil { // after an error, Run would try again without a pause
		s.wakeRun()
	}
	if err == nil && !again && to == Active && next.Predecessor != "" {
		err = s.succeeded(ctx, next)
	}
	return next, err
}

// mayBecome says which steps a session's life has.
func (s Status) mayBecome(to Status) bool {
	return s == Pending && to != Pending || s == Active && to.Ended()
}

// change edits a copy of a session and makes it the session, in memory at once and on
// disk with its record when change returns. If the session stops signing, no signature
// of it is handed to write(2) after that.
func (s *Sessions) change(ctx context.Context, id ID, by *audit.Peer, event audit.Event, detail any,
	edit func(*Session) error) (*Session, error) {
	l := s.ledger
	l.mu.Lock()
	b := l.books[id]
	if b == nil {
		l.mu.Unlock()
		return nil, fmt.Errorf("session %q: %w", id, ErrUnknownSigner)
	}
	next := *l.index.whole(b.listed)
	if err := edit(&next); err != nil {
		l.mu.Unlock()
		return nil, err
	}
	e := &entry{rec: s.record(event, by, &next), change: &change{id: id, session: &next}}
	if !next.KeyDestroyedAt.IsZero() { // nothing can be signed any more
		e.change.forget.nonce = math.MaxUint64
	}
	e.rec.Detail = detail
	err := l.enqueueLocked(e)
	stops := err == nil && !next.signs() // also again: the first may still wait for its writers
	if err == nil {
		l.index.put(&next)
	}
	if stops {
		b.version++
	}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	err = e.wait(ctx)
	if stops {
		s.approvals.endAll(id, notActive(&next), next.stopReason())
		l.awaitWriters(id)
	}
	return &next, err
}

// record starts an audit record about sess.
func (s *Sessions) record(event audit.Event, by *audit.Peer, sess *Session) *audit.Record {
	return &audit.Record{
		Time: s.cfg.Now().UTC(), Event: event, Peer: by,
		Session: string(sess.ID), Signer: sess.Signer().String(),
		KeyURI: sess.KeyURI, Protection: string(sess.Protection),
	}
}

// Get returns the session with that ID, or ErrUnknownSigner.
func (s *Sessions) Get(id ID) (*Session, error) {
	if sess := s.ledger.index.get(id); sess != nil {
		return sess, nil
	}
	return nil, fmt.Errorf("session %q: %w", id, ErrUnknownSigner)
}

// BySigner returns the session with that signer, or ErrUnknownSigner.
func (s *Sessions) BySigner(signer policy.Address) (*Session, error) {
	if sess := s.ledger.index.signer(signer); sess != nil {
		return sess, nil
	}
	return nil, fmt.Errorf("signer %s: %w", signer, ErrUnknownSigner)
}

// Outstanding is the number of nonces that were signed for and not settled on chain.
func (s *Sessions) Outstanding(id ID) (n int, err error) {
	last, _ := s.ledger.settledOf(id)
	err = s.ledger.store.liabilities(id, last.nonce(), math.MaxUint64, func(uint64, costs) error { n++; return nil })
	return n, err
}

// Record writes an audit record and returns when it is on disk. A zero Time becomes now.
func (s *Sessions) Record(ctx context.Context, rec audit.Record) error {
	_, err := s.numbered(ctx, rec)
	return err
}

// numbered is Record, and returns the record's number.
func (s *Sessions) numbered(ctx context.Context, rec audit.Record) (number uint64, err error) {
	if rec.Time.IsZero() {
		rec.Time = s.cfg.Now().UTC()
	}
	e := &entry{rec: &rec}
	if err := s.enqueue(ctx, e); err != nil {
		return 0, err
	}
	return e.seq, nil
}

// enqueue returns when e is on disk.
func (s *Sessions) enqueue(ctx context.Context, e *entry) error {
	s.ledger.mu.Lock()
	err := s.ledger.enqueueLocked(e)
	s.ledger.mu.Unlock()
	if err != nil {
		return err
	}
	return e.wait(ctx)
}

// AuditHead identifies the last record that is on disk.
func (s *Sessions) AuditHead() audit.Head {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.head
}

// Halted returns ErrHalted with what failed, once the state could not be written; else nil.
func (s *Sessions) Halted() error {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.halted
}

// SignsUntil is the last second in which sess signs: its spec's expiresAt less the
// operator's margin. It ends with the year 9999, which is the last that RFC 3339 can write.
func (s *Sessions) SignsUntil(sess *Session) time.Time {
	last := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	expires := sess.expiresAt()
	if expires > uint64(last.Unix()) {
		return last
	}
	return time.Unix(int64(expires), 0).UTC().Add(-s.cfg.ExpiryMargin)
}

// pastExpiry compares whole seconds, as the chain does with block times.
func (s *Sessions) pastExpiry(sess *Session, now time.Time) bool {
	return now.Unix() > s.SignsUntil(sess).Unix()
}

// expired is the denial for a session past its end.
func (s *Sessions) expired(sess *Session) *policy.Denial {
	d := policy.SessionNotActive(fmt.Sprintf("session %s signs until %s, %v before it expires on chain",
		sess.ID, s.SignsUntil(sess).Format(time.RFC3339), s.cfg.ExpiryMargin))
	d.Reason = policy.ReasonSessionExpired
	return d
}

// notActive is the denial for a session that can't sign in its present state; nil is none.
func notActive(sess *Session) *policy.Denial {
	switch {
	case sess == nil:
		return policy.SessionNotActive("there is no such session")
	case sess.Status == Pending:
		return policy.SessionNotActive(fmt.Sprintf("session %s is pending until its owner has approved it on chain "+
			"and the agent has seen it there, or the operator has said so (keyward session activate)", sess.ID))
	case sess.Status == Active && sess.Blocked != "":
		return &policy.Denial{
			Reason: ReasonBlocked, Policy: -1, Constraint: -1,
			Detail: fmt.Sprintf("session %s is stopped: the policy registry does not allow %s", sess.ID, sess.Blocked),
		}
	}
	return policy.SessionNotActive(fmt.Sprintf("session %s is %s since %s", sess.ID, sess.Status,
		sess.EndedAt.Format(time.RFC3339)))
}
