package session

import (
	"fmt"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// find returns the session that a request means. ErrUnknownSigner if there is none that
// peer may use, whether or not there is one at all. A session that has been renewed
// stands for its successor, unless the request asks for its very signer.
func (s *Signer) find(peer audit.Peer, req *SignRequest) (*Session, error) {
	switch {
	case req.Session != "":
		sess, err := s.visible(peer, req.Session)
		if err != nil {
			return nil, err
		}
		return s.Sessions.renewed(peer, sess), nil
	case req.Signer != (policy.Address{}):
		return s.Lookup(peer, req.Signer)
	}
	return s.FindAccount(peer, req.Tx.From, req.Tx.ChainID)
}

func (s *Signer) visible(peer audit.Peer, id ID) (*Session, error) {
	sess, err := s.Sessions.Get(id)
	if err != nil || !sess.allows(peer) {
		return nil, ErrUnknownSigner
	}
	return sess, nil
}

// Lookup finds the session that peer means by a signer's address. One that has ended
// is found too, so that the answer can say so.
func (s *Signer) Lookup(peer audit.Peer, signer policy.Address) (*Session, error) {
	l := s.Sessions.ledger
	l.mu.Lock()
	id, ok := l.bySigner[signer]
	l.mu.Unlock()
	if !ok {
		return nil, ErrUnknownSigner
	}
	return s.visible(peer, id)
}

// FindAccount finds the one session, not ended, that peer may use for an account; if all have
// ended, the last one, so that the answer can say so. ErrAmbiguous names them if there are several. Of a
// session and the one that renews it, the one that signs now counts.
func (s *Signer) FindAccount(peer audit.Peer, account policy.Address, chainID uint64) (*Session, error) {
	var live []string
	var found, ended *Session
	for _, sess := range s.Sessions.List() {
		switch {
		case sess.Account != account || sess.ChainID != chainID || !sess.allows(peer):
		case sess.Status.Ended():
			ended = sess // the last one
		case !s.stoodInFor(peer, sess):
			live, found = append(live, string(sess.ID)), sess
		}
	}
	switch {
	case len(live) > 1:
		return nil, fmt.Errorf("%w (session): account %s has %s", ErrAmbiguous, account, strings.Join(live, ", "))
	case found != nil:
		return found, nil
	case ended != nil:
		return ended, nil
	}
	return nil, ErrUnknownSigner
}

// stoodInFor reports whether another session signs in the place of sess: its active successor, or while
// sess is pending, its active predecessor.
func (s *Signer) stoodInFor(peer audit.Peer, sess *Session) bool {
	if s.Sessions.renewed(peer, sess) != sess {
		return true
	}
	before, err := s.Sessions.Get(sess.Predecessor)
	return err == nil && sess.Status == Pending && before.Status == Active && before.allows(peer)
}
