package session

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/keyward/keyward/audit"
)

// The trail is synced after this much was appended, and this often if there was
// anything. Until then the ledger's journal has the lines, so that a grant waits for one
// file's disk writes and not two.
const (
	journalBytes = 1 << 20
	journalAge   = time.Second
)

// entry is one change that becomes durable with its audit record, or not at all.
type entry struct {
	rec    *audit.Record // nil: none
	change *change       // nil: only the record
	after  func()        // runs with Ledger.mu held once on disk; may be nil
	done   chan struct{} // closed when err is final
	err    error
	seq    uint64    // the number of rec; 0: it has none. Final with err
	at     time.Time // when err became final
}

// enqueueLocked puts e in line. Entries reach the disk in the order of their memory
// effects, because both happen under one hold of mu: a replacement whose cost was
// worked out from an earlier signature must not reach the disk before it.
func (l *Ledger) enqueueLocked(e *entry) error {
	if err := l.index.details.failure(); err != nil && l.halted == nil {
		l.halted = fmt.Errorf("%w: %w", ErrHalted, err)
	}
	if l.halted != nil {
		return l.halted
	}
	if l.closed {
		return fmt.Errorf("%w: the agent is stopping", ErrHalted)
	}
	e.done = make(chan struct{})
	l.queue = append(l.queue, e)
	select {
	case l.wake <- struct{}{}:
	default: // the committer is already told
	}
	return nil
}

// wait returns when e is on disk, or could not be written. Where ctx ends first, e may
// still become durable.
func (e *entry) wait(ctx context.Context) error {
	select {
	case <-e.done:
		return e.err
	case <-ctx.Done():
		return fmt.Errorf("waiting for the ledger: %w", ctx.Err())
	}
}

// run is the committer: it takes all that wait, makes them durable in one go, and
// takes all that came meanwhile (group commit).
func (l *Ledger) run() {
	defer close(l.stopped)
	tick := time.NewTicker(journalAge)
	defer tick.Stop()
	for {
		select {
		case <-l.wake:
			l.commitAll()
		case <-tick.C:
			l.haltOn(l.syncTrail())
		case <-l.closing:
			l.commitAll()
			l.haltOn(l.syncTrail())
			return
		}
	}
}

func (l *Ledger) commitAll() {
	l.mu.Lock()
	batch := l.queue
	l.queue = nil
	err := l.halted
	l.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	if err == nil {
		err = l.haltOn(l.commit(batch))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, e := range batch {
		e.at = now
		if e.err = err; err == nil && e.after != nil {
			e.after()
		}
		close(e.done)
	}
}

// commit makes entries durable: the changes, the new head and the audit lines in one
// commit of the store, then the lines in the trail's file.
func (l *Ledger) commit(entries []*entry) error {
	if err := l.trail.Check(l.head); err != nil { // before anything is written: what was cut off leaves no hole
		return err
	}
	if err := l.rotate(); err != nil {
		return err
	}
	b := &batch{first: l.head.Seq + 1, synced: l.trim}
	if err := l.seal(b, entries); err != nil {
		return err
	}
	for _, e := range entries {
		if e.change != nil {
			b.changes = append(b.changes, e.change)
		}
	}
	begun := time.Now()
	if err := l.store.commit(b); err != nil {
		return err
	}
	l.took(StageCommit, begun)
	l.trim = false
	if err := l.trail.Append(b.lines); err != nil {
		return err
	}
	l.setHead(b.head)
	l.lag.Add(int64(len(b.lines)))
	if l.unsynced += len(b.lines); l.unsynced >= journalBytes {
		return l.syncTrail()
	}
	return nil
}

// seal chains the entries' records onto the head.
func (l *Ledger) seal(b *batch, entries []*entry) (err error) {
	b.head, b.lines = l.head, l.lines[:0]
	for _, e := range entries {
		if e.rec == nil {
			continue
		}
		if b.lines, b.head, err = b.head.Seal(b.lines, e.rec); err != nil {
			return err
		}
		e.seq = b.head.Seq
	}
	if cap(b.lines) <= journalBytes {
		l.lines = b.lines
	}
	return nil
}

// rotate begins a new segment of the trail once the newest is large enough. What is in the old one is on disk
// by then.
func (l *Ledger) rotate() error {
	full := l.head.Size >= l.segmentBytes.Load()
	old := l.segmentAge.Load() > 0 && l.head.Seq > l.head.Sealed &&
		time.Since(l.begun) >= time.Duration(l.segmentAge.Load())
	if l.head.Seq == l.head.Sealed {
		l.begun = time.Now() // its first record is about to be written
	}
	asked := l.head.Seq > l.head.Sealed && l.sealNext.Swap(false)
	if !full && !old && !asked {
		return nil
	}
	if err := l.syncTrail(); err != nil {
		return err
	}
	head, err := l.trail.Rotate(l.head)
	if err != nil {
		return err
	}
	l.setHead(head)
	l.begun = time.Now()
	return nil
}

// rotateAt sets when the trail is rotated, from the next batch on.
func (l *Ledger) rotateAt(cfg *Config) {
	l.segmentBytes.Store(cmp.Or(cfg.SegmentBytes, segmentBytes))
	l.segmentAge.Store(int64(cfg.SegmentAge))
}

// took tells how long a stage of the committer took.
func (l *Ledger) took(stage Stage, since time.Time) {
	if cfg := l.observe.Load(); cfg != nil {
		cfg.observe(stage, time.Since(since))
	}
}

// syncTrail puts the trail on disk, after which the journal is not needed. It does nothing once the ledger has halted:
// a sync that failed may succeed the second time without writing what the first one lost (fsync(2)).
func (l *Ledger) syncTrail() error {
	l.mu.Lock()
	halted := l.halted
	l.mu.Unlock()
	if l.unsynced == 0 || halted != nil {
		return nil
	}
	begun := time.Now()
	if err := l.trail.Sync(); err != nil {
		return err
	}
	l.took(StageSync, begun)
	l.unsynced, l.trim = 0, true
	l.lag.Store(0)
	return nil
}

// haltOn stops all signing if err is not nil. What is in memory may then be ahead of
// the disk, which only a fresh start can tell.
func (l *Ledger) haltOn(err error) error {
	if err == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.halted == nil {
		l.halted = fmt.Errorf("%w: %w", ErrHalted, err)
	}
	return l.halted
}

func (l *Ledger) setHead(h audit.Head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.head = h
}
