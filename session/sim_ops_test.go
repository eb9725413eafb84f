package session

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// simOp is an operation of the driver, and how often it comes.
type simOp struct {
	name   string
	weight int
	do     func(w *simWorld)
}

var simOps []simOp

// simDeck has each operation as often as it weighs.
var simDeck []int

func init() {
	simOps = []simOp{
		{"sign", 40, (*simWorld).sign},
		{"repeat", 8, (*simWorld).repeat},
		{"pause", 20, (*simWorld).pause},
		{"land", 12, (*simWorld).land},
		{"settle", 8, (*simWorld).settle},
		{"list", 6, (*simWorld).list},
		{"usage", 6, (*simWorld).usage},
		{"create", 2, (*simWorld).create},
		{"activate", 3, func(w *simWorld) { w.move(Active, w.agent.Activate) }},
		{"revoke", 1, func(w *simWorld) { w.move(Revoked, w.agent.Revoke) }},
		{"close", 1, func(w *simWorld) { w.move(Closed, w.agent.CloseSession) }},
		{"block", 2, (*simWorld).block},
		{"lock", 1, (*simWorld).lock},
		{"unlock", 3, (*simWorld).unlock},
		{"crash", 1, (*simWorld).restart},
		{"fault", 1, (*simWorld).armFault},
	}
	for i, op := range simOps {
		simDeck = append(simDeck, slices.Repeat([]int{i}, op.weight)...)
	}
}

// one returns some session, nil if there is none.
func (w *simWorld) one() *simSession {
	if all := w.model.sessions; len(all) > 0 {
		return all[max(0, len(all)-1-w.rng.IntN(6))] // the older ones have mostly ended
	}
	return nil
}

func (w *simWorld) now() uint64 { return uint64(time.Now().Unix()) }

// sign has a client ask for a signature, mostly for a nonce that is near.
func (w *simWorld) sign() {
	s := w.one()
	if s == nil {
		w.create()
		return
	}
	w.nonce++
	nonce := s.nonce + w.rng.Uint64N(4)
	if s.nonce > 0 && w.rng.IntN(40) == 0 {
		nonce = s.nonce - 1
	}
	x := &simTx{sess: s, fee: 1 + w.rng.Uint64N(60), value: w.rng.Uint64N(40)}
	x.tx = simTransfer(s, nonce, x.fee, x.value)
	x.digest = x.tx.Digest()
	w.model.mu.Lock()
	w.model.txs[x.digest] = x
	w.model.mu.Unlock()
	w.ask(x)
}

// repeat asks again for something.
func (w *simWorld) repeat() {
	s := w.one()
	if s == nil {
		return
	}
	for _, txs := range s.released {
		if x := txs[0]; x.tx.Nonce >= s.nonce {
			w.ask(x)
			return
		}
	}
}

// ask has a client ask for x, and take its time to take the answer.
func (w *simWorld) ask(x *simTx) {
	a := w.agent
	if a.clients.Load() > 12 {
		w.pause()
		return
	}
	patience := 200*time.Millisecond + time.Duration(w.rng.Int64N(int64(8*time.Second)))
	hold, write := w.rng.Int64N(int64(2*time.Second)), w.rng.Int64N(int64(1500*time.Millisecond))
	if w.rng.IntN(2) == 0 {
		hold, write = 0, 0
	}
	a.clients.Add(1)
	a.work.Go(func() {
		defer a.clients.Add(-1)
		ctx, cancel := context.WithTimeout(a.ctx, patience)
		defer cancel()
		w.client(ctx, a, x, time.Duration(hold), time.Duration(write))
	})
}

func (w *simWorld) client(ctx context.Context, a *simAgent, x *simTx, hold, write time.Duration) {
	signed, err := a.Sign(ctx, app, &SignRequest{Session: x.sess.ID, Tx: x.tx, Method: "sim"})
	w.model.asked(x)
	if err != nil {
		return
	}
	fences := w.model.fences(x.sess)
	time.Sleep(hold)
	cut := make(chan struct{})
	refused, done := a.Release([]*Pass{signed.Pass}, func() { close(cut) })
	defer done()
	if len(refused) > 0 || a.dead.Load() {
		return
	}
	if w.model.fences(x.sess) != fences {
		w.model.fail("session %s: a signature was released after a lock, or an end of the session, was answered", x.sess.ID)
	}
	w.model.release(x, time.Now().Unix())
	select { // write(2)
	case <-time.After(write):
		if !a.dead.Load() && w.model.fences(x.sess) != fences {
			w.model.fail("session %s: a lock, or an end of the session, was answered while a signature was being written",
				x.sess.ID)
		}
	case <-cut:
	}
}

func (w *simWorld) land() {
	if s := w.one(); s != nil {
		w.model.mu.Lock()
		defer w.model.mu.Unlock()
		if w.rng.IntN(6) == 0 { // the owner used it for something else
			s.block++
			s.nonce++
			return
		}
		s.land(w.rng.Uint64(), w.now())
	}
}

