package socket

import (
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
)

// Limits bounds what clients can make the agent hold or do. A zero field means its default.
// Each socket has its own: what clients of agent.sock take is never missing on
// admin.sock. A [quota] says how clients share them.
type Limits struct {
	MaxMessage         int // bytes of a JSON document or HTTP body; default 1 MiB
	MaxDepth           int // nested brackets in a document; default 64
	MaxBatch           int // requests in a batch; default 100
	MaxConnections     int // default 16384; one more gets one answer, an error
	MaxInFlight        int // calls at once; default 4096
	MaxInFlightPerConn int // default 1024
	MaxInFlightBytes   int // of requests of more than 16 KiB being read or run; default 64 MiB
	// bytes of answers that a user does not fetch, over all its connections; default 16 MiB
	MaxPendingOutput     int
	MessagePatience      time.Duration // for a client to send a message, plus a second for each 64 KiB of it; default 10 s
	WriteTimeout         time.Duration // for a client to take an answer, else its connection ends; default 30 s
	RequestTimeout       time.Duration // of a call; default 60 s
	maxRefusedConns      int           // connections beyond the bound that get their answer at the same time
	refusedConnectionFor time.Duration // how long such a one may take to send its request
}

// withDefaults fills in what is zero.
func (l Limits) withDefaults() Limits {
	setDefault(&l.MaxMessage, 1<<20)
	setDefault(&l.MaxDepth, 64)
	setDefault(&l.MaxBatch, 100)
	setDefault(&l.MaxConnections, 16384)
	setDefault(&l.MaxInFlight, 4096)
	setDefault(&l.MaxInFlightPerConn, 1024)
	setDefault(&l.MaxInFlightBytes, 64<<20)
	setDefault(&l.MaxPendingOutput, 16<<20)
	setDefault(&l.MessagePatience, 10*time.Second)
	setDefault(&l.WriteTimeout, 30*time.Second)
	setDefault(&l.RequestTimeout, 60*time.Second)
	setDefault(&l.maxRefusedConns, 256)
	setDefault(&l.refusedConnectionFor, 2*time.Second)
	return l
}

// setDefault sets *v to def if it is zero.
func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// patienceFor is how long a client may take to send a message of which size bytes have come.
func (l *Limits) patienceFor(size int) time.Duration {
	return l.MessagePatience + time.Duration(size/(64<<10))*time.Second
}

// resource is what a [quota] counts.
type resource int

const (
	connections resource = iota
	callsInFlight
	bytesInFlight // of messages larger than freeBuffer
	bytesPending  // of answers
	resources     // how many there are
)

// A quota says how much the clients of one socket may hold. Safe for concurrent use.
//
// All users together may hold max of a resource, one user three quarters of it. Users without a session may hold a
// quarter together, and one of them three quarters of that. A user with a session may always hold what is assured,
// whatever the others hold. So no number of users without a session, nor another session's client, can take it. The sum
// exceeds max by that at most for each such user, and the operator decides how many there are.
//
// Answers that wait are different: each user with a session has its own max.
type quota struct {
	known   func(audit.Peer) bool // has a session
	max     [resources]int        // of all users
	share   [resources]int        // of one
	assured [resources]int        // of one with a session

	mu      sync.Mutex
	used    [resources]int
	strange [resources]int // of it by users without a session
	users   map[uint32]*holding
}

// holding is what one user holds.
type holding struct {
	all     [resources]int
	strange [resources]int // of it taken without a session
}

func newQuota(l Limits, known func(audit.Peer) bool) *quota {
	q := &quota{known: known, users: make(map[uint32]*holding)}
	q.setLimits(l)
	return q
}

// setLimits changes how much there is to hold. What is held already stays.
func (q *quota) setLimits(l Limits) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.max = [resources]int{l.MaxConnections, l.MaxInFlight, l.MaxInFlightBytes, 4 * l.MaxPendingOutput}
	for r, most := range q.max {
		q.share[r] = most - most/4
	}
	q.share[bytesPending] = l.MaxPendingOutput
	q.assured = [resources]int{
		min(16, l.MaxConnections/16), min(64, l.MaxInFlight/16), min(4*l.MaxMessage, l.MaxInFlightBytes/4),
		l.MaxPendingOutput,
	}
}

// take counts n more of r for peer, if there are as many left for it.
func (q *quota) take(peer audit.Peer, r resource, n int) bool {
	known := q.known(peer)
	q.mu.Lock()
	defer q.mu.Unlock()
	user := q.users[peer.UID]
	if user == nil {
		user = new(holding)
	}
	if !q.fitsLocked(user, known, r, n) {
		return false
	}
	q.used[r] += n
	user.all[r] += n
	if !known {
		q.strange[r] += n
		user.strange[r] += n
	}
	q.users[peer.UID] = user
	return true
}

// fitsLocked reports whether user may have n more of r.
func (q *quota) fitsLocked(user *holding, known bool, r resource, n int) bool {
	if known && user.all[r]+n <= q.assured[r] {
		return true
	}
	if q.used[r]+n > q.max[r] || user.all[r]+n > q.share[r] {
		return false
	}
	part := max(1, q.max[r]/4)
	one := max(1, part-part/4)
	if r == bytesPending {
		one = part
	}
	return known || q.strange[r]+n <= part && user.strange[r]+n <= one
}

// give returns what [quota.take] took.
func (q *quota) give(peer audit.Peer, r resource, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	user := q.users[peer.UID]
	if user == nil { // nothing was taken: n is 0
		return
	}
	q.used[r] -= n
	user.all[r] -= n
	// The user may have got a session since it took n.
	strange := min(n, user.strange[r])
	q.strange[r] -= strange
	user.strange[r] -= strange
	if *user == (holding{}) {
		delete(q.users, peer.UID)
	}
}

// inUse is how much of r is taken.
func (q *quota) inUse(r resource) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used[r]
}
