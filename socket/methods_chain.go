package socket

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// chainMethods need the chain, or prepare what the owner does there.
func chainMethods() []Method {
	return []Method{{
		Name: "admin_importSession", Summary: "Recover a session from its SessionCreated event and the key that a backend " +
			"still has",
		Params: []Param{{"request", true, "ImportSession", "the chain has to have an rpc in the configuration"}},
		Result: Result{"session", "Session", "active, with what the chain has counted"},
		Errors: []int{api.CodeUnavailable}, do: adminImport,
	}, {
		Name: "admin_renewSession", Summary: "Make a pending successor of an active session, with a fresh key and the " +
			"same clients",
		Params: []Param{{"request", true, "RenewSession", "id: a session's id or its signer; expiresAt in Unix seconds"}},
		Result: Result{"session", "Session", "the successor; once it is active, requests that name the old session or its " +
			"account are signed with it"},
		Errors: []int{api.CodeDenied, api.CodeUnavailable}, do: adminRenew,
	}}
}

func adminImport(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.ImportSession
	if err := c.object(&params); err != nil {
		return nil, err
	}
	chain, err := s.chainNamed(params.Chain)
	if err != nil {
		return nil, err
	}
	clients, err := parseClients(params.Clients)
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Watcher.Import(ctx, c.peer, &session.ImportRequest{
		ChainID: chain.ID, Account: params.Account, Hash: params.SessionHash, Clients: clients, Backend: params.Backend,
	})
	if err != nil {
		return nil, err
	}
	return s.showWhole(sess)
}

func adminRenew(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.RenewSession
	if err := c.object(&params); err != nil {
		return nil, err
	}
	return s.showReviewed(s.Signer.RenewSession(ctx, c.peer, s.sessionID(params.ID), params.ExpiresAt.Int(),
		params.Unchecked))
}

// onChain is what the chain last said about the session; nil if nothing.
func (s *Server) onChain(sess *session.Session) *api.OnChain {
	seen, ok := s.Signer.Watcher.Seen(sess)
	external := s.Signer.Sessions.External(sess.ID)
	if !ok && len(external) == 0 {
		return nil
	}
	return &api.OnChain{Status: seen.Status.String(), Block: seen.Block.Number, ReadAt: given(seen.At.UTC()),
		External: maps.Clone(external)}
}

// chainStates is how the chains are that the agent reads.
func (s *Server) chainStates() []api.Chain {
	states := []api.Chain{}
	for _, c := range s.Signer.Watcher.Chains() {
		shown := api.Chain{
			Name: c.Name, ID: c.ID, State: "ready", Block: c.Head.Number,
			ReadAt: given(c.ReadAt.UTC()), RegistryAt: given(c.RegistryAt.UTC()), Blocked: c.Blocked, External: c.External,
			Exposed: c.Exposed,
		}
		switch {
		case c.Clock != nil:
			shown.State = "clock"
		case c.Err != nil:
			shown.State = "unavailable"
		case c.ReadAt.IsZero():
			shown.State = "new"
		}
		if !c.ReadAt.IsZero() {
			shown.BlockTime = given(time.Unix(int64(c.Head.Time), 0).UTC())
		}
		if err := errors.Join(c.Clock, c.Err); err != nil {
			shown.Detail = err.Error()
		}
		states = append(states, shown)
	}
	return states
}
