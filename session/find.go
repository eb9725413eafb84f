package session

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// Ref is what a request names a session by: its ID, or its Signer, or its Account. The first that is given counts.
type Ref struct {
	ID      ID
	Signer  policy.Address
	Account policy.Address // as a transaction's from
	ChainID uint64         // of the transaction, for Account; 0: not given
}

// maxNamed is how many sessions [ErrAmbiguous] names.
const maxNamed = 10

// Find returns the session that peer means by ref, if peer may use it. No other function decides which session is
// meant.
//
//   - A signer means its own session, in any state.
//   - An id means that session, or the active one that renews it.
//   - An account means the one session that can sign for it: the session is active, not blocked, not past its end, and no
//     session that can sign renews it.
//
// If no session of the account can sign, Find returns the newest on the chain, else one on another chain, else the
// session whose signer has the account's address. Sign refuses it and gives the reason.
//
// Errors: [ErrUnknownSigner] if there is no such session or peer may not use it; [ErrAmbiguous] if several sessions can
// sign, which names those that peer may use.
func (s *Sessions) Find(peer audit.Peer, ref Ref) (*Session, error) {
	sess, err := s.findBrief(peer, ref)
	return s.ledger.index.complete(sess), err
}

// findBrief is Find, whose session may be brief.
func (s *Sessions) findBrief(peer audit.Peer, ref Ref) (*Session, error) {
	x := s.ledger.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	now := s.cfg.Now()
	switch {
	case ref.ID != "":
		sess := x.byID[ref.ID].session()
		if sess == nil || !sess.allows(peer) {
			return nil, ErrUnknownSigner
		}
		return s.renewedLocked(peer, sess, now), nil
	case !ref.Signer.IsZero():
		return usable(peer, x.bySigner[ref.Signer].session())
	}
	var some [4]*onChainOf // spares an allocation
	held := x.heldLocked(some[:0], peer, ref.Account)
	for _, chainID := range []uint64{ref.ChainID, 0} { // its own chain first, then any
		acting := s.actingLocked(peer, held, chainID, now)
		switch {
		case len(acting) == 1 || len(acting) > 1 && chainID != ref.ChainID:
			return acting[0], nil
		case len(acting) > 1:
			return nil, ambiguous(ref.Account, acting)
		}
		if sess := newest(held, chainID); sess != nil {
			return sess, nil
		}
	}
	return usable(peer, x.bySigner[ref.Account].session())
}

// chainsOf are the chains on which a session of the account can sign that peer may use, in order and in decimal; no
// more than maxNamed.
func (s *Sessions) chainsOf(peer audit.Peer, account policy.Address) (names []string) {
	x := s.ledger.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	now := s.cfg.Now()
	var chains []uint64
	for _, on := range x.heldLocked(nil, peer, account) {
		if len(s.actingLocked(peer, []*onChainOf{on}, 0, now)) > 0 {
			chains = append(chains, on.chainID)
		}
	}
	slices.Sort(chains)
	for _, chain := range slices.Compact(chains) {
		names = append(names, strconv.FormatUint(chain, 10))
	}
	return names[:min(len(names), maxNamed)]
}

// GetFor returns the session with ref's id or signer, in any state, also if another session renews it.
// ErrUnknownSigner if there is none or peer may not use it.
func (s *Sessions) GetFor(peer audit.Peer, ref Ref) (*Session, error) {
	if ref.ID != "" {
		return usable(peer, s.ledger.index.get(ref.ID))
	}
	return usable(peer, s.ledger.index.signer(ref.Signer))
}

// usable returns sess, or ErrUnknownSigner if it is nil or peer may not use it.
func usable(peer audit.Peer, sess *Session) (*Session, error) {
	if sess == nil || !sess.allows(peer) {
		return nil, ErrUnknownSigner
	}
	return sess, nil
}

// canSign reports whether the state of sess lets it sign at all.
func (s *Sessions) canSign(sess *Session, now time.Time) bool {
	return sess.signs() && !s.pastExpiry(sess, now)
}

// actingLocked returns the sessions among held that can sign and that no other stands in for, oldest first; no more
// than maxNamed and one. A chainID of 0 means any.
func (s *Sessions) actingLocked(peer audit.Peer, held []*onChainOf, chainID uint64, now time.Time) (acting []*Session) {
	for _, on := range held {
		if chainID != 0 && on.chainID != chainID {
			continue
		}
		n := 0 // of this list
		for _, listed := range on.active {
			sess := listed.Load()
			if !s.canSign(sess, now) || s.renewedLocked(peer, sess, now) != sess {
				continue
			}
			acting = append(acting, sess)
			if n++; n > maxNamed {
				break
			}
		}
	}
	if len(acting) > 1 { // of several clients or chains: in order, each once
		slices.SortFunc(acting, byAge)
		acting = slices.CompactFunc(acting, func(a, b *Session) bool { return a.ID == b.ID })
	}
	return acting[:min(len(acting), maxNamed+1)]
}

// renewedLocked returns the last active session that renews sess, directly or in turn, and that peer may use; sess
// if there is none. A session that can't sign does not replace one that can.
func (s *Sessions) renewedLocked(peer audit.Peer, sess *Session, now time.Time) *Session {
	found := sess
	for _, n := range s.ledger.index.renewals[sess.ID] {
		next := s.renewedLocked(peer, n.Load(), now)
		if next.Status == Active && next.allows(peer) && (s.canSign(next, now) || !s.canSign(found, now)) {
			found = next
		}
	}
	return found
}

// ambiguous is the error for an account of which several sessions can sign.
func ambiguous(account policy.Address, acting []*Session) error {
	chains := slices.ContainsFunc(acting, func(sess *Session) bool { return sess.ChainID != acting[0].ChainID })
	var names []string
	for _, sess := range acting[:min(len(acting), maxNamed)] {
		name := string(sess.ID)
		if chains {
			name = fmt.Sprintf("%s on chain %d", name, sess.ChainID)
		}
		names = append(names, name)
	}
	if len(acting) > maxNamed {
		names = append(names, "and more")
	}
	hint := `give one of them in the transaction as "session"`
	if chains {
		hint += `, or the chain as "chainId"`
	}
	return fmt.Errorf("%w: account %s has %s: %s", ErrAmbiguous, account, strings.Join(names, ", "), hint)
}

// find returns the session that a request for a signature means.
func (s *Signer) find(peer audit.Peer, req *SignRequest) (*Session, error) {
	ref := Ref{ID: req.Session, Signer: req.Signer}
	if req.Tx != nil {
		ref.Account, ref.ChainID = req.Tx.From, req.Tx.ChainID
	}
	return s.Sessions.Find(peer, ref)
}
