// Package shared is a ledger that several agents count in. A PostgreSQL database decides each charge, so that limits
// hold whichever agent asks, and no agent owns a session. See docs/shared-ledger.md for what is promised in which
// failure.
//
// An agent sends what waits in one batch: one call of the database's function charge, one simple Query message, one
// batch under way. The same batch is asked again until it is answered, and the database decides it once. The answer's
// last record is on the agent's own disk before a signature leaves (guard), so that a database which lost it is found
// out.
package shared

import (
	"context"
	"sync"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// Reservation is a charge that the database decides.
type Reservation struct {
	Counted []policy.Charge // what was added beyond what the nonce had cost. Final once Durable returned nil
	Repeat  bool            // the digest was charged before. Final with Counted
	// Replaces says that another digest was charged for the nonce before. Final with Counted.
	Replaces bool

	ledger  *Ledger
	session session.ID
	grant   session.Grant
	stops   uint64
	item    *item
	once    sync.Once
}

// Reserve sends g's charges against session id to the database with the record rec, and returns without its verdict.
// The device may sign meanwhile. What it made is thrown away unless Durable returns nil and [Ledger.Release] accepts
// the reservation. The caller calls Done when the signature has left or never will.
func (l *Ledger) Reserve(id session.ID, g session.Grant, rec *audit.Record) (*Reservation, error) {
	l.mu.Lock()
	k, locked := l.sessions[id], l.locked
	l.mu.Unlock()
	if locked {
		return nil, session.ErrLocked
	}
	if k == nil || !k.Signs() {
		return nil, session.NotActive(k.state())
	}
	own := *rec
	request, err := chargeOf(id, &g, &own)
	if err != nil {
		return nil, err
	}
	r := &Reservation{ledger: l, session: id, grant: g, stops: k.stops}
	r.item = &item{request: request, rec: &own, charge: true, judge: func(v *verdict) (err error) {
		if err := refusal(v, k.Session, &g); err != nil {
			return err
		}
		r.Repeat, r.Replaces = v.Repeat, v.Replaces
		r.Counted, err = counted(v, &g, &own)
		return err
	}}
	return r, l.enqueue(r.item)
}

// state is the session; nil has none.
func (k *known) state() *session.Session {
	if k == nil {
		return nil
	}
	return k.Session
}

// Durable returns nil once the charge and its record are committed and this agent's disk knows. A *policy.Denial or
// session.ErrLocked is a refusal: nothing was charged. After any other error the charge may be counted and stays.
func (r *Reservation) Durable(ctx context.Context) error { return r.item.wait(ctx) }

// Record is the number of the charge's record in this agent's trail, once Durable returned nil.
func (r *Reservation) Record() uint64 { return r.item.seq }

// Done says that the signature has left, or never will.
func (r *Reservation) Done() {
	r.once.Do(func() {
		go func() { // its verdict may still come
			<-r.item.over
			r.ledger.mu.Lock()
			defer r.ledger.mu.Unlock()
			delete(r.ledger.open, r.item.seq)
		}()
	})
}

// TakeBack takes back the charges of reservations for one digest, all that this agent has made for it since it was
// charged, if the backend is certain that no signature was made in any of them. It reports whether that was done: not
// if any agent has asked for the digest besides. reverted is the record of that, stays the one of a charge that stays.
func (l *Ledger) TakeBack(ctx context.Context, all []*Reservation, reverted, stays audit.Record) (done bool,
	err error) {
	r := all[0]
	b := &back{Session: string(r.session), Nonce: r.item.request.Nonce, Digest: r.item.request.Digest, Calls: len(all)}
	for _, k := range r.item.request.Counters {
		b.Counters = append(b.Counters, []any{k[0], k[2], k[4]})
	}
	it := &item{request: &request{Back: b}, rec: &reverted, stays: &stays,
		judge: func(v *verdict) error { done = v.V == "ok"; return nil }}
	if it.request.Before, err = whole(&reverted); err != nil {
		return false, err
	}
	if it.request.Stays, err = whole(&stays); err != nil {
		return false, err
	}
	if err := l.enqueue(it); err != nil {
		return false, err
	}
	if err := it.wait(ctx); err != nil { // its verdict may still come
		return false, err
	}
	return done, nil
}
