package session

import (
	"context"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// reasonLocked is the reason in the record of a charged signature that was not released because the
// operator locked the agent. The other reasons are the states of a session.
const (
	reasonLocked   = "locked"
	reasonBlocked  = "blocked"
	writerPatience = time.Second // for a client to take a signature whose write has begun
)

// Pass says when a signature was charged. The signature may be handed to write(2) only while
// [Signer.Release] accepts its pass: not after a revoke, close, block, expiry or lock.
type Pass struct {
	id      ID
	version uint64 // of the session's book, when it was charged
	lock    uint64 // Ledger.lockVersion
	granted *audit.Record
}

// writer is one write(2), under way, of signatures.
type writer struct {
	ids  []ID
	cut  func()        // ends the connection
	done chan struct{} // closed when write(2) has returned; nil: nobody waits for that
	room [1]ID         // spares an allocation
}

// Release asks to write the signatures of passes to a client. The check and the registration as a writer
// are one step under the ledger's mutex: what ends a session afterwards waits for done, or
// calls cut to end the connection. The caller writes only those whose refused is nil, and calls
// done when write(2) has returned, also if it writes none.
//
// Each refused signature has its record when Release returns, or the record is in line and the disk has hung for a
// second: a disk that hangs must not hold up a revoke, which waits for this writer. Its charge stays. Errors:
// [ErrLocked], or the *policy.Denial of the session's state. A nil refused means that none is.
func (s *Signer) Release(passes []*Pass, cut func()) (refused []error, done func()) {
	l, now := s.Sessions.ledger, s.Sessions.cfg.Now()
	var reasons []string
	w := &writer{cut: cut}
	w.ids = w.room[:0]
	l.mu.Lock()
	for i, p := range passes {
		reason, err := s.stoppedLocked(p, now)
		if err == nil {
			w.ids = append(w.ids, p.id)
			continue
		}
		if refused == nil {
			refused, reasons = make([]error, len(passes)), make([]string, len(passes))
		}
		refused[i], reasons[i] = err, reason
	}
	l.writers[w] = struct{}{}
	l.mu.Unlock()
	if refused != nil {
		s.recordWithheld(passes, refused, reasons)
	}
	return refused, func() { l.written(w) }
}

// recordWithheld records each refused signature. It waits a second for the disk, in all.
func (s *Signer) recordWithheld(passes []*Pass, refused []error, reasons []string) {
	ctx, cancel := context.WithTimeout(context.Background(), writerPatience)
	defer cancel()
	for i, err := range refused {
		if err != nil {
			s.withheld(ctx, passes[i], reasons[i], err)
		}
	}
}

// written takes note that w's write(2) has returned.
func (l *Ledger) written(w *writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.writers, w)
	if w.done != nil {
		close(w.done)
	}
}

// stoppedLocked says why the signature of p must not be written, with the word for its record.
func (s *Signer) stoppedLocked(p *Pass, now time.Time) (reason string, err error) {
	l := s.Sessions.ledger
	b := l.books[p.id]
	switch {
	case l.locked || p.lock != l.lockVersion:
		return reasonLocked, ErrLocked
	case !b.Load().signs():
		return b.Load().stopReason(), notActive(b.Load())
	case p.version != b.version: // it was stopped meanwhile, and released again
		return reasonBlocked, &policy.Denial{
			Reason: ReasonBlocked, Policy: -1, Constraint: -1,
			Detail: "the policy registry stopped the session before the signature was released; ask for it again",
		}
	case s.Sessions.pastExpiry(b.Load(), now):
		return string(Expired), s.Sessions.expired(b.Load())
	}
	return "", nil
}

// withheld records that a signature was made and not released. It waits for the disk until ctx ends.
func (s *Signer) withheld(ctx context.Context, p *Pass, reason string, why error) {
	s.Sessions.counts.failed.Add(1)
	rec := *p.granted // the committer may still read the granted one
	rec.Event, rec.Transaction, rec.Time = audit.SignFailed, nil, s.Sessions.cfg.Now().UTC()
	rec.Verdict = &audit.Verdict{Reason: reason, Message: why.Error()}
	if err := s.Sessions.Record(ctx, rec); err != nil {
		s.Sessions.cfg.Logger.Error("a signature was not released, and recording that failed", "session", p.id, "error", err)
	}
}

// signs reports whether the session's state lets it sign.
func (s *Session) signs() bool { return s.Status == Active && s.Blocked == "" }

// stopReason is the word for a state in which a session does not sign.
func (s *Session) stopReason() string {
	if s.Status == Active {
		return reasonBlocked
	}
	return string(s.Status)
}

// awaitWriters waits until the writes of signatures that have begun have ended, of session id, or of
// all sessions if id is "". It closes a connection whose client takes longer than a second.
func (l *Ledger) awaitWriters(id ID) {
	l.mu.Lock()
	var begun []*writer
	for w := range l.writers {
		if id == "" || w.writes(id) {
			begun = append(begun, w)
			if w.done == nil {
				w.done = make(chan struct{})
			}
		}
	}
	l.mu.Unlock()
	patience := time.NewTimer(writerPatience)
	defer patience.Stop()
	over := false
	for _, w := range begun {
		if !over {
			select {
			case <-w.done:
				continue
			case <-patience.C:
				over = true
			}
		}
		w.cut()
		<-w.done // write(2) fails on a closed connection
	}
}

func (w *writer) writes(id ID) bool {
	for _, written := range w.ids {
		if written == id {
			return true
		}
	}
	return false
}

// InDevice is how many signatures of the session are charged while their device still works on them.
func (s *Sessions) InDevice(id ID) int {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	if b := s.ledger.books[id]; b != nil {
		return b.inDevice
	}
	return 0
}
