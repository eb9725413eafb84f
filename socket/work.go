package socket

import (
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
)

// What input costs the agent at most, in processor time: measured on its parsers, with room.
const (
	costOfByte    = 10 * time.Nanosecond
	costOfRequest = 50 * time.Microsecond
	costOfConn    = 100 * time.Microsecond
)

// All users without a session together get a tenth of one processor, and the refused requests of a user with one get a
// quarter. What comes faster is read later. Nothing is refused for it, and what is permitted costs nothing.
const (
	strangersShare = 10 // one part in
	clientShare    = 4
	workBurst      = 2 * time.Second // how long a share that was not used is kept
)

// maxIdleUsers is how many users' debts are kept before those that are paid are forgotten.
const maxIdleUsers = 1024

// work keeps account of the processor time that clients cost. Safe for concurrent use.
type work struct {
	known func(audit.Peer) bool

	mu        sync.Mutex
	strangers time.Time            // until when their share is used up
	users     map[uint32]time.Time // the same, of users with a session
}

func newWork(known func(audit.Peer) bool) *work {
	return &work{known: known, users: make(map[uint32]time.Time)}
}

// charge adds cost to peer's account, and returns how long to wait until its share covers it.
func (w *work) charge(peer audit.Peer, cost time.Duration) time.Duration {
	known, now := w.known(peer), time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !known {
		w.strangers = later(w.strangers, now.Add(-workBurst)).Add(cost * strangersShare)
		return w.strangers.Sub(now)
	}
	until, held := w.users[peer.UID]
	if !held {
		if cost == 0 {
			return 0
		}
		w.forgetPaid(now)
	}
	until = later(until, now.Add(-workBurst)).Add(cost * clientShare)
	w.users[peer.UID] = until
	return until.Sub(now)
}

// forgetPaid drops the accounts that are as good as new, once there are many.
func (w *work) forgetPaid(now time.Time) {
	if len(w.users) < maxIdleUsers {
		return
	}
	for uid, until := range w.users {
		if now.Sub(until) >= workBurst {
			delete(w.users, uid)
		}
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// owe adds what the client has cost to what is paid by waiting, before it is read again.
func (c *conn) owe(cost time.Duration) { c.owed.Add(int64(cost)) }

// oweRead is for n bytes that were read. A user with a session owes them only for messages that are passed over.
func (c *conn) oweRead(n int) {
	if c.scan.passesOver() || !c.socket.work.known(c.peer) {
		c.owe(time.Duration(n) * costOfByte)
	}
}

// oweMessage is for a message of that size that out answers. A user with a session owes it only for errors.
func (c *conn) oweMessage(requests, size int, out *output) {
	switch {
	case !c.socket.work.known(c.peer): // has paid for what was read
		c.owe(time.Duration(requests)*costOfRequest + time.Duration(len(out.line))*costOfByte)
	case out.errors > 0:
		c.owe(time.Duration(out.errors)*costOfRequest + time.Duration(size)*costOfByte)
	}
}

// settle waits until the client's share covers what it owes, its connection is lost, or the server ends. It returns how
// long that took.
func (c *conn) settle() time.Duration {
	owed := c.owed.Swap(0)
	if owed == 0 {
		return 0
	}
	return c.pause(c.socket.work.charge(c.peer, time.Duration(owed)))
}

// pause waits for a share of the processor.
func (c *conn) pause(wait time.Duration) time.Duration {
	if wait <= 0 || c.last {
		return 0
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	began := time.Now()
	select {
	case <-timer.C:
	case <-c.gone:
	case <-c.server.ending:
	}
	return time.Since(began)
}
