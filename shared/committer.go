package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keyward/keyward/audit"
)

const (
	maxBatch  = 256             // requests
	syncBytes = 1 << 20         // of the trail that are only in the database's journal
	syncAge   = time.Second     // and for how long
	giveUp    = 3 * time.Second // after which callers are told that the database can't be reached
	pauseMax  = 500 * time.Millisecond
)

// committer sends what waits, a batch at a time. It alone uses the guard and the trail.
type committer struct {
	ledger *Ledger
	conn   *conn  // nil: none
	batch  uint64 // the last that was answered; only meaningful with a connection
	lag    int    // bytes of the trail that are not on disk
	lines  []byte
}

func (c *committer) run() {
	defer func() { c.conn.close() }()
	l := c.ledger
	c.batch = c.conn.joined.Batch
	tick := time.NewTicker(syncAge)
	defer tick.Stop()
	for {
		select {
		case <-l.wake:
		case <-tick.C:
			c.syncTrail()
			if c.conn == nil {
				l.joinAgain()
			}
		case <-l.ctx.Done():
			c.leave()
			return
		}
		c.joinAgain()
		for c.one() {
		}
	}
}

// take returns the next items in line.
func (l *Ledger) take() []*item {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.queue), l.cfg.most)
	batch := l.queue[:n:n]
	l.queue = l.queue[n:]
	return batch
}

// one decides the next batch; false: nothing waits.
func (c *committer) one() bool {
	l := c.ledger
	batch := l.take()
	if len(batch) == 0 {
		return false
	}
	err := l.Halted()
	if err == nil {
		err = c.decide(batch)
	}
	if errors.Is(err, ErrFenced) || errors.Is(err, ErrLost) || errors.Is(err, errBroken) {
		l.halt(err)
	}
	for _, it := range batch {
		if err != nil {
			it.finish(err)
		}
		close(it.over)
	}
	return true
}

// joinAgain joins if the watch asks for it: after the database has failed over each agent must find its head there,
// also one that has nothing to ask.
func (c *committer) joinAgain() {
	l := c.ledger
	l.mu.Lock()
	asked := l.rejoin && l.halted == nil
	l.rejoin = false
	l.mu.Unlock()
	if !asked {
		return
	}
	c.conn.close()
	c.conn = nil
	sent := false
	switch err := c.open(&sent); {
	case errors.Is(err, ErrFenced), errors.Is(err, ErrLost):
		l.halt(err)
	case err == nil:
		l.reached(nil)
	}
}

// finish makes err final, once.
func (it *item) finish(err error) {
	select {
	case <-it.done:
	default:
		it.err = err
		close(it.done)
	}
}

// errBroken: this agent and the database don't agree on what was written, or the agent's own disk fails. Nothing is
// signed after it.
var errBroken = errors.New("the agent's part of the shared ledger is broken; restart the agent")

// answer is what charge returns.
type answer struct {
	Seq      uint64    `json:"seq"`
	Head     string    `json:"head"`
	Verdicts []verdict `json:"verdicts"`
}

// decide asks the database for the verdicts on a batch until it answers. A call without an answer may have been
// committed: the same batch is asked again, and a batch that the database says it has not decided is the only one that
// is given up.
func (c *committer) decide(batch []*item) error {
	l := c.ledger
	requests := make([]*request, len(batch))
	for i, it := range batch {
		requests[i] = it.request
	}
	text, err := json.Marshal(requests)
	if err != nil {
		return err
	}
	begun, pause := time.Now(), 5*time.Millisecond
	sent := false // some try may have been committed
	for {
		var a *answer
		if a, err = c.ask(string(text), &sent); err == nil {
			l.reached(nil)
			return c.apply(batch, a)
		}
		switch {
		case errors.Is(err, ErrFrozen): // the database has said so after it has looked for the batch: it has not decided it
			return err
		case !errors.Is(err, ErrUnreachable):
			return err
		case l.ctx.Err() != nil:
			return fmt.Errorf("%w: %w", ErrClosed, err)
		case !sent && time.Since(begun) > giveUp:
			l.reached(err)
			return err
		case time.Since(begun) > giveUp: // callers go; what was asked is asked on
			l.reached(err)
			for _, it := range batch {
				it.finish(fmt.Errorf("%w (the charge may be counted)", err))
			}
		}
		select {
		case <-time.After(pause):
		case <-l.ctx.Done():
		}
		pause = min(2*pause, pauseMax)
	}
}

// reached notes whether the database answers. While it does not, new requests are refused without a wait.
func (l *Ledger) reached(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reaching = err
}

