package session

import (
	"context"
	"fmt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
)

// Rewrap has the backend encrypt a session's key with its device key of now; see [backends.Rewrapper]. It records
// that, and reports whether it was done: a key that is encrypted so already stays as it is, and nothing is recorded.
// Errors wrap [ErrInvalid] or [ErrUnknownSigner], or are the backend's; the key is then usable as before.
func (s *Sessions) Rewrap(ctx context.Context, by audit.Peer, id ID) (bool, error) {
	sess, err := s.Get(id)
	if err != nil {
		return false, err
	}
	if !sess.KeyDestroyedAt.IsZero() {
		return false, fmt.Errorf("%w: the key of session %s is destroyed", ErrInvalid, id)
	}
	backend := s.cfg.Backends[sess.Backend]
	if backend == nil {
		return false, s.noBackend(sess.Backend)
	}
	r, ok := backend.(backends.Rewrapper)
	if !ok {
		return false, fmt.Errorf("%w: backend %q keeps its keys in the device, so there is none to encrypt again", ErrInvalid,
			sess.Backend)
	}
	done, err := r.Rewrap(ctx, sess.KeyURI)
	if err != nil || !done {
		return false, err
	}
	return true, s.enqueue(context.WithoutCancel(ctx), &entry{rec: &audit.Record{
		Time: s.cfg.Now().UTC(), Event: audit.KeyRewrapped, Peer: &by, Session: string(id), Signer: sess.Signer().String(),
		KeyURI: sess.KeyURI, Protection: string(sess.Protection),
	}})
}
