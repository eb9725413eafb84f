package session

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// index finds sessions by what requests name: an id, a signer, or an account and a client. A lookup
// takes the same time however many sessions there are.
//
// It has a lock of its own, so that no lookup and no list delays a charge. The lock is taken while
// Ledger.mu is held and never the other way round. Methods whose name ends in Locked need it.
type index struct {
	mu       sync.RWMutex
	byID     map[ID]*listed
	bySigner map[policy.Address]*listed
	renewals map[ID][]*listed // a session → those that renew it
	clients  map[Client]*ofClient
	all      []*listed // by age
	counts   map[Status]int

	details details

	dueAt func(*Session) time.Time // nil until Run's schedule is wanted
	due   schedule
}

// listed is one session in the index, whole or brief. Its value is replaced when the session changes; id,
// signer, account, chain, predecessor and age never do.
type listed struct{ atomic.Pointer[Session] }

// ofClient is the sessions that name a client.
type ofClient struct {
	live     []*listed // those that have not ended, by age
	accounts map[policy.Address][]*onChainOf
}

// onChainOf is the sessions that one client may use of an account on one chain, by age.
type onChainOf struct {
	chainID      uint64
	active, rest []*listed
}

func newIndex() *index {
	return &index{
		byID: map[ID]*listed{}, bySigner: map[policy.Address]*listed{}, renewals: map[ID][]*listed{},
		clients: map[Client]*ofClient{}, counts: map[Status]int{},
	}
}

// byAge orders sessions, oldest first; the id decides between two of the same time.
func byAge(a, b *Session) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
}

// load puts many sessions. Oldest first, each is appended and moves none of the others.
func (x *index) load(sessions []*Session) {
	for _, sess := range slices.SortedFunc(slices.Values(sessions), byAge) {
		x.put(sess)
	}
}

// put adds sess, or replaces what the index has of it. It returns where sess is.
func (x *index) put(sess *Session) *listed {
	x.mu.Lock()
	defer x.mu.Unlock()
	n := x.byID[sess.ID]
	if n == nil {
		n = &listed{}
		n.Store(sess)
		x.byID[sess.ID], x.bySigner[sess.Signer()] = n, n
		if sess.Predecessor != "" {
			x.renewals[sess.Predecessor] = append(x.renewals[sess.Predecessor], n)
		}
		x.all = enlist(x.all, n)
		x.counts[sess.Status]++
		x.fileLocked(n, sess, enlist)
		x.scheduleLocked(n)
		return n
	}
	old := n.Load()
	if old.Status == sess.Status && slices.Equal(old.Clients, sess.Clients) {
		n.Store(sess)
		return n
	}
	x.fileLocked(n, old, delist)
	x.counts[old.Status]--
	n.Store(sess)
	x.counts[sess.Status]++
	x.fileLocked(n, sess, enlist)
	x.scheduleLocked(n)
	return n
}

// fileLocked changes the lists that n is in while its session is sess.
func (x *index) fileLocked(n *listed, sess *Session, change func([]*listed, *listed) []*listed) {
	for _, client := range sess.Clients {
		of := x.clients[client]
		if of == nil {
			of = &ofClient{accounts: map[policy.Address][]*onChainOf{}}
			x.clients[client] = of
		}
		if !sess.Status.Ended() {
			of.live = change(of.live, n)
		}
		on := of.on(sess.Account, sess.ChainID)
		if sess.Status == Active {
			on.active = change(on.active, n)
		} else {
			on.rest = change(on.rest, n)
		}
	}
}

// on returns what there is of an account on a chain, and makes it if there is nothing yet.
func (of *ofClient) on(account policy.Address, chainID uint64) *onChainOf {
	for _, on := range of.accounts[account] {
		if on.chainID == chainID {
			return on
		}
	}
	on := &onChainOf{chainID: chainID}
	of.accounts[account] = append(of.accounts[account], on)
	return on
}

// enlist adds n to a list by age. A client that a session names twice is listed once.
func enlist(list []*listed, n *listed) []*listed {
	if len(list) == 0 || byAge(list[len(list)-1].Load(), n.Load()) < 0 { // nearly always
		return append(list, n)
	}
	if i, found := position(list, n.Load()); !found {
		return slices.Insert(list, i, n)
	}
	return list
}

// delist takes n out of a list by age.
func delist(list []*listed, n *listed) []*listed {
	if i, found := position(list, n.Load()); found {
		return slices.Delete(list, i, i+1)
	}
	return list
}

// position is where sess is in a list by age, or belongs.
func position(list []*listed, sess *Session) (int, bool) {
	return slices.BinarySearchFunc(list, sess, func(n *listed, sess *Session) int { return byAge(n.Load(), sess) })
}

// get returns the session with that id; nil if there is none.
func (x *index) get(id ID) *Session {
	x.mu.RLock()
	n := x.byID[id]
	x.mu.RUnlock()
	return x.whole(n)
}

// signer returns the session with that signer; nil if there is none.
func (x *index) signer(address policy.Address) *Session {
	x.mu.RLock()
	n := x.bySigner[address]
	x.mu.RUnlock()
	return x.whole(n)
}

// whole returns n's session, whole; nil has none.
func (x *index) whole(n *listed) *Session {
	if n == nil {
		return nil
	}
	return x.details.whole(n)
}

// complete returns the session that sess is of, whole; nil if sess is nil.
func (x *index) complete(sess *Session) *Session {
	if sess == nil || sess.Spec != nil {
		return sess
	}
	return x.get(sess.ID)
}

// session returns n's session, which may be brief; nil has none.
func (n *listed) session() *Session {
	if n == nil {
		return nil
	}
	return n.Load()
}

// heldLocked appends to held what peer may use of an account's sessions. What two of peer's identities may use
// can be there twice.
func (x *index) heldLocked(held []*onChainOf, peer audit.Peer, account policy.Address) []*onChainOf {
	for client := range identities(peer) {
		if of := x.clients[client]; of != nil {
			held = append(held, of.accounts[account]...)
		}
	}
	return held
}

// newest returns the youngest session on a chain, 0 meaning any; nil if there is none. It may be brief.
func newest(held []*onChainOf, chainID uint64) (found *Session) {
	for _, on := range held {
		if chainID != 0 && on.chainID != chainID {
			continue
		}
		for _, list := range [][]*listed{on.active, on.rest} {
			if len(list) == 0 {
				continue
			}
			if last := list[len(list)-1].Load(); found == nil || byAge(found, last) < 0 {
				found = last
			}
		}
	}
	return found
}

// successor returns the session that renews id and has not ended; nil if there is none. It may be brief.
func (x *index) successor(id ID) *Session {
	x.mu.RLock()
	defer x.mu.RUnlock()
	for _, n := range x.renewals[id] {
		if next := n.Load(); !next.Status.Ended() {
			return next
		}
	}
	return nil
}
