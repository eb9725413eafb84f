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
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/jackc/pgx/v5"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
)

// Errors that callers test for with errors.Is.
var (
	// ErrUnreachable: the database does not answer. Nothing is signed until it does; a retry may succeed.
	ErrUnreachable = errors.New("the shared ledger's database can't be reached; nothing is signed until it answers: " +
		"try again")
	// ErrFrozen: the database has failed over, or lost records, and some agent has not found its own. A retry may
	// succeed.
	ErrFrozen = errors.New("the shared ledger waits until every agent has found its records in the database, or the " +
		"operator reconciles")
	// ErrLost: the database has lost records that this agent had acknowledged. The operator reconciles; see
	// docs/shared-ledger.md.
	ErrLost = errors.New("the database has lost records that this agent had acknowledged: the operator has to reconcile")
	// ErrFenced: the operator has fenced this agent, or a later process of the same agent runs. This process signs
	// nothing more.
	ErrFenced = errors.New("this agent is fenced")
	// ErrForged: a session in the database was not written by an agent.
	ErrForged = errors.New("a session in the database has a wrong MAC: it was not written by an agent")
	// ErrConflict: another agent has changed the session meanwhile. A retry sees its change.
	ErrConflict = errors.New("another agent has changed the session meanwhile")
	// ErrSchema: the schema of the database is not this program's.
	ErrSchema = errors.New("the database's schema does not fit this program")
	// ErrInUse: another process of this host runs as this agent.
	ErrInUse = errors.New("another process uses this agent's state")
	// ErrClosed: the ledger was closed.
	ErrClosed = errors.New("the agent is stopping")
)

// Config is what [Open] needs.
type Config struct {
	Conn   *pgx.ConnConfig // of the agent's role
	Agent  string          // its name, see [Enroll]
	Dir    string          // for its guard file and its trail; of this agent alone
	MACKey []byte          // of the sessions' MACs, the same for all agents; 32 bytes or more, not kept in the database
	Logger *slog.Logger    // nil: slog.Default
	// Patience is how long a revoke waits for the other agents; 0: 5 seconds.
	Patience time.Duration

	most  int         // requests of a batch, for the benchmark; 0: maxBatch
	loses func() bool // tests: the answer to a batch that the database has decided does not arrive
}

