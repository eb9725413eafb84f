package session

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"

	"github.com/keyward/keyward/policy"
)

// A session in memory is whole or brief. A brief one lacks what only its own use needs: the spec, the key's URI and the
// public key, which never change and are in the store. The start makes all sessions brief, so it decodes no spec. Those
// that were used last are whole.
//
// The index and the ledger look at brief sessions. No function that other packages call returns one.

// maxWhole is how many sessions stay whole.
const maxWhole = 4096

// brief returns s without what the store has of it.
func (s *Session) brief() *Session {
	b := *s
	b.signer, b.expires = s.Signer(), s.expiresAt()
	b.Spec, b.KeyURI, b.PublicKey = nil, "", nil
	return &b
}

// expiresAt is the spec's expiresAt, or the largest number if that does not fit.
func (s *Session) expiresAt() uint64 {
	switch {
	case s.Spec == nil:
		return s.expires
	case !s.Spec.ExpiresAt.IsUint64():
		return math.MaxUint64
	}
	return s.Spec.ExpiresAt.Uint64()
}

// details makes brief sessions whole, and remembers which are. Safe for concurrent use.
type details struct {
	read   func(ID) (*Session, error) // from the store
	broken atomic.Pointer[error]      // why a session could not be read; nil: all could

	mu   sync.Mutex
	ring []*listed // that are whole; the one at next is the next to become brief
	next int
}

// whole returns n's session as it is now.
//
// If it can't be read, its spec is one that allows nothing, and the ledger signs nothing from then on; see
// [details.failure].
func (d *details) whole(n *listed) *Session {
	for {
		sess := n.Load()
		if sess.Spec != nil {
			return sess
		}
		stored, err := d.read(sess.ID)
		whole := *sess
		whole.signer, whole.expires = policy.Address{}, 0
		if err != nil {
			err = fmt.Errorf("reading session %s: %w", sess.ID, err)
			d.broken.CompareAndSwap(nil, &err)
			whole.Spec = &policy.Spec{Signer: sess.signer}
			whole.Spec.ExpiresAt.SetUint64(sess.expires)
			return &whole
		}
		whole.Spec, whole.KeyURI, whole.PublicKey = stored.Spec, stored.KeyURI, stored.PublicKey
		if n.CompareAndSwap(sess, &whole) {
			d.keep(n)
			return &whole
		}
	}
}

// failure is why a session could not be read; nil: all could.
func (d *details) failure() error {
	if err := d.broken.Load(); err != nil {
		return *err
	}
	return nil
}

// keep takes note that n, which is in the store, is whole. The one that has been whole for longest becomes brief.
func (d *details) keep(n *listed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.ring) < maxWhole {
		d.ring = append(d.ring, n)
		return
	}
	out := d.ring[d.next]
	d.ring[d.next] = n
	d.next = (d.next + 1) % maxWhole
	if sess := out.Load(); out != n && sess.Spec != nil {
		out.CompareAndSwap(sess, sess.brief()) // if it fails, the session has just changed, and stays whole
	}
}
