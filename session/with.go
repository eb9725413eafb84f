package session

import (
	"context"
	"fmt"
	"maps"

	"golang.org/x/time/rate"
)

// With returns the same sessions with another configuration. Both may be used concurrently, each by the requests that
// began with it. The paths, the clock, the file system and Observe stay those of s. [Sessions.Adopt] makes the new
// configuration the one that the agent works by.
//
// A backend that is the same object in both keeps its queue. The caller closes the others when nothing uses s any more.
func (s *Sessions) With(cfg Config) *Sessions {
	old := s.cfg
	cfg.LedgerPath, cfg.AuditPath, cfg.LockPath, cfg.CountsPath = old.LedgerPath, old.AuditPath, old.LockPath,
		old.CountsPath
	cfg.Now, cfg.FS, cfg.Observe = old.Now, old.FS, old.Observe
	if cfg.Logger == nil {
		cfg.Logger = old.Logger
	}
	next := &Sessions{cfg: cfg, queues: map[string]*queue{}, state: s.state}
	for name, b := range cfg.Backends {
		if old.Backends[name] == b {
			next.queues[name] = s.queue(name)
		}
	}
	return next
}

// Adopt makes what is not part of a request follow the configuration of s: when sessions and keys end, how many
// refusals get a record, and when the trail gets a new segment. The caller calls it once no other [Sessions.Run] runs,
// and before it runs that of s.
func (s *Sessions) Adopt() {
	perSecond, burst := s.cfg.refusalRate()
	s.refusals.all.SetLimit(rate.Limit(perSecond))
	s.refusals.all.SetBurst(burst)
	s.refusals.strangers.SetLimit(rate.Limit(perSecond) / 2)
	s.refusals.strangers.SetBurst((burst + 1) / 2)
	s.ledger.rotateAt(&s.cfg)
	s.ledger.index.startSchedule(s.dueAt)
	s.wakeRun()
}

// Holds returns the sessions that have not ended and whose key is in the backend of that name, oldest first.
func (s *Sessions) Holds(backend string) []*Session {
	return s.filter(func(sess *Session) bool { return sess.Backend == backend && !sess.Status.Ended() })
}

// FindKey looks in its backend for the key of a session. The error says that it is not there, or another one.
func (s *Sessions) FindKey(ctx context.Context, sess *Session) error {
	_, err := s.key(ctx, sess)
	return err
}

// CleanUp destroys the keys that self-tests and creations may have left in that backend.
func (s *Sessions) CleanUp(ctx context.Context, backend string) error {
	var failed error
	for id, in := range s.intents() {
		if in.Backend != backend {
			continue
		}
		end, ok := s.claim(id)
		if !ok {
			continue
		}
		if err := s.undoCreate(ctx, id, in); err != nil && failed == nil {
			failed = fmt.Errorf("the key %s%s may be left in backend %q: %w", KeyLabelPrefix, id, backend, err)
		}
		end()
	}
	return failed
}

// With returns a watcher of other chains for s, which knows what w knows of those that both watch. Of a chain whose
// registry is another one it knows no answers. The caller ends [Watcher.Run] of w before it runs the new one.
func (w *Watcher) With(s *Sessions, cfg WatchConfig, chains []WatchedChain) *Watcher {
	next := NewWatcher(s, cfg, chains)
	if w == nil {
		return next
	}
	next.start = w.start // moments of both compare
	for id, c := range next.chains {
		if old := w.chains[id]; old != nil {
			c.learn(old)
		}
	}
	return next
}

// learn takes over what old knows of the same chain.
func (c *watched) learn(old *watched) {
	c.rounds = old.rounds
	c.clock.learn(&old.clock)
	old.mu.Lock()
	defer old.mu.Unlock()
	c.err, c.clockErr, c.seen = old.err, old.clockErr, maps.Clone(old.seen)
	if c.Registry && old.Registry && c.Client.Registry() == old.Client.Registry() {
		c.asked, c.since, c.registryAt = old.asked, old.since, maps.Clone(old.registryAt)
		c.registry.Learn(&old.registry)
	}
}

// learn takes over what old has seen. What it has concluded, it has by its own bound.
func (c *clock) learn(old *clock) {
	old.mu.Lock()
	defer old.mu.Unlock()
	c.looked, c.head, c.firstSeen, c.lastLook = old.looked, old.head, old.firstSeen, old.lastLook
	if c.bound == old.bound {
		c.ahead = old.ahead
	}
}