// ask sends a batch once.
func (c *committer) ask(text string, sent *bool) (*answer, error) {
	l := c.ledger
	if err := c.open(sent); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.ctx), callTime)
	defer cancel()
	*sent = true
	l.mu.Lock()
	epoch, done := l.epoch, l.doneLocked()
	l.mu.Unlock()
	reply, err := c.conn.call(ctx, "charge", literal(l.cfg.Agent), fmt.Sprint(epoch), fmt.Sprint(c.batch+1),
		fmt.Sprint(done),
		fmt.Sprint(l.guard.mark().synced), literal(text))
	if err != nil {
		if !errors.Is(err, ErrFrozen) {
			c.conn.close()
			c.conn = nil
		}
		return nil, err
	}
	if l.cfg.loses != nil && l.cfg.loses() {
		c.conn.close()
		c.conn = nil
		return nil, fmt.Errorf("%w: a test says so", ErrUnreachable)
	}
	a := new(answer)
	if err := json.Unmarshal([]byte(reply), a); err != nil {
		return nil, fmt.Errorf("%w: the database's answer: %w", errBroken, err)
	}
	return a, nil
}

// open joins if there is no connection. sent says that a batch is under way: if the database has it, its answer is
// asked for by its number.
func (c *committer) open(sent *bool) error {
	if c.conn != nil {
		return nil
	}
	conn, err := c.ledger.connect(c.ledger.ctx, false)
	if err != nil {
		return err
	}
	c.conn = conn
	if !*sent || conn.joined.Batch < c.batch { // lower: batches without a record were lost; they have changed nothing
		c.batch = conn.joined.Batch
	}
	return nil
}

// apply takes note of the database's verdicts: the records are sealed again and must come to the same head; the mark is
// on disk before a caller knows.
func (c *committer) apply(batch []*item, a *answer) error {
	l := c.ledger
	if len(a.Verdicts) != len(batch) {
		return fmt.Errorf("%w: %d verdicts on %d requests", errBroken, len(a.Verdicts), len(batch))
	}
	l.mu.Lock()
	head := l.head
	l.mu.Unlock()
	lines, errs := c.lines[:0], make([]error, len(batch))
	for i, it := range batch {
		v := &a.Verdicts[i]
		rec := it.rec
		if errs[i] = it.judge(v); v.V == "stays" {
			rec = it.stays
		} else if v.V != "ok" {
			continue
		}
		if rec == nil {
			continue
		}
		if errs[i] != nil {
			return fmt.Errorf("%w: %w", errBroken, errs[i])
		}
		var err error
		if lines, head, err = head.SealWhole(lines, rec); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
		it.seq = head.Seq
	}
	if !headOf(head, a.Seq, a.Head) {
		return fmt.Errorf("%w: the database has sealed record %d with %s, and the agent %d with %x", errBroken, a.Seq, a.Head,
			head.Seq, head.Hash)
	}
	c.batch++
	if err := c.keep(lines, head); err != nil {
		return err
	}
	c.lines = lines
	l.mu.Lock()
	l.head = head
	for i, it := range batch {
		if it.charge && errs[i] == nil {
			l.open[it.seq] = struct{}{}
		}
	}
	l.mu.Unlock()
	for i, it := range batch {
		it.finish(errs[i])
	}
	return nil
}

// keep writes lines to the trail and head to the guard. The guard alone is synced: the database has the lines until the
// trail is.
func (c *committer) keep(lines []byte, head audit.Head) error {
	l := c.ledger
	if err := l.guard.update(func(m *mark) { m.batch, m.head = c.batch, head }); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if err := l.trail.Append(lines); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if c.lag += len(lines); c.lag >= syncBytes {
		c.syncTrail()
	}
	return nil
}

// syncTrail puts the trail on disk, after which the database may drop its lines.
func (c *committer) syncTrail() {
	l := c.ledger
	if c.lag == 0 || l.Halted() != nil {
		return
	}
	if err := l.trail.Sync(); err != nil {
		l.halt(fmt.Errorf("%w: %w", errBroken, err))
		return
	}
	c.lag = 0
	if err := l.guard.update(func(m *mark) { m.synced = m.head.Seq }); err != nil {
		l.halt(fmt.Errorf("%w: %w", errBroken, err))
	}
}

// leave tells the database that the agent stops, if it can be reached.
func (c *committer) leave() {
	l := c.ledger
	for batch := l.take(); len(batch) > 0; batch = l.take() {
		for _, it := range batch {
			it.finish(ErrClosed)
			close(it.over)
		}
	}
	c.syncTrail()
	if c.conn == nil || l.Halted() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.conn.call(ctx, "leave", literal(l.cfg.Agent), fmt.Sprint(l.epoch)); err != nil {
		l.cfg.Logger.Warn("leaving the shared ledger failed; a revoke waits for this agent until it is back", "agent",
			l.cfg.Agent, "error", err)
	}
}

// doneLocked is the last record up to which every signature has left or never will.
func (l *Ledger) doneLocked() uint64 {
	done := l.head.Seq
	for seq := range l.open {
		done = min(done, seq-1)
	}
	return done
}
