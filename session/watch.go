package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// WatchConfig is what a [Watcher] needs besides the chains.
type WatchConfig struct {
	Interval         time.Duration // between rounds of reading one chain; 0: 15s
	ClockBound       time.Duration // between the agent's clock and block times; 0: not compared
	RegistryInterval time.Duration // between readings of a policy registry; 0: 1m
	RegistryMaxAge   time.Duration // of the registry's answer, after which nothing is signed; 0: no answer is too old
	// StopOnExternalUse ends a session of which the chain has counted what the ledger can't
	// explain. Otherwise that is only told.
	StopOnExternalUse bool
}

// WatchedChain is a chain that a [Watcher] reads.
type WatchedChain struct {
	Client    *chain.Client
	Validator policy.Address // of sessions that are imported
	// Registry says that sessions stop when the chain's registry does not allow one of
	// their policies any more.
	Registry bool
}

// Watcher keeps sessions in line with their chains: it activates and ends them, settles their
// liabilities, asks the policy registry and compares clocks. It reads a chain in
// rounds, one at a time, and holds no lock meanwhile. Signing asks only what it has in memory.
//
// A chain that can't be read stops nothing: limits are then held to all that was signed since it was
// last read, which is more than can have landed. What the operator has bounded is the age of
// the registry's answers, and the clock.
//
// Methods are safe for concurrent use. A nil Watcher watches nothing.
type Watcher struct {
	sessions *Sessions
	cfg      WatchConfig
	start    time.Time
	chains   map[uint64]*watched // by chain id
}

// watched is one chain and what is known of it.
type watched struct {
	WatchedChain
	clock    clock
	registry chain.RegistryCache
	rounds   *sync.Mutex // held for a round: one at a time, whatever the configuration
	since    time.Time   // when the registry began to be asked

	mu         sync.Mutex
	err        error     // why the last round failed
	clockErr   error     // of the last round, for the log
	asked      time.Time // when the registry was asked last, with success
	registryAt map[ID]time.Time
	seen       map[ID]Seen
}

// Seen is what the chain last said about a session.
type Seen struct {
	Status chain.SessionStatus
	Block  chain.Block // of it, where the session has been settled; zero: only the status was read
	At     time.Time   // on the agent's clock
	Err    error       // why it could not be read the last time; the rest is from before
}

// NewWatcher makes a watcher; [Watcher.Run] has it watch.
func NewWatcher(s *Sessions, cfg WatchConfig, chains []WatchedChain) *Watcher {
	if cfg.Interval == 0 {
		cfg.Interval = 15 * time.Second
	}
	if cfg.RegistryInterval == 0 {
		cfg.RegistryInterval = time.Minute
	}
	w := &Watcher{sessions: s, cfg: cfg, start: s.cfg.Now(), chains: map[uint64]*watched{}}
	for _, c := range chains {
		w.chains[c.Client.ID()] = &watched{
			WatchedChain: c, clock: clock{bound: cfg.ClockBound}, rounds: new(sync.Mutex), since: w.start,
			registryAt: map[ID]time.Time{}, seen: map[ID]Seen{},
		}
	}
	return w
}

// Run watches until ctx is done.
func (w *Watcher) Run(ctx context.Context) {
	var chains sync.WaitGroup
	for _, c := range w.chains {
		chains.Go(func() {
			for ctx.Err() == nil {
				w.round(ctx, c)
				select {
				case <-time.After(w.cfg.Interval):
				case <-ctx.Done():
				}
			}
		})
	}
	chains.Wait()
}

// round reads the chain once, and tells when that begins to fail and when it works again.
func (w *Watcher) round(ctx context.Context, c *watched) {
	c.rounds.Lock()
	defer c.rounds.Unlock()
	err := w.read(ctx, c)
	if ctx.Err() != nil {
		return
	}
	clockErr := c.clock.check(w.moment(w.sessions.cfg.Now()))
	c.mu.Lock()
	before, clockBefore := c.err, c.clockErr
	c.err, c.clockErr = err, clockErr
	c.mu.Unlock()
	log := w.sessions.cfg.Logger.With("chain", c.Client.Name())
	switch {
	case clockErr != nil && clockBefore == nil:
		log.Error("nothing is signed for the chain", "error", clockErr)
	case clockErr == nil && clockBefore != nil:
		log.Info("the clock is right again")
	}
	switch {
	case err != nil && before == nil:
		log.Warn("the chain can't be read; signing goes on with what is known", "error", err)
	case err == nil && before != nil:
		log.Info("the chain can be read again")
	}
}

