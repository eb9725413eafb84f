package session

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	bolt "go.etcd.io/bbolt"

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
	rec   *audit.Record           // nil: none
	apply func(tx *bolt.Tx) error // nil: only the record
	after func()                  // runs with Ledger.mu held once on disk; may be nil
	done  chan struct{}           // closed when err is final
	err   error
}

// enqueueLocked puts e in line. Entries reach the disk in the order of their memory
// effects, because both happen under one hold of mu: a replacement whose cost was
// worked out from an earlier signature must not reach the disk before it.
func (l *Ledger) enqueueLocked(e *entry) error {
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
	for _, e := range batch {
		if e.err = err; err == nil && e.after != nil {
			e.after()
		}
		close(e.done)
	}
}

// commit makes batch durable: the changes, the new head and the audit lines in one
// bbolt commit (two fdatasyncs), then the lines in the trail's file.
func (l *Ledger) commit(batch []*entry) error {
	if err := l.trail.Check(l.head); err != nil { // before anything is written: what was cut off leaves no hole
		return err
	}
	first, head, lines, err := l.seal(batch)
	if err != nil {
		return err
	}
	err = l.db.Update(func(tx *bolt.Tx) error {
		for _, e := range batch {
			if e.apply != nil {
				if err := e.apply(tx); err != nil {
					return err
				}
			}
		}
		return l.putLines(tx, first, head, lines)
	})
	if err != nil {
		return fmt.Errorf("writing ledger: %w", err)
	}
	if err := l.trail.Append(lines); err != nil {
		return err
	}
	l.setHead(head)
	if l.unsynced += len(lines); l.unsynced >= journalBytes {
		return l.syncTrail()
	}
	return nil
}

// seal chains the batch's records onto the head.
func (l *Ledger) seal(batch []*entry) (first uint64, head audit.Head, lines []byte, err error) {
	head = l.head
	first = head.Seq + 1
	for _, e := range batch {
		if e.rec == nil {
			continue
		}
		body, err := audit.Body(e.rec)
		if err != nil {
			return 0, head, nil, err
		}
		var line []byte
		line, head = head.Seal(body)
		lines = append(lines, line...)
	}
	return first, head, lines, nil
}

func (l *Ledger) putLines(tx *bolt.Tx, first uint64, head audit.Head, lines []byte) error {
	if l.trim {
		if err := trimJournal(tx, first); err != nil { // all before this batch is synced
			return err
		}
		l.trim = false
	}
	if len(lines) == 0 {
		return nil
	}
	if err := tx.Bucket(journalBucket).Put(binary.BigEndian.AppendUint64(nil, first), lines); err != nil {
		return err
	}
	return putHead(tx, head)
}

// syncTrail puts the trail on disk, after which the journal is not needed.
func (l *Ledger) syncTrail() error {
	if l.unsynced == 0 {
		return nil
	}
	if err := l.trail.Sync(); err != nil {
		return err
	}
	l.unsynced, l.trim = 0, true
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
