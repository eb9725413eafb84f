package session

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
)

// ErrOverloaded: so many requests wait for the key's device that one more would wait too long. Nothing was
// counted. Retry after a pause.
var ErrOverloaded = errors.New("too many requests wait for the key's device")

const (
	waitingPerSlot  = 64              // requests that may wait
	longestQueueing = 5 * time.Second // that a request may have to expect
)

// queue shares a device among clients. The device gets as many requests as it works on; the others wait here. Users
// take turns, then the connections of each user. The requests of one connection are served in order. So a client gets
// its share, no matter how many requests of another client wait.
//
// The queue is bounded by number and by the expected wait. Past the bound it turns a request away: the newest request
// on the longest connection of the user with the most requests. Requests wait before anything is counted for them.
type queue struct {
	slots int // requests that are with the device at a time

	mu      sync.Mutex
	busy    int       // slots taken
	waiting int       // requests
	users   list.List // of *userQueue: those with requests waiting, the next to be served first
	byUID   map[uint32]*list.Element
	mean    time.Duration // that a request has its slot, lately
}

// userQueue is what one user has waiting.
type userQueue struct {
	uid     uint32
	waiting int       // requests
	conns   list.List // of *connQueue: those with requests waiting, the next to be served first
	byConn  map[any]*list.Element
}

// connQueue is what one connection has waiting.
type connQueue struct {
	conn    any
	tickets list.List // of *ticket, oldest first
}

// ticket is one request that waits.
type ticket struct {
	user, conn, self *list.Element // where it is in the lists; self is nil once it waits no more
	done             chan error    // gets nil with a slot, or ErrOverloaded
}

func newQueue(b backends.Backend) *queue {
	slots := backends.DefaultConcurrency
	if limited, ok := b.(backends.Limited); ok {
		slots = max(1, limited.Concurrency())
	}
	return &queue{slots: slots, byUID: map[uint32]*list.Element{}}
}

// enter waits for a slot, for a request of user uid on connection conn, which is comparable. leave gives the slot back;
// only its first call counts. waited is false if a slot was free. Errors: [ErrOverloaded], or the context's.
func (q *queue) enter(ctx context.Context, uid uint32, conn any) (leave func(), waited bool, err error) {
	q.mu.Lock()
	if q.busy < q.slots {
		q.busy++
		q.mu.Unlock()
		return q.leave(), false, nil
	}
	t, err := q.queueLocked(uid, conn)
	q.mu.Unlock()
	if err != nil {
		return nil, false, err
	}
	select {
	case err = <-t.done:
	case <-ctx.Done():
		q.mu.Lock()
		if t.self != nil {
			q.removeLocked(t)
			err = fmt.Errorf("waiting for the key's device: %w", ctx.Err())
		} else {
			err = <-t.done // it was first
		}
		q.mu.Unlock()
	}
	if err == nil && ctx.Err() != nil { // a slot came as the request's time ended: it must not be charged
		q.leave()()
		err = fmt.Errorf("waiting for the key's device: %w", ctx.Err())
	}
	if err != nil {
		return nil, true, err
	}
	return q.leave(), true, nil
}

// leave returns what gives a slot back, and takes note of how long it was taken.
func (q *queue) leave() func() {
	var once sync.Once
	since := time.Now()
	return func() {
		once.Do(func() {
			q.mu.Lock()
			defer q.mu.Unlock()
			q.mean += (time.Since(since) - q.mean) / 16
			q.busy--
			q.serveLocked()
		})
	}
}

// bound is how many requests may wait: as many as are served in longestQueueing, and at least one for each slot.
func (q *queue) bound() int {
	if q.mean <= 0 {
		return q.slots * waitingPerSlot
	}
	inTime := int(longestQueueing/q.mean) * q.slots
	return min(max(inTime, q.slots), q.slots*waitingPerSlot)
}

// queueLocked has a request wait, if need be in the place of another.
func (q *queue) queueLocked(uid uint32, conn any) (*ticket, error) {
	if bound := q.bound(); q.waiting >= bound {
		most := q.victimLocked(uid, conn)
		if most == nil {
			return nil, fmt.Errorf("%w: %d do", ErrOverloaded, q.waiting)
		}
		newest := most.tickets.Back().Value.(*ticket)
		q.removeLocked(newest)
		newest.done <- fmt.Errorf("%w: %d do", ErrOverloaded, bound)
	}
	user := q.byUID[uid]
	if user == nil {
		user = q.users.PushBack(&userQueue{uid: uid, byConn: map[any]*list.Element{}})
		q.byUID[uid] = user
	}
	u := user.Value.(*userQueue)
	at := u.byConn[conn]
	if at == nil {
		at = u.conns.PushBack(&connQueue{conn: conn})
		u.byConn[conn] = at
	}
	t := &ticket{user: user, conn: at, done: make(chan error, 1)}
	t.self = at.Value.(*connQueue).tickets.PushBack(t)
	u.waiting++
	q.waiting++
	return t, nil
}

// victimLocked returns the connection that has so much more waiting than the request's user and connection that its
// newest request has to make room; nil if there is none, and the request itself is turned away.
func (q *queue) victimLocked(uid uint32, conn any) *connQueue {
	own, waiting := (*userQueue)(nil), 0
	if e := q.byUID[uid]; e != nil {
		own = e.Value.(*userQueue)
		waiting = own.waiting
	}
	if most := longest(&q.users, func(u *userQueue) int { return u.waiting }); most != own && waiting+1 < most.waiting {
		return longest(&most.conns, (*connQueue).len)
	}
	if own == nil {
		return nil
	}
	waiting = 0
	if e := own.byConn[conn]; e != nil {
		waiting = e.Value.(*connQueue).len()
	}
	if waiting*own.conns.Len() >= own.waiting { // it has its share: no need to look at every connection
		return nil
	}
	if most := longest(&own.conns, (*connQueue).len); waiting+1 < most.len() {
		return most
	}
	return nil
}

func (c *connQueue) len() int { return c.tickets.Len() }

// longest returns the element of a list, which is not empty, that has the most waiting.
func longest[T any](l *list.List, waiting func(T) int) T {
	most := l.Front().Value.(T)
	for e := l.Front().Next(); e != nil; e = e.Next() {
		if next := e.Value.(T); waiting(next) > waiting(most) {
			most = next
		}
	}
	return most
}

// serveLocked gives free slots to those whose turn it is.
func (q *queue) serveLocked() {
	for q.busy < q.slots && q.waiting > 0 {
		user := q.users.Front()
		conn := user.Value.(*userQueue).conns.Front()
		next := conn.Value.(*connQueue).tickets.Front().Value.(*ticket)
		q.users.MoveToBack(user)
		user.Value.(*userQueue).conns.MoveToBack(conn)
		q.removeLocked(next)
		q.busy++
		next.done <- nil
	}
}

// removeLocked has a request wait no more.
func (q *queue) removeLocked(t *ticket) {
	u, c := t.user.Value.(*userQueue), t.conn.Value.(*connQueue)
	c.tickets.Remove(t.self)
	t.self = nil
	u.waiting--
	q.waiting--
	if c.len() == 0 {
		u.conns.Remove(t.conn)
		delete(u.byConn, c.conn)
	}
	if u.waiting == 0 {
		q.users.Remove(t.user)
		delete(q.byUID, u.uid)
	}
}