// read does one round. A session that can't be read does not keep the others from being read, unless the
// chain itself can't be.
func (w *Watcher) read(ctx context.Context, c *watched) error {
	head, err := c.Client.Head(ctx)
	if err != nil {
		return err
	}
	c.clock.look(head, w.moment(w.sessions.cfg.Now()))
	var first error
	for _, sess := range w.sessionsOn(c) {
		err := w.readSession(ctx, c, sess)
		if ctx.Err() != nil || unreadable(err) {
			return err
		}
		if first == nil && err != nil {
			first = fmt.Errorf("session %s: %w", sess.ID, err)
		}
	}
	if err := w.readRegistry(ctx, c); err != nil {
		return err
	}
	return first
}

// unreadable reports whether err is of the chain as a whole. A block that was reorganised away under a
// reading is not.
func unreadable(err error) bool {
	return errors.Is(err, chain.ErrWrongChain) || errors.Is(err, chain.ErrUnavailable) && !errors.Is(err, chain.ErrReorg)
}

// sessionsOn returns the agw sessions of the chain that have not ended. An eoa session has
// nothing on chain that says what it used: all that it signed stays counted.
func (w *Watcher) sessionsOn(c *watched) []*Session {
	return w.sessions.filter(func(s *Session) bool {
		return s.ChainID == c.Client.ID() && s.Kind == AGW && !s.Status.Ended()
	})
}

// readSession reads one session, and does what follows from it.
func (w *Watcher) readSession(ctx context.Context, c *watched, sess *Session) error {
	var seen Seen
	var err error
	if sess.Status == Pending {
		seen.Status, err = c.Client.SessionStatus(ctx, sess.Account, sess.Hash)
	} else {
		seen, err = w.settle(ctx, c, sess)
	}
	seen.At = w.sessions.cfg.Now()
	if errors.Is(err, chain.ErrReverted) {
		// The validator can't say what is used; see chain.Snapshot. Everything stays counted, and the status is known.
		seen.Err, err = err, nil
	}
	if err == nil {
		err = w.follow(ctx, sess, seen)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		seen = c.seen[sess.ID]
		seen.Err = err
	}
	c.seen[sess.ID] = seen
	return err
}

// onChain is the detail of a record about what was seen on chain.
type onChain struct {
	Status string `json:"chainStatus"`
	Block  uint64 `json:"block,omitempty"`
}

// follow brings the session to the status that it has on chain. NotInitialized of an active session, which
// a reorganisation leaves, changes nothing: what is signed can't land until the owner's
// transaction has landed again. An end is final here whatever becomes of it on chain.
func (w *Watcher) follow(ctx context.Context, sess *Session, seen Seen) (err error) {
	detail := onChain{seen.Status.String(), seen.Block.Number}
	s := w.sessions
	switch {
	case seen.Status == chain.Closed:
		_, err = s.move(ctx, nil, sess.ID, Closed, audit.SessionClosed, detail)
	case seen.Status == chain.Expired:
		_, err = s.move(ctx, nil, sess.ID, Expired, audit.SessionExpired, detail)
	case seen.Status == chain.Active && sess.Status == Pending && !s.pastExpiry(sess, s.cfg.Now()):
		_, err = s.move(ctx, nil, sess.ID, Active, audit.SessionActive, detail)
	default:
		return nil
	}
	if errors.Is(err, ErrInvalid) {
		return nil // the operator, or the time, was first
	}
	if err == nil {
		s.cfg.Logger.Info("session follows the chain", "session", sess.ID, "chainStatus", seen.Status.String())
	}
	return err
}

// settle brings the session's totals in line with the chain.
func (w *Watcher) settle(ctx context.Context, c *watched, sess *Session) (seen Seen, err error) {
	snap, err := c.Client.Snapshot(ctx, sess.Account, sess.Spec)
	if err != nil {
		return seen, err
	}
	seen = Seen{Status: snap.Status, Block: snap.Block}
	v, err := viewOf(snap)
	if err != nil {
		return seen, err
	}
	l := w.sessions.ledger
	last, suspect, err := l.Unexplained(sess.ID, v)
	if err != nil {
		return seen, err
	}
	if suspect { // rather than raise an alarm over what a reorganisation has done
		if err := c.Client.Canonical(ctx, last); errors.Is(err, chain.ErrReorg) {
			v.Reorged = true
		} else if err != nil {
			return seen, err
		}
	}
	rec := w.sessions.record(audit.SessionReconciled, nil, sess)
	st, err := l.Settle(ctx, sess.ID, v, w.sessions.cfg.Now(), rec)
	if err != nil {
		return seen, err
	}
	if len(st.After) > 0 {
		w.sessions.forecast.use(sess.ID)
	}
	return seen, w.external(ctx, sess, st)
}

