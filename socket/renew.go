package socket

import (
	"context"
	"fmt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Now returns the Server that handles the next request.
func (s *Server) Now() *Server { return s.current.Load() }

// enter returns the Server that handles a request which begins now. The caller calls users.Leave of it when the request
// is over.
func (s *Server) enter() *Server {
	for {
		if now := s.Now(); now.users.Enter() {
			return now
		}
	}
}

// Renew replaces the configuration: requests that begin after it returns are handled with next, and those before with
// what was current. Logger, Observe, Version, Started and Confined stay as they are. Bounds on what clients hold change
// for what they take from now on.
//
// locks is what [session.Signer.LockVersion] returned before the devices of next were opened. If the agent was locked
// since, Renew changes nothing and returns an error that wraps [session.ErrLocked], because the lock did not log these
// devices out.
//
// The Server that Renew returns is the one that was current; see [Server.Drain]. Calls of Renew must not overlap.
func (s *Server) Renew(next Config, locks uint64) (old *Server, err error) {
	s.lockMu.Lock()
	defer s.lockMu.Unlock()
	old = s.Now()
	if old.Signer.LockVersion() != locks {
		return nil, fmt.Errorf("%w: it was locked while the configuration was read", session.ErrLocked)
	}
	next.Logger, next.Observe, next.Version, next.Started, next.Confined = old.Logger, old.Observe, old.Version,
		old.Started, old.Confined
	limits := next.Limits.withDefaults()
	open := openFiles() - s.agent.quota.inUse(connections) - s.admin.quota.inUse(connections)
	fewer := limits.fitFiles(open)
	s.current.Store(&Server{Config: next, limits: limits, serving: s.serving})
	old.users.Shut()
	s.agent.quota.setLimits(limits)
	if fewer {
		limits.MaxConnections = adminConnections
	}
	s.admin.quota.setLimits(limits)
	s.voters.quota.setLimits(limits)
	return old, nil
}

// Drain waits until no request is handled by s any more, which another Server has replaced.
func (s *Server) Drain(ctx context.Context) error { return s.users.Close(ctx) }

// RecordLatency writes how long requests for a signature took since it was called last to the audit trail, if there
// were any.
func (s *Server) RecordLatency(ctx context.Context) error {
	took, n := s.recent.take(.5, .99)
	if n == 0 {
		return nil
	}
	detail := api.Recent{Requests: n, P50: millis(took[0]), P99: millis(took[1])}
	return s.Now().Signer.Sessions.Record(ctx, audit.Record{Event: audit.AgentLatency, Detail: detail})
}
