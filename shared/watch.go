package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/keyward/keyward/session"
)

// watchEvery is how often an agent reads what others have changed, if the database does not tell it before.
const watchEvery = 500 * time.Millisecond

// watch reads what others have changed and says that this agent obeys. Nothing is released while it can't read.
type watch struct {
	ledger *Ledger
	conn   *conn
}

// changes is the answer of the function of that name.
type changes struct {
	Version   uint64 `json:"version"`
	Locked    bool   `json:"locked"`
	Confirmed bool   `json:"confirmed"`
	Sessions  []row  `json:"sessions"`
}

func (w *watch) run() {
	defer w.close()
	l := w.ledger
	for l.ctx.Err() == nil && l.Halted() == nil {
		w.await()
		err := w.look(l.ctx)
		if l.ctx.Err() != nil {
			return
		}
		l.mu.Lock()
		l.watching = err
		l.mu.Unlock()
		switch {
		case errors.Is(err, ErrFenced), errors.Is(err, ErrForged):
			l.halt(err)
		case err != nil:
			w.close()
			w.conn = nil
		}
	}
}

// await returns after a change, or after a while.
func (w *watch) await() {
	l := w.ledger
	ctx, cancel := context.WithTimeout(l.ctx, watchEvery)
	defer cancel()
	if w.conn == nil {
		select {
		case <-l.look:
		case <-ctx.Done():
		}
		return
	}
	go func() {
		select {
		case <-l.look:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, _ = w.conn.pgx.WaitForNotification(ctx) // whatever it says: look finds out
}

// look reads and obeys what has changed.
func (w *watch) look(ctx context.Context) error {
	l := w.ledger
	ctx, cancel := context.WithTimeout(ctx, callTime)
	defer cancel()
	if w.conn == nil || w.conn.pgx.IsClosed() {
		c, err := l.dial(ctx)
		if err != nil {
			return err
		}
		w.conn = c
		if _, err := c.pgx.PgConn().Exec(ctx, "LISTEN keyward").ReadAll(); err != nil {
			return fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		l.joinAgain() // the committer's connection may be gone too, and it may be idle
	}
	l.mu.Lock()
	epoch, since := l.epoch, l.version
	l.mu.Unlock()
	text, err := w.conn.call(ctx, "changes", literal(l.cfg.Agent), fmt.Sprint(epoch), fmt.Sprint(since))
	if err != nil {
		return err
	}
	var ch changes
	if err := json.Unmarshal([]byte(text), &ch); err != nil {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	if !ch.Confirmed || ch.Version < since {
		l.joinAgain()
	}
	if ch.Version < since {
		return fmt.Errorf("%w: this agent obeys change %d and the database has %d", ErrFrozen, since, ch.Version)
	}
	if err := l.obey(&ch); err != nil {
		return err
	}
	return w.ack(ctx, ch.Version)
}

// joinAgain makes the committer join again.
func (l *Ledger) joinAgain() {
	l.mu.Lock()
	l.rejoin = true
	l.mu.Unlock()
	nudge(l.wake)
}

// obey makes what has changed count here, and returns when no signature that it forbids can leave any more.
func (l *Ledger) obey(ch *changes) error {
	stopped := map[session.ID]bool{}
	l.mu.Lock()
	for i := range ch.Sessions {
		r := &ch.Sessions[i]
		sess, err := r.open(l.cfg.MACKey)
		if err != nil {
			l.mu.Unlock()
			return err
		}
		k := l.sessions[sess.ID]
		if k != nil && r.Version < k.version {
			l.mu.Unlock()
			return fmt.Errorf("%w: session %s has version %d again, after %d", ErrForged, sess.ID, r.Version, k.version)
		}
		next := &known{Session: sess, version: r.Version, hold: r.Hold}
		if k != nil {
			next.stops = k.stops
		}
		// Of several changes only the last is read: one in between may have stopped the session.
		if !sess.Signs() || r.Hold || k != nil && r.Version > k.version+1 {
			next.stops++
			stopped[sess.ID] = true
		}
		l.sessions[sess.ID] = next
	}
	all := ch.Locked && !l.locked
	l.locked, l.version = ch.Locked, ch.Version
	l.mu.Unlock()
	if all {
		l.awaitWriters(nil)
	} else if len(stopped) > 0 {
		l.awaitWriters(stopped)
	}
	return nil
}

// ack says that this agent obeys a version: it is in the guard first, so that a database without it is found out.
func (w *watch) ack(ctx context.Context, version uint64) error {
	l := w.ledger
	if l.guard.mark().version < version {
		if err := l.guard.update(func(m *mark) { m.version = version }); err != nil {
			return fmt.Errorf("%w: %w", errBroken, err)
		}
	}
	l.mu.Lock()
	epoch, done, acked := l.epoch, l.doneLocked(), l.ackedAny && l.acked >= version
	l.mu.Unlock()
	if !acked {
		if _, err := w.conn.call(ctx, "ack", literal(l.cfg.Agent), fmt.Sprint(epoch), fmt.Sprint(version),
			fmt.Sprint(done)); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked, l.ackedAny = version, true
	close(l.obeyed)
	l.obeyed = make(chan struct{})
	return nil
}

func (w *watch) close() error { return w.conn.close() }

// writer is one write of a signature to a client that is under way.
type writer struct {
	session session.ID
	cut     func()
	done    chan struct{}
}

// patience is how long a client may take for a signature of which the write has begun, once its session is stopped.
const patience = time.Second

// Release asks to hand the signature of r, which is durable, to its client. done is called when it is handed over, or
// will not be. After an error it must not be. Who stops the session waits for done, and calls cut, to end the
// connection, if that takes long.
func (l *Ledger) Release(r *Reservation, cut func()) (done func(), err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.sessions[r.session]
	select {
	case <-r.item.done:
		err = r.item.err
	default:
		err = errors.New("the charge is not durable yet")
	}
	switch {
	case err != nil:
	case l.halted != nil:
		err = l.halted
	case l.closed:
		err = ErrClosed
	case l.watching != nil:
		err = l.watching
	case l.locked:
		err = session.ErrLocked
	case !k.Signs():
		err = session.NotActive(k.Session)
	case k.stops != r.stops:
		err = fmt.Errorf("%w: it was stopped before the signature was released; ask for it again", ErrFrozen)
	}
	if err != nil {
		return nil, err
	}
	w := &writer{session: r.session, cut: cut, done: make(chan struct{})}
	l.writers[w] = struct{}{}
	return func() {
		l.mu.Lock()
		delete(l.writers, w)
		l.mu.Unlock()
		close(w.done)
		r.Done()
	}, nil
}

// awaitWriters returns when the writes that have begun have ended: of some sessions, or of all for nil.
func (l *Ledger) awaitWriters(some map[session.ID]bool) {
	l.mu.Lock()
	var begun []*writer
	for w := range l.writers {
		if some == nil || some[w.session] {
			begun = append(begun, w)
		}
	}
	l.mu.Unlock()
	late := time.After(patience)
	over := false
	for _, w := range begun {
		if !over {
			select {
			case <-w.done:
				continue
			case <-late:
				over = true
			}
		}
		w.cut()
		<-w.done
	}
}
