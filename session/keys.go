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
	backend := s.cfg.Backends[sess.Backend]
	s.keysMu.Lock()
	held := s.keys[sess.ID]
	s.keysMu.Unlock()
	if held.key != nil && held.backend == backend {
		return held.key, nil
	}
	if backend == nil {
		return nil, fmt.Errorf("%w: backend %q of session %s is not in the configuration", backends.ErrUnavailable,
			sess.Backend, sess.ID)
	}
	key, err := backend.Key(ctx, sess.KeyURI)
	if err != nil {
		return nil, fmt.Errorf("key of session %s: %w", sess.ID, err)
	}
	if !bytes.Equal(crypto.FromECDSAPub(key.Public()), sess.PublicKey) {
		return nil, fmt.Errorf("%w: %s is another key than the one session %s was made with", backends.ErrKeyNotFound,
			sess.KeyURI, sess.ID)
	}
	s.keepKey(sess.ID, heldKey{backend, key})
	return key, nil
}

// queue returns the queue in front of a backend's device.
func (s *Sessions) queue(backend string) *queue {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	q := s.queues[backend]
	if q == nil {
		q = newQueue(s.cfg.Backends[backend])
		s.queues[backend] = q
	}
	return q
}

// keepKey remembers a session's key.
func (s *Sessions) keepKey(id ID, held heldKey) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	s.keys[id] = held
}

func (s *Sessions) forgetKey(id ID) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	delete(s.keys, id)
}

// claim makes the key and the intent of a session that is not stored yet the caller's until end, which must be
// called. Who creates or imports it and who destroys a key that nobody knows of must not do so at once. !ok: another
// has them.
func (s *Sessions) claim(id ID) (end func(), ok bool) {
	s.keysMu.Lock()
	defer s.keysMu.Unlock()
	if s.creating[id] {
		return nil, false
	}
	s.creating[id] = true
	return func() {
		s.keysMu.Lock()
		defer s.keysMu.Unlock()
		delete(s.creating, id)
	}, true
}

// claimNew is claim for an id that nobody else has, and who has Run look at what is left at the end.
func (s *Sessions) claimNew() (id ID, end func()) {
	id = newID()
	release, _ := s.claim(id)
	return id, func() {
		release()
		s.wakeRun() // not before: Run would pass id over, and come back in a minute
	}
}
