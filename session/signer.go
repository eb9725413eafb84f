package session

import (
	"context"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// SignRequest asks for a signature over a transaction. Exactly one of Signer, Session
// and neither is given; with neither, Tx.From and Tx.ChainID have to fit one session.
type SignRequest struct {
	Signer  policy.Address // zero: not given
	Session ID             // "": not given
	Tx      *zktx.Transaction
	Method  string // as the client called it, for the audit trail
}

// Signed is a released signature. Charge and audit record are on disk.
type Signed struct {
	Session   *Session
	Digest    policy.Hash
	Signature [65]byte // R ‖ S ‖ V, low S, V 27 or 28
	PeriodIDs []uint64 // at the time of signing; nil for EOA
}

// Verdict is what [Signer.Simulate] finds.
type Verdict struct {
	Session   *Session
	Digest    policy.Hash
	Denial    *policy.Denial  // nil: signing would be allowed now
	Charges   []policy.Charge // what signing would count now
	PeriodIDs []uint64
}

// Signer is the only way to a session's key.
type Signer struct {
	Sessions *Sessions
}

// Sign judges, counts, records and signs, in that order of authority: see the
// steps in its body. Errors: [ErrUnknownSigner], [ErrAmbiguous], a *policy.Denial,
// [ErrHalted], a *zktx.FieldError, or those of package backends.
func (s *Signer) Sign(ctx context.Context, peer audit.Peer, req *SignRequest) (*Signed, error) {
	panic("to be written")
}

// Simulate gives the verdict that Sign would give now. Nothing is counted or recorded.
func (s *Signer) Simulate(ctx context.Context, peer audit.Peer, req *SignRequest) (*Verdict, error) {
	panic("to be written")
}

// Lookup finds the session that peer means by a signer's address, as Sign does.
func (s *Signer) Lookup(peer audit.Peer, signer policy.Address) (*Session, error) {
	panic("to be written")
}

// RefuseMessage records that peer asked for a signature over something that is no
// transaction, and returns the *policy.Denial to answer with.
func (s *Signer) RefuseMessage(ctx context.Context, peer audit.Peer, signer policy.Address, method, what string) error {
	panic("to be written")
}
