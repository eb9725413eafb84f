package session

import (
	"context"
	"fmt"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
)

// RenewSession makes a pending successor of an active agw session: a fresh key, and the same account, policies,
// limits, backend and clients, until expiresAt (Unix seconds). Once the owner has approved it, requests
// that name the old session or its account are signed with the successor; the old one
// goes on for who names its signer, until the owner revokes it or it expires. Errors as of [Signer.CreateSession].
func (s *Signer) RenewSession(ctx context.Context, by audit.Peer, id ID, expiresAt uint256.Int,
	unchecked bool) (*Session, *Review, error) {
	req, err := s.Sessions.renewRequest(id, expiresAt)
	if err != nil {
		return nil, nil, err
	}
	req.Unchecked = unchecked
	return s.CreateSession(ctx, by, req)
}

// renewRequest is what RenewSession creates.
func (s *Sessions) renewRequest(id ID, expiresAt uint256.Int) (*CreateRequest, error) {
	old, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	switch next := s.ledger.index.successor(id); {
	case old.Kind != AGW:
		return nil, fmt.Errorf("%w: session %s is of kind %q: its key is the account, so it has no successor", ErrInvalid, id,
			old.Kind)
	case old.Status != Active:
		return nil, fmt.Errorf("%w: session %s is %s: only an active one is renewed", ErrInvalid, id, old.Status)
	case next != nil:
		return nil, renewedAlready(next)
	// A session that was imported with an end in milliseconds can only get an earlier one.
	case expiresAt.Lt(&old.Spec.ExpiresAt) && old.Spec.CheckExpiryUnit() == nil:
		return nil, fmt.Errorf("%w: the successor would expire at %s, before the session does", ErrInvalid, expiresAt.Dec())
	}
	spec := *old.Spec
	spec.Signer, spec.ExpiresAt = [20]byte{}, expiresAt
	return &CreateRequest{
		Kind: AGW, Spec: &spec, Account: old.Account, ChainID: old.ChainID, Validator: old.Validator,
		Clients: old.Clients, Backend: old.Backend, Predecessor: id,
	}, nil
}

func renewedAlready(by *Session) error {
	return fmt.Errorf("%w: session %s is being renewed by %s, which is %s", ErrInvalid, by.Predecessor, by.ID, by.Status)
}

// Successor returns the id of the session that renews id and has not ended, or "".
func (s *Sessions) Successor(id ID) ID {
	if next := s.ledger.index.successor(id); next != nil {
		return next.ID
	}
	return ""
}

// succeeded records that requests move over from a session's predecessor.
func (s *Sessions) succeeded(ctx context.Context, sess *Session) error {
	s.cfg.Logger.Info("clients that name the predecessor or the account move over", "session", sess.ID, "predecessor",
		sess.Predecessor)
	rec := s.record(audit.SessionSucceeded, nil, sess)
	rec.Detail = map[string]ID{"predecessor": sess.Predecessor}
	return s.Record(ctx, *rec)
}
