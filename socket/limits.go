package socket

import (
	"sync"
	"time"
)

// Limits bounds what clients can make the agent hold or do. A zero field means its default.
// Each socket has its own: what clients of agent.sock take is never missing on
// admin.sock. Of connections, calls and bytes, one user gets three quarters at most, so
// that no user can shut out the others.
type Limits struct {
	MaxMessage           int           // bytes of a JSON document or HTTP body; default 1 MiB
	MaxDepth             int           // nested brackets in a document; default 64
	MaxBatch             int           // requests in a batch; default 100
	MaxConnections       int           // default 16384; one more gets one answer, an error
	MaxInFlight          int           // calls at once; default 4096
	MaxInFlightPerConn   int           // default 1024
	MaxInFlightBytes     int           // of requests being read or run; default 64 MiB
	MaxPendingOutput     int           // bytes of answers that a connection does not fetch; default 16 MiB
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

// resource is what a [quota] counts.
type resource int

const (
	connections resource = iota
	callsInFlight
	bytesInFlight
	resources // how many there are
)

// quota counts what the clients of one socket hold. Safe for concurrent use.
type quota struct {
	max [resources]int

	mu    sync.Mutex
	used  [resources]int
	users map[uint32]*[resources]int // by uid; of those who hold anything
}

func newQuota(l Limits) *quota {
	return &quota{
		max:   [resources]int{l.MaxConnections, l.MaxInFlight, l.MaxInFlightBytes},
		users: make(map[uint32]*[resources]int),
	}
}

// take counts n more of r for uid, if there are as many left for it.
func (q *quota) take(uid uint32, r resource, n int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	user := q.users[uid]
	if user == nil {
		user = new([resources]int)
	}
	share := q.max[r] - q.max[r]/4
	if q.used[r]+n > q.max[r] || user[r]+n > share {
		return false
	}
	q.used[r] += n
	user[r] += n
	q.users[uid] = user
	return true
}

// give returns what [quota.take] took.
func (q *quota) give(uid uint32, r resource, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	user := q.users[uid]
	if user == nil { // nothing was taken: n is 0
		return
	}
	q.used[r] -= n
	user[r] -= n
	if *user == [resources]int{} {
		delete(q.users, uid)
	}
}

// inUse is how much of r is taken.
func (q *quota) inUse(r resource) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.used[r]
}
