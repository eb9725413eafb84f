package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
)

const (
	longestPause  = time.Minute // the wall clock may be set while we wait
	deviceTimeout = 30 * time.Second
)

// Run expires sessions, destroys the keys of ended ones after the grace period, warns ahead of
// what will run out, and cleans up after a creation that was cut short, until ctx is done.
func (s *Sessions) Run(ctx context.Context) {
	failing := map[ID]bool{} // told once, tried again at every pause
	for {
		pause := s.sweep(ctx, failing)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-s.nudge:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func (s *Sessions) wakeRun() {
	select {
	case s.nudge <- struct{}{}:
	default:
	}
}

// sweep does all that is due and returns when to look again.
func (s *Sessions) sweep(ctx context.Context, failing map[ID]bool) time.Duration {
	index := s.ledger.index
	for _, sess := range index.takeDue(s.cfg.Now()) {
		err := s.doDue(ctx, sess)
		if err != nil {
			defer index.putBack(sess) // for the next sweep
		}
		s.report(ctx, sess, failing, err)
	}
	s.undoCreates(ctx, failing)
	if now := s.cfg.Now(); s.forecast.lookAgain(now) {
		s.foresee(ctx, now)
	}
	pause := longestPause
	if next := index.nextDue(); !next.IsZero() {
		pause = min(pause, next.Sub(s.cfg.Now()))
	}
	return max(pause, 10*time.Millisecond)
}

// dueAt is when the next thing happens to sess by itself; zero: nothing does.
func (s *Sessions) dueAt(sess *Session) time.Time {
	switch {
	case !sess.Status.Ended():
		return s.SignsUntil(sess).Add(time.Second)
	case sess.KeyDestroyedAt.IsZero():
		return sess.EndedAt.Add(s.cfg.KeyGrace)
	}
	return time.Time{}
}

func (s *Sessions) doDue(ctx context.Context, sess *Session) error {
	if !sess.Status.Ended() {
		_, err := s.move(ctx, nil, sess.ID, Expired, audit.SessionExpired, nil)
		return err
	}
	return s.destroyKey(ctx, sess)
}

// destroyKey deletes an ended session's key in its device. A key that is gone already counts.
func (s *Sessions) destroyKey(ctx context.Context, sess *Session) error {
	backend := s.cfg.Backends[sess.Backend]
	if backend == nil {
		return fmt.Errorf("backend %q is not in the configuration: the key of session %s can't be destroyed", sess.Backend,
			sess.ID)
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	if err := backend.Destroy(ctx, sess.KeyURI); err != nil && !errors.Is(err, backends.ErrKeyNotFound) {
		return fmt.Errorf("destroying the key of session %s: %w", sess.ID, err)
	}
	s.forgetKey(sess.ID)
	_, err := s.change(ctx, sess.ID, nil, audit.KeyDestroyed, nil, func(next *Session) error {
		next.KeyDestroyedAt = s.cfg.Now().UTC()
		return nil
	})
	return err
}

// report logs and records a failure once, until it is over.
func (s *Sessions) report(ctx context.Context, sess *Session, failing map[ID]bool, err error) {
	if err == nil || ctx.Err() != nil {
		delete(failing, sess.ID)
		return
	}
	if failing[sess.ID] {
		return
	}
	failing[sess.ID] = true
	s.cfg.Logger.Error("session upkeep failed, trying again every minute", "session", sess.ID, "error", err)
	if !sess.Status.Ended() {
		return // what failed is writing the state
	}
	rec := s.record(audit.KeyDestroyError, nil, sess)
	rec.Detail = err.Error()
	if err := s.Record(ctx, *rec); err != nil {
		s.cfg.Logger.Error("recording it failed too", "session", sess.ID, "error", err)
	}
}

func (s *Sessions) putIntent(ctx context.Context, id ID, in intent) error {
	l := s.ledger
	e := &entry{change: &change{id: id, intent: &in}}
	l.mu.Lock()
	err := l.enqueueLocked(e)
	if err == nil {
		l.intents[id] = in
	}
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return e.wait(ctx)
}

// dropIntent is the entry after which no key can exist without its session.
func (l *Ledger) dropIntent(id ID, rec *audit.Record) *entry {
	return &entry{rec: rec, change: &change{id: id, settled: true}, after: func() { delete(l.intents, id) }}
}

// intents returns the IDs of keys that may exist without a session.
func (s *Sessions) intents() map[ID]intent {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return maps.Clone(s.ledger.intents)
}

// Unfinished returns the IDs of sessions of which a key may exist although they were never stored: their creation
// failed or was cut short, and Run has not destroyed the key yet.
func (s *Sessions) Unfinished() []ID {
	return slices.Collect(maps.Keys(s.intents()))
}

// createIsOver reports whether session id was stored, or nothing can be left of it. The intents that Run looks at were
// read before it was claimed: it may have been stored since.
func (s *Sessions) createIsOver(id ID) bool {
	if _, err := s.Get(id); err == nil { // also while it is being written
		return true
	}
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	_, open := s.ledger.intents[id]
	return !open
}

// undoCreates cleans up after creations that were cut short, by a crash or a failing device.
func (s *Sessions) undoCreates(ctx context.Context, failing map[ID]bool) {
	s.undoAll(ctx, s.intents(), failing)
}

func (s *Sessions) undoAll(ctx context.Context, all map[ID]intent, failing map[ID]bool) {
	for id, in := range all {
		if ctx.Err() != nil {
			continue
		}
		end, ok := s.claim(id)
		if !ok {
			continue
		}
		err := s.undoCreate(ctx, id, in)
		end()
		if err != nil && !failing[id] {
			s.cfg.Logger.Error("a session's creation was cut short and its key may be left in the device; trying again every "+
				"minute", "session", id, "error", err)
		}
		failing[id] = err != nil
	}
}

// undoCreate destroys the key, if there is one, of a session that was never stored. The caller has claimed id.
func (s *Sessions) undoCreate(ctx context.Context, id ID, in intent) error {
	if s.createIsOver(id) {
		return nil
	}
	backend := s.cfg.Backends[in.Backend]
	lister, ok := backend.(backends.Lister)
	if !ok {
		return fmt.Errorf("backend %q is not configured or can't list its keys: destroy key %q there by hand", in.Backend,
			KeyLabelPrefix+string(id))
	}
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	keys, err := lister.Keys(ctx, KeyLabelPrefix+string(id))
	if err != nil {
		return err
	}
	rec := &audit.Record{Time: s.cfg.Now().UTC(), Event: audit.KeyDestroyed, Session: string(id),
		Detail: "the session was never stored"}
	for _, k := range keys {
		if err := backend.Destroy(ctx, k.Key.URI()); err != nil && !errors.Is(err, backends.ErrKeyNotFound) {
			return err
		}
		rec.KeyURI = k.Key.URI()
	}
	if len(keys) == 0 {
		rec = nil
	}
	return s.enqueue(ctx, s.ledger.dropIntent(id, rec))
}