func (w *simWorld) settle() {
	s := w.one()
	if s == nil || s.reached == Pending {
		return
	}
	if sess, err := w.agent.Get(s.ID); err != nil || sess.Status.Ended() { // the watcher leaves it alone
		return
	}
	w.model.mu.Lock()
	v := s.view(w.now())
	s.settled++
	w.model.mu.Unlock()
	st, err := w.agent.Settle(w.agent.ctx, s.ID, v)
	if w.answered(err) {
		if len(st.External) > 0 {
			w.model.fail("session %s: external usage %v of a chain that has none", s.ID, st.External)
		}
		w.model.mu.Lock()
		s.late = s.late && w.agent.clients.Load() > 0
		w.model.mu.Unlock()
	}
}

// Settle hands the ledger a view, as the watcher does.
func (a *simAgent) Settle(ctx context.Context, id ID, v *ChainView) (*Settlement, error) {
	return a.Sessions.ledger.Settle(ctx, id, v, time.Now(),
		&audit.Record{Event: audit.SessionReconciled, Session: string(id)})
}

func (w *simWorld) list() {
	all := w.agent.VisibleTo(app)
	for _, sess := range all {
		if sess.Status.Ended() {
			w.model.fail("session %s has ended and is listed", sess.ID)
		}
	}
	if got := w.agent.VisibleTo(stranger); len(got) > 0 {
		w.model.fail("a stranger sees %d sessions", len(got))
	}
}

func (w *simWorld) usage() {
	s := w.one()
	if s == nil {
		return
	}
	all, err := w.agent.Usage(s.ID)
	if err != nil && !w.agent.dead.Load() && w.agent.Halted() == nil {
		w.model.fail("session %s: Usage = %w", s.ID, err)
	}
	for _, u := range all {
		used := uint256.Int(u.Used)
		if u.Tracker.Kind == policy.FeeTracker && s.fee > used.Uint64() && s.settled > 0 && !s.late {
			w.model.fail("session %s: fees of %s, the chain has counted %d", s.ID, u.Used, s.fee)
		}
	}
}

func (w *simWorld) create() {
	expires := time.Now().Add(2*time.Minute + time.Duration(w.rng.Int64N(int64(15*time.Minute))))
	account := policy.Address{0xac, 19: byte(len(w.model.sessions)), 18: byte(len(w.model.sessions) >> 8)}
	sess, err := w.agent.Create(w.agent.ctx, operator, &CreateRequest{
		Kind: AGW, Spec: simSpec(expires), Account: account, ChainID: 11124, Validator: vectorValidator,
		Clients: []Client{{ID: app.UID}},
	})
	if !w.answered(err) {
		if err != nil && !w.agent.dead.Load() && w.agent.Halted() == nil && !errors.Is(err, ErrLocked) &&
			!errors.Is(err, backends.ErrUnavailable) {
			w.model.fail("Create = %w", err)
		}
		return
	}
	s := &simSession{Session: sess, reached: Pending, tried: map[Status]bool{}, released: map[uint64][]*simTx{},
		value: map[uint64]uint64{}}
	w.model.mu.Lock()
	w.model.sessions = append(w.model.sessions, s)
	w.model.mu.Unlock()
	if w.rng.IntN(4) > 0 {
		w.moveOne(s, Active, w.agent.Activate)
	}
}

// move brings some session to a status.
func (w *simWorld) move(to Status, call func(context.Context, audit.Peer, ID) (*Session, error)) {
	if s := w.one(); s != nil && (to != Active || s.reached == Pending) {
		w.moveOne(s, to, call)
	}
}

func (w *simWorld) moveOne(s *simSession, to Status, call func(context.Context, audit.Peer, ID) (*Session, error)) {
	s.tried[to] = true
	_, err := call(w.agent.ctx, operator, s.ID)
	if !w.answered(err) {
		return
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	s.reached = to
	if to != Active {
		s.stops++
	}
}

// block is the policy registry's part: it stops a session, and releases it.
func (w *simWorld) block() {
	s := w.one()
	if s == nil || s.reached != Active {
		return
	}
	for _, blocked := range []string{"policy 0: denied", ""} {
		event := audit.SessionBlocked
		if blocked == "" {
			event = audit.SessionUnblocked
		}
		_, err := w.agent.change(w.agent.ctx, s.ID, nil, event, nil,
			func(next *Session) error { next.Blocked = blocked; return nil })
		if blocked != "" && w.answered(err) {
			w.model.mu.Lock()
			s.stops++
			w.model.mu.Unlock()
		}
		if w.rng.IntN(2) == 0 {
			w.pause()
		}
	}
}

func (w *simWorld) lock() {
	w.model.locked = ""
	err := w.agent.Lock()
	if w.agent.dead.Load() {
		return
	}
	w.model.mu.Lock()
	defer w.model.mu.Unlock()
	w.model.locks++ // it counts until this process ends, also after an error
	if err == nil {
		w.model.locked = "yes"
	}
}

func (w *simWorld) unlock() {
	if !w.agent.Locked() {
		return
	}
	w.model.locked = ""
	if err := w.agent.Unlock(w.agent.LockVersion(), nil); w.answered(err) {
		w.model.locked = "no"
	}
}