// Ledger is an agent's part of a shared ledger. Methods are safe for concurrent use.
type Ledger struct {
	cfg   Config
	guard *guard
	trail *audit.Trail

	mu       sync.Mutex
	epoch    int64 // 0: not joined yet
	sessions map[session.ID]*known
	version  uint64 // of the store, as read last
	locked   bool
	acked    uint64 // the last version that the database knows that this agent obeys
	ackedAny bool
	watching error // nil: what was read last is not older than a second or so
	reaching error // nil: the last batch was answered
	halted   error // not nil: this process signs nothing any more
	closed   bool
	queue    []*item
	head     audit.Head          // of the last record that is answered
	open     map[uint64]struct{} // records of charges whose signatures may still leave
	writers  map[*writer]struct{}

	side    sideConn
	rejoin  bool          // the committer is to join again
	wake    chan struct{} // for the committer
	look    chan struct{} // for the watch
	obeyed  chan struct{} // closed and replaced with each version that was read
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// known is a session as it was read last.
type known struct {
	*session.Session
	version uint64
	hold    bool
	stops   uint64 // counts the times that it stopped signing
}

// item waits for the database's verdict.
type item struct {
	request *request
	rec     *audit.Record        // nil: none
	stays   *audit.Record        // in its place if a charge stays; nil: none
	judge   func(*verdict) error // called once, with the verdict; it completes rec
	charge  bool
	done    chan struct{} // closed when err is final
	err     error
	seq     uint64        // of rec. Final once over is closed
	over    chan struct{} // closed when the verdict is known or the batch is given up; a caller may have gone before
}

// Open joins the shared ledger and reads its sessions. It fails if the database can't be reached, has lost what this
// agent had acknowledged ([ErrLost]), or if the agent is fenced ([ErrFenced]).
func Open(ctx context.Context, cfg Config) (_ *Ledger, err error) {
	if len(cfg.MACKey) < minMACKey {
		return nil, fmt.Errorf("the key of the sessions' MACs has %d bytes: %d or more are needed", len(cfg.MACKey),
			minMACKey)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.most == 0 {
		cfg.most = maxBatch
	}
	if cfg.Patience == 0 {
		cfg.Patience = 5 * time.Second
	}
	l := &Ledger{
		cfg: cfg, sessions: map[session.ID]*known{}, open: map[uint64]struct{}{}, writers: map[*writer]struct{}{},
		wake: make(chan struct{}, 1), look: make(chan struct{}, 1), obeyed: make(chan struct{}),
	}
	c, err := l.first(ctx)
	if err != nil {
		return nil, err
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	w := &watch{ledger: l}
	if err := w.look(ctx); err != nil {
		l.cancel()
		return nil, errors.Join(err, c.close(), w.close(), l.trail.Close(), l.guard.close())
	}
	l.running.Add(2)
	go func() { defer l.running.Done(); (&committer{ledger: l, conn: c}).run() }()
	go func() { defer l.running.Done(); w.run() }()
	return l, nil
}

// first opens the agent's files and joins with what they hold.
func (l *Ledger) first(ctx context.Context) (c *conn, err error) {
	g, found, err := openGuard(guardPath(l.cfg.Dir))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	l.guard = g
	if c, err = l.connect(ctx, !found); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	lines, err := c.journal(ctx, l)
	if err != nil {
		return nil, err
	}
	last := g.mark()
	head, journal := last.head, []byte(nil)
	for _, line := range lines {
		if line.seq > last.synced {
			journal = append(append(journal, line.text...), '\n')
		}
		if line.seq <= last.head.Seq {
			continue
		}
		if head, err = head.Follow(line.text); err != nil {
			return nil, fmt.Errorf("the agent's records in the database: %w", err)
		}
	}
	if l.trail, l.head, err = audit.OpenTrail(vfs.Default, filepath.Join(l.cfg.Dir, "audit.jsonl"), head,
		journal); err != nil {
		return nil, err
	}
	if l.head.Seq != c.joined.Seq || hex.EncodeToString(l.head.Hash[:]) != c.joined.Head {
		return nil, errors.Join(fmt.Errorf("%w: it has records up to %d, the agent up to %d", ErrLost, c.joined.Seq,
			l.head.Seq), l.trail.Close())
	}
	err = g.update(func(m *mark) { m.batch, m.head, m.synced = c.joined.Batch, l.head, l.head.Seq }) // OpenTrail syncs
	return c, err
}

// Close waits for the batch that is under way and leaves: a revoke elsewhere does not wait for this agent any more.
func (l *Ledger) Close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return nil
	}
	l.awaitWriters(nil)
	l.cancel()
	l.running.Wait()
	return errors.Join(l.side.close(), l.trail.Close(), l.guard.close())
}

// enqueue puts items in line, next to each other.
func (l *Ledger) enqueue(items ...*item) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fitLocked(); err != nil {
		return err
	}
	for _, it := range items {
		it.done, it.over = make(chan struct{}), make(chan struct{})
	}
	l.queue = append(l.queue, items...)
	nudge(l.wake)
	return nil
}

// nudge wakes who waits on c.
func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is told already
	}
}

// fitLocked is why nothing can be signed now.
func (l *Ledger) fitLocked() error {
	switch {
	case l.closed:
		return ErrClosed
	case l.halted != nil:
		return l.halted
	case l.watching != nil:
		return l.watching
	}
	return l.reaching
}

// wait returns when the verdict is there. After ctx's error the charge may be counted.
func (it *item) wait(ctx context.Context) error {
	select {
	case <-it.done:
		return it.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the shared ledger: %w", ctx.Err())
	}
}

// halt stops this process for good.
func (l *Ledger) halt(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halted == nil {
		l.halted = err
		l.cfg.Logger.Error("the shared ledger has stopped; nothing is signed any more", "agent", l.cfg.Agent, "error", err)
	}
}

// Halted is why this process signs nothing any more; nil: it does.
func (l *Ledger) Halted() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.halted
}

// whole is all of a record without a verdict.
func whole(rec *audit.Record) (string, error) {
	before, after, err := rec.Halves()
	return before + after, err
}

// Record writes a record and returns its number once it is committed.
func (l *Ledger) Record(ctx context.Context, rec audit.Record) (uint64, error) {
	it := &item{request: &request{}, rec: &rec, judge: func(*verdict) error { return nil }}
	var err error
	if it.request.Before, err = whole(&rec); err != nil {
		return 0, err
	}
	if err := l.enqueue(it); err != nil {
		return 0, err
	}
	err = it.wait(ctx)
	return it.seq, err
}

// Head is the last record of this agent that is committed.
func (l *Ledger) Head() audit.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}
