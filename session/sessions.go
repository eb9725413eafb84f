package session

import (
	"context"
	"errors"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// Errors that callers test for with errors.Is.
var (
	// ErrUnknownSigner: no session of that name, signer or account that this peer may use.
	// One error for both, so that a peer can't probe for sessions of others.
	ErrUnknownSigner = errors.New("unknown signer, or not one this client may use")
	// ErrAmbiguous: several sessions fit; the request has to name one.
	ErrAmbiguous = errors.New("several sessions fit: name one")
	// ErrInvalid wraps what is wrong with an operator's request.
	ErrInvalid = errors.New("invalid request")
	// ErrHalted: the ledger or the audit trail could not be written, so nothing is
	// signed until the agent is started again. What wraps it says what failed.
	ErrHalted = errors.New("state could not be written; nothing is signed until the agent is restarted")
)

// Config is what [Open] needs.
type Config struct {
	LedgerPath   string                      // bbolt file, created if missing together with the audit trail
	AuditPath    string                      // JSON lines
	Backends     map[string]backends.Backend // by name in the configuration
	ExpiryMargin time.Duration               // a session ends this long before its spec's expiresAt
	KeyGrace     time.Duration               // an ended session's key is destroyed after this
	Now          func() time.Time            // nil: time.Now
}

// CreateRequest is what the operator gives to make a session.
type CreateRequest struct {
	Kind      Kind
	Spec      *policy.Spec   // without a signer
	Account   policy.Address // AGW only; of an EOA session it is the new signer
	ChainID   uint64
	Validator policy.Address // AGW only
	Clients   []Client       // at least one
	Backend   string         // "" if there is only one
}

// Usage is one limit of a session and what is left of it now.
type Usage struct {
	Tracker   policy.Tracker `json:"tracker"`
	Limit     policy.Decimal `json:"limit"`
	Used      policy.Decimal `json:"used"` // signed for, whether or not it landed
	Remaining policy.Decimal `json:"remaining"`
}

// Sessions is every session of an agent, on disk and in memory. Methods are safe
// for concurrent use. Every change is recorded in the audit trail and durable when the
// method returns.
type Sessions struct {
	_ struct{}
}

// Open opens or makes the state. It refuses state that is missing, cut short or older than
// the audit trail's last record; the error says how to repair it.
func Open(ctx context.Context, cfg Config) (*Sessions, error) { panic("to be written") }

// Close waits for what is in flight, then closes the files. Backends are not closed.
func (s *Sessions) Close() error { panic("to be written") }

// Run expires sessions and destroys keys when their time comes, until ctx is done.
func (s *Sessions) Run(ctx context.Context) { panic("to be written") }

// Create makes a key and a pending session around it; an EOA session, which nobody
// else has to approve, is active at once. Errors wrap [ErrInvalid], a *policy.Denial,
// or one of package backends.
func (s *Sessions) Create(ctx context.Context, by audit.Peer, req *CreateRequest) (*Session, error) {
	panic("to be written")
}

// Activate says that the owner has approved the session on chain.
func (s *Sessions) Activate(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	panic("to be written")
}

// Revoke ends a session here: nothing more is signed once it returns.
func (s *Sessions) Revoke(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	panic("to be written")
}

// CloseSession says that the owner ended the session on chain.
func (s *Sessions) CloseSession(ctx context.Context, by audit.Peer, id ID) (*Session, error) {
	panic("to be written")
}

// Get returns the session with that ID, or ErrUnknownSigner.
func (s *Sessions) Get(id ID) (*Session, error) { panic("to be written") }

// List returns all sessions, oldest first.
func (s *Sessions) List() []*Session { panic("to be written") }

// VisibleTo returns the sessions that peer may use and that have not ended, oldest first.
func (s *Sessions) VisibleTo(peer audit.Peer) []*Session { panic("to be written") }

// Usage returns each limit of the session with what is left of it now.
func (s *Sessions) Usage(id ID) ([]Usage, error) { panic("to be written") }

// Outstanding is the number of nonces that were signed for and not settled on chain.
func (s *Sessions) Outstanding(id ID) (int, error) { panic("to be written") }

// Record writes an audit record and returns when it is on disk.
func (s *Sessions) Record(ctx context.Context, rec audit.Record) error { panic("to be written") }

// AuditHead is the last record that is on disk: its number, from 1, and its SHA-256.
func (s *Sessions) AuditHead() (seq uint64, hash [32]byte) { panic("to be written") }
