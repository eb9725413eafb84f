package session

import (
	"bytes"
	"context"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
)

// key returns the session's key, found in its device once. It must be the very key that
// the session was made with.
func (s *Sessions) key(ctx context.Context, sess *Session) (backends.Key, error) {
	s.keysMu.Lock()
	key := s.keys[sess.ID]
	s.keysMu.Unlock()
	if key != nil {
		return key, nil
	}
	backend := s.cfg.Backends[sess.Backend]
	if backend == nil {
		return nil, fmt.Errorf("%w: backend %q of session %s is not in the configuration", backends.ErrUnavailable, sess.Backend, sess.ID)
	}
	key, err := backend.Key(ctx, sess.KeyURI)
	if err != nil {
		return nil, fmt.Errorf("key of session %s: %w", sess.ID, err)
	}
	if !bytes.Equal(crypto.FromECDSAPub(key.Public()), sess.PublicKey) {
		return nil, fmt.Errorf("%w: %s is another key than the one session %s was made with", backends.ErrKeyNotFound, sess.KeyURI, sess.ID)
	}
	s.keepKey(sess.ID, key)
	return key, nil
}

// keepKey remembers a session's key; nil forgets it.
func (s *Sessions) keepKey(id ID, key backends.Key) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	if key == nil {
		delete(s.keys, id)
		return
	}
	s.keys[id] = key
}

// keepCreating keeps Run from undoing the creation of session id, until it is called back: then Run looks at once
// what that left.
func (s *Sessions) keepCreating(id ID) (end func()) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	s.creating[id] = true
	return func() {
		s.keysMu.Lock()
		delete(s.creating, id)
		s.keysMu.Unlock()
		s.wakeRun() // not before: Run would pass id over, and come back in a minute
	}
}

func (s *Sessions) isCreating(id ID) bool {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	return s.creating[id]
}
