package shared

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
)

// Session returns a session as it was read last, within a second of its last change; nil if there is none.
func (l *Ledger) Session(id session.ID) *session.Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.sessions[id].state()
}

// Create makes a session, with its record, for all agents.
func (l *Ledger) Create(ctx context.Context, sess *session.Session, rec audit.Record) error {
	_, err := l.put(ctx, sess, 1, rec)
	return err
}

// Change changes a session, with its record, for all agents. [ErrConflict] if another agent does so meanwhile.
//
// If the session stops signing, Change returns once every agent that is not fenced has said that no signature of it
// leaves any more. If one does not say so, the session is stopped all the same, and the error is an [*Incomplete].
func (l *Ledger) Change(ctx context.Context, id session.ID, rec audit.Record,
	edit func(*session.Session) error) (*session.Session, error) {
	l.mu.Lock()
	k := l.sessions[id]
	l.mu.Unlock()
	if k == nil {
		return nil, fmt.Errorf("session %q: %w", id, session.ErrUnknownSigner)
	}
	next := *k.Session
	if err := edit(&next); err != nil {
		return nil, err
	}
	change, err := l.put(ctx, &next, k.version+1, rec)
	if err != nil {
		return nil, err
	}
	if !next.Signs() {
		err = l.await(ctx, change, id)
	}
	return &next, err
}

// put writes a session's version and returns the number of the change, once this agent obeys it.
func (l *Ledger) put(ctx context.Context, sess *session.Session, version uint64, rec audit.Record) (change uint64,
	err error) {
	r, err := rowOf(l.cfg.MACKey, sess, version)
	if err != nil {
		return 0, err
	}
	it := &item{request: &request{Put: r}, rec: &rec, judge: func(v *verdict) error {
		if v.V != "ok" {
			return fmt.Errorf("%w: session %s", ErrConflict, sess.ID)
		}
		change = v.Change
		return nil
	}}
	if it.request.Before, err = whole(&rec); err != nil {
		return 0, err
	}
	if err := l.enqueue(it); err != nil {
		return 0, err
	}
	if err := it.wait(ctx); err != nil {
		return 0, err
	}
	return change, l.awaitOwn(ctx, change)
}

// awaitOwn returns when this agent obeys a change.
func (l *Ledger) awaitOwn(ctx context.Context, change uint64) error {
	for {
		l.mu.Lock()
		acked, obeyed, halted := l.acked, l.obeyed, l.halted
		l.mu.Unlock()
		if acked >= change || halted != nil {
			return halted
		}
		nudge(l.look)
		select {
		case <-obeyed:
		case <-time.After(watchEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// SetLock locks all agents, or unlocks them. A lock returns as [Ledger.Change] does.
func (l *Ledger) SetLock(ctx context.Context, locked bool) error {
	text, err := l.ask(ctx, "set_lock", fmt.Sprint(locked))
	if err != nil {
		return err
	}
	var change uint64
	if _, err := fmt.Sscan(text, &change); err != nil {
		return err
	}
	if err := l.awaitOwn(ctx, change); err != nil || !locked {
		return err
	}
	return l.await(ctx, change, "")
}

// Incomplete is the error of what is done in the database, and some agent has not said that it obeys.
type Incomplete struct{ Silent []Silent }

// Silent is an agent that has not said that it obeys, with the digests, in hex, that were charged by it and may still
// leave it. There are no others: nothing more is charged.
type Silent struct {
	Agent   string   `json:"agent"`
	Digests []string `json:"digests"`
}

func (e *Incomplete) Error() string {
	var all []string
	for _, s := range e.Silent {
		all = append(all, fmt.Sprintf("agent %s is silent, and at most %d signatures may still leave it (%s)", s.Agent,
			len(s.Digests), strings.Join(s.Digests, ", ")))
	}
	return "incomplete: " + strings.Join(all, "; ") + "; when it is certain that its process has ended, fence it"
}

// await returns when every agent that is not fenced obeys a change, or with an *Incomplete.
func (l *Ledger) await(ctx context.Context, change uint64, id session.ID) error {
	which := "NULL"
	if id != "" {
		which = literal(string(id))
	}
	end := time.Now().Add(l.cfg.Patience)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		text, err := l.side.call(ctx, l, "silent", fmt.Sprint(change), which)
		if err != nil {
			return err
		}
		var e Incomplete
		if err := json.Unmarshal([]byte(text), &e.Silent); err != nil {
			return err
		}
		if len(e.Silent) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return &e
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return &e
		}
	}
}

// sideConn is a connection for what is rare. The zero value has none yet.
type sideConn struct {
	mu   sync.Mutex
	conn *conn
}

// ask calls a function as this agent.
func (l *Ledger) ask(ctx context.Context, function string, args ...string) (string, error) {
	l.mu.Lock()
	epoch := l.epoch
	l.mu.Unlock()
	return l.side.call(ctx, l, function, append([]string{literal(l.cfg.Agent), fmt.Sprint(epoch)}, args...)...)
}

func (s *sideConn) call(ctx context.Context, l *Ledger, function string, args ...string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if s.conn == nil || s.conn.pgx.IsClosed() {
		c, err := l.dial(ctx)
		if err != nil {
			return "", err
		}
		s.conn = c
	}
	return s.conn.call(ctx, function, args...)
}

func (s *sideConn) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conn.close()
}
