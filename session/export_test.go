package session

import (
	"context"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// What the tests of both stores need of this one, which decides in memory.

// Keep stores a session that no key was made for.
func (s *Sessions) Keep(ctx context.Context, sess *Session) error {
	return s.store(ctx, audit.Peer{}, sess, audit.SessionCreated, nil)
}

// Charge counts g and returns when it is on disk. The call stays in the device until Finish.
func (s *Sessions) Charge(ctx context.Context, id ID, g Grant, rec *audit.Record) (*Reservation, error) {
	res, err := s.ledger.Reserve(id, g, rec)
	if err != nil {
		return nil, err
	}
	return res, res.Durable(ctx)
}

// Finish ends a call: with a signature, or for certain without one. It reports whether the charge was taken back.
func (r *Reservation) Finish(ctx context.Context, signed bool) (reverted bool, err error) {
	if signed {
		r.signed()
		return false, nil
	}
	e, err := r.failed(true, audit.Record{Event: audit.SignFailed})
	if err != nil || e == nil {
		return false, err
	}
	return true, e.wait(ctx)
}

// SettleAt settles id by v.
func (s *Sessions) SettleAt(ctx context.Context, id ID, v *ChainView, now time.Time) error {
	_, err := s.ledger.Settle(ctx, id, v, now, &audit.Record{Event: audit.SessionReconciled})
	return err
}

// Total is what t has counted.
func (s *Sessions) Total(id ID, t policy.Tracker) (used uint256.Int, err error) {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	entered, err := s.ledger.enteredLocked(s.ledger.books[id], t)
	if err != nil || !entered {
		return used, err
	}
	return s.ledger.totalLocked(s.ledger.books[id], t)
}