// viewOf is what a snapshot says for [Ledger.Settle].
func viewOf(s *chain.Snapshot) (*ChainView, error) {
	if s.Used == nil {
		return nil, fmt.Errorf("sessionState: %w", chain.ErrReverted)
	}
	return &ChainView{Block: s.Block, Nonce: s.Nonce, Used: s.Used}, nil
}

// external raises the alarm over usage that nothing signed here explains, and ends the session if that is
// configured: also when the agent stopped between the two.
func (w *Watcher) external(ctx context.Context, sess *Session, st *Settlement) error {
	s := w.sessions
	if len(st.External) > 0 {
		s.cfg.Logger.Error("ALARM: the chain has counted usage that this agent did not sign: the session or its key is "+
			"used from elsewhere",
			"session", sess.ID, "account", sess.Account.String(), "block", st.Block, "usage", st.External.String())
		rec := s.record(audit.SessionExternal, nil, sess)
		rec.Detail = st
		if err := s.Record(ctx, *rec); err != nil {
			return err
		}
	}
	if !w.cfg.StopOnExternalUse {
		return nil
	}
	if last, _ := s.ledger.settledOf(sess.ID); last == nil || len(last.External) == 0 {
		return nil
	}
	_, err := s.move(ctx, nil, sess.ID, Revoked, audit.SessionRevoked, map[string]string{"reason": "external usage"})
	if errors.Is(err, ErrInvalid) {
		return nil // it has ended already
	}
	return err
}

// moment is now by both clocks.
func (w *Watcher) moment(now time.Time) moment { return momentOf(w.start, now) }

// refuse says why nothing may be signed for sess now: [ErrClock], [ErrRegistryStale] or nil. It
// looks only at memory.
func (w *Watcher) refuse(sess *Session, now time.Time) error {
	if w == nil || w.chains[sess.ChainID] == nil {
		return nil
	}
	c := w.chains[sess.ChainID]
	if err := c.clock.check(w.moment(now)); err != nil {
		return err
	}
	return w.registryAge(c, sess, now)
}

// ChainState is how a watched chain is.
type ChainState struct {
	Name       string
	ID         uint64
	Head       chain.Block // the newest block that was seen
	ReadAt     time.Time   // when; zero: never
	Err        error       // why the last round failed
	Clock      error       // an [ErrClock], while nothing is signed because of it
	Registry   bool        // it is asked
	RegistryAt time.Time   // when it was asked last; zero: never
	Blocked    int         // sessions stopped by it
	External   int         // sessions with external usage, also those that have ended
	Exposed    int         // those of External that have not ended
}

// Chains returns how the watched chains are, by name.
func (w *Watcher) Chains() []ChainState {
	if w == nil {
		return nil
	}
	var all []ChainState
	for _, c := range w.chains {
		st := ChainState{Name: c.Client.Name(), ID: c.Client.ID(), Registry: c.Registry,
			Clock: c.clock.check(w.moment(w.sessions.cfg.Now()))}
		st.Head, st.ReadAt = c.clock.last()
		c.mu.Lock()
		st.Err, st.RegistryAt = c.err, c.asked
		c.mu.Unlock()
		for sess := range w.sessions.ledger.index.briefly() {
			if sess.ChainID != st.ID {
				continue
			}
			if sess.Blocked != "" && !sess.Status.Ended() {
				st.Blocked++
			}
			if last, _ := w.sessions.ledger.settledOf(sess.ID); last != nil && len(last.External) > 0 {
				st.External++
				if !sess.Status.Ended() {
					st.Exposed++
				}
			}
		}
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b ChainState) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Seen returns what the chain last said about a session; false if it has said nothing.
func (w *Watcher) Seen(sess *Session) (Seen, bool) {
	if w == nil || w.chains[sess.ChainID] == nil {
		return Seen{}, false
	}
	c := w.chains[sess.ChainID]
	c.mu.Lock()
	defer c.mu.Unlock()
	seen, ok := c.seen[sess.ID]
	return seen, ok
}

// String lists the amounts in a fixed order.
func (a amounts) String() string {
	var parts []string
	for t, amount := range a {
		parts = append(parts, limitText(t)+" "+amount.String())
	}
	slices.Sort(parts)
	return fmt.Sprint(parts)
}

// limitText is the text form of a limit: of its tracker, whatever the period.
func limitText(t policy.Tracker) string {
	t.Allowance, t.PeriodID = false, 0
	return t.String()
}
