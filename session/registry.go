package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// ErrRegistryStale: the policy registry could not be asked for longer than the operator allows, so
// nothing is signed for its sessions. It passes once the registry answers.
var ErrRegistryStale = errors.New("the policy registry's last answer is too old")

// readRegistry asks the registry, when it is time, about every policy of the chain's sessions, and
// stops and releases sessions by its answers. The registry binds no contract: a policy that it
// blocks stops only who asks.
func (w *Watcher) readRegistry(ctx context.Context, c *watched) error {
	now := w.sessions.cfg.Now()
	c.mu.Lock()
	due := now.Sub(c.asked) >= w.cfg.RegistryInterval
	c.mu.Unlock()
	if c.Registry && !due {
		return nil
	}
	sessions := w.sessionsOn(c)
	if c.Registry {
		if err := w.askRegistry(ctx, c, sessions, now); err != nil {
			return err
		}
	}
	for _, sess := range sessions {
		if err := w.block(ctx, c, sess); err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) askRegistry(ctx context.Context, c *watched, sessions []*Session, now time.Time) error {
	var queries []policy.RegistryQuery
	asked := map[policy.RegistryQuery]bool{}
	for _, sess := range sessions {
		for _, q := range sess.Spec.RegistryQueries() {
			if !asked[q] {
				asked[q] = true
				queries = append(queries, q)
			}
		}
	}
	c.registry.Keep(queries)
	if len(queries) > 0 {
		if err := c.registry.Refresh(ctx, c.Client, queries, now); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = now
	clear(c.registryAt)
	for _, sess := range sessions {
		c.registryAt[sess.ID] = c.oldestAnswer(sess, now)
	}
	return nil
}

// oldestAnswer is when the registry gave the oldest of its answers about sess: an endpoint
// that lags renews none.
func (c *watched) oldestAnswer(sess *Session, now time.Time) time.Time {
	oldest := now
	for _, q := range sess.Spec.RegistryQueries() {
		if a, ok := c.registry.Get(q); ok && a.Read.Before(oldest) {
			oldest = a.Read
		}
	}
	return oldest
}

// block stops the session, or releases it, by the registry's answers. A registry that is
// not asked any more, because the operator says so, blocks nothing.
func (w *Watcher) block(ctx context.Context, c *watched, sess *Session) error {
	blocked, known := c.blockedPolicy(sess)
	if !known || blocked == sess.Blocked {
		return nil
	}
	event := audit.SessionBlocked
	if blocked == "" {
		event = audit.SessionUnblocked
	}
	_, err := w.sessions.change(ctx, sess.ID, nil, event, map[string]string{"policy": blocked}, func(next *Session) error {
		next.Blocked = blocked
		return nil
	})
	if err != nil {
		return err
	}
	log := w.sessions.cfg.Logger.With("session", sess.ID, "chain", c.Client.Name())
	if blocked != "" {
		log.Error("session stopped: the policy registry does not allow one of its policies", "policy", blocked)
	} else {
		log.Info("session released: the policy registry allows all of its policies again")
	}
	return nil
}

// blockedPolicy names the first policy that is not Allowed, "" if all are. It is not known while
// the registry has not been asked about all of them.
func (c *watched) blockedPolicy(sess *Session) (blocked string, known bool) {
	if !c.Registry {
		return "", true
	}
	for _, q := range sess.Spec.RegistryQueries() {
		a, ok := c.registry.Get(q)
		if !ok {
			return "", false
		}
		if a.Status != policy.Allowed && blocked == "" {
			blocked = fmt.Sprintf("%v: %v", q, a.Status)
		}
	}
	return blocked, true
}

// registryAge is [ErrRegistryStale] where the registry has to be asked and could not be for too long. A session
// that it was never asked about is as old as itself, or this agent's run.
func (w *Watcher) registryAge(c *watched, sess *Session, now time.Time) error {
	if !c.Registry || w.cfg.RegistryMaxAge == 0 || sess.Kind != AGW {
		return nil
	}
	c.mu.Lock()
	at, asked := c.registryAt[sess.ID]
	c.mu.Unlock()
	if !asked {
		if at = c.since; at.Before(sess.CreatedAt) {
			at = sess.CreatedAt
		}
	}
	if age := now.Sub(at); age > w.cfg.RegistryMaxAge {
		return fmt.Errorf("%w: it is of %s, %v is allowed", ErrRegistryStale, stamp(at), w.cfg.RegistryMaxAge)
	}
	return nil
}
