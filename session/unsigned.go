package session

import (
	"math"
	"sync"
)

// maxGaps is how many nonces below the highest signed one a session is remembered by.
const maxGaps = 1024

// unsigned is what the embedded store knows of nonces that were never signed. Nearly every nonce that is asked for is
// new, and needs no read of the disk then. Safe for concurrent use.
type unsigned struct {
	mu  sync.Mutex
	ids map[ID]*nonceGaps // of sessions that were asked for since the start
}

// nonceGaps are the nonces of one session: those from next on, and some below, were never signed.
type nonceGaps struct {
	next uint64
	gaps map[uint64]struct{} // made when needed
}

// has reports whether a nonce was never signed; false means that it is not known. highest reads the session's highest
// signed nonce from the disk, and whether there is one.
func (u *unsigned) has(id ID, nonce uint64, highest func() (nonce uint64, any bool, err error)) (bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.ids[id]
	if g == nil {
		last, any, err := highest()
		if err != nil {
			return false, err
		}
		g = u.add(id)
		if any {
			g.sign(last)
			g.gaps = nil // those below may be signed
		}
	}
	_, gap := g.gaps[nonce]
	return gap || nonce >= g.next && nonce < math.MaxUint64, nil
}

func (u *unsigned) add(id ID) *nonceGaps {
	if u.ids == nil {
		u.ids = map[ID]*nonceGaps{}
	}
	g := &nonceGaps{}
	u.ids[id] = g
	return g
}

// sign takes note of a nonce that is about to be written. has may look at the disk before it is there, so of a session
// that nobody has asked for nothing is known from then on.
func (u *unsigned) sign(id ID, nonce uint64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	g := u.ids[id]
	if g == nil {
		g, nonce = u.add(id), math.MaxUint64
	}
	g.sign(nonce)
}

func (g *nonceGaps) sign(nonce uint64) {
	delete(g.gaps, nonce)
	if nonce < g.next {
		return
	}
	if nonce-g.next+uint64(len(g.gaps)) <= maxGaps {
		for n := g.next; n < nonce; n++ {
			if g.gaps == nil {
				g.gaps = map[uint64]struct{}{}
			}
			g.gaps[n] = struct{}{}
		}
	} else {
		g.gaps = nil
	}
	g.next = max(nonce, nonce+1)
}
