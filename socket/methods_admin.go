package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// agentMethods are the methods of agent.sock.
func agentMethods() []Method {
	var methods []Method
	methods = append(methods, ethMethods()...)
	methods = append(methods, clefMethods()...)
	methods = append(methods, sessionMethods()...)
	return append(methods, rpcMethods()...)
}

// adminMethods are the methods of admin.sock, besides [rpcMethods]. Each takes
// one object or nothing.
func adminMethods() []Method {
	var methods []Method
	methods = append(methods, lifecycleMethods()...)
	methods = append(methods, chainMethods()...)
	methods = append(methods, deviceMethods()...)
	methods = append(methods, agentStateMethods()...)
	for i := range methods {
		methods[i].Admin = true
	}
	return methods
}

// lifecycleMethods make, show and end sessions.
func lifecycleMethods() []Method {
	id := []Param{{"request", true, "SessionID", "id: a session's id or its signer"}}
	whole := Result{"session", "Session", "with its limits"}
	return []Method{{
		Name: "admin_createSession", Summary: "Make a key and a pending session around it",
		Params: []Param{{"request", true, "CreateSession", "spec is the SDK's SessionConfig without signer"}},
		Result: Result{"session", "Session", "with the calldata of createSession; an eoa session is active at once"},
		Errors: []int{api.CodeDenied, api.CodeUnavailable}, do: adminCreate,
	}, {
		Name: "admin_activateSession", Summary: "The owner has approved the session on chain",
		Params: id, Result: whole, do: adminActivate,
	}, {
		Name: "admin_revokeSession", Summary: "End a session: nothing more is signed",
		Params: id, Result: whole, do: adminRevoke,
	}, {
		Name: "admin_closeSession", Summary: "The owner has ended the session on chain",
		Params: id, Result: whole, do: adminClose,
	}, {
		Name: "admin_listSessions", Summary: "All sessions",
		Params: []Param{pageParam},
		Result: Result{"sessions", "Sessions", "oldest first, also those that have ended"}, do: adminList,
	}, {
		Name: "admin_getSession", Summary: "One session",
		Params: id, Result: whole, do: adminGet,
	}, setClientsMethod()}
}

// agentStateMethods concern the agent as a whole.
func agentStateMethods() []Method {
	return []Method{{
		Name: "admin_clients", Summary: "Who is connected",
		Result: Result{"clients", "Clients", "one for each process and socket"}, do: adminClients,
	}, {
		Name: "admin_reload", Summary: "Put the configuration into effect as it is on disk now; after an error, the one " +
			"before stays",
		Result: Result{"reloaded", "Reloaded", "changed names the sections that differ from before, unlock the backends " +
			"that wait for the operator to type their PIN"}, do: adminReload,
	}, {
		Name: "admin_status", Summary: "State of the agent",
		Result: Result{"status", "Status", ""}, do: adminStatus,
	}, {
		Name: "admin_auditHead", Summary: "The audit trail's last record",
		Result: Result{"head", "AuditHead", "keep it elsewhere: the trail can't be cut back beyond it unnoticed"},
		do:     adminAuditHead,
	}, {
		Name: "admin_copyLedger", Summary: "Copy the ledger while the agent runs, for a backup",
		Result: Result{"copied", "Copied", "a directory in the agent's state, which the caller deletes"}, do: adminCopyLedger,
	}, {
		Name: "admin_trailArchived", Summary: "Record that the first segments of the audit trail were archived, before " +
			"they are deleted",
		Params: []Param{{"request", true, "TrailArchived", "records and hash are of the last record that goes"}},
		Result: Result{"done", "Done", ""}, do: adminTrailArchived,
	}, {
		Name: "admin_trailErased", Summary: "Seal the audit trail's newest segment, and record that personal data of " +
			"earlier records is deleted",
		Params: []Param{{"request", true, "TrailErased", "what chooses the records, without personal data"}},
		Result: Result{"done", "Done", ""}, do: adminTrailErased,
	}}
}

func adminCreate(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.CreateSession
	if err := c.object(&params); err != nil {
		return nil, err
	}
	req, err := s.createRequest(&params)
	if err != nil {
		return nil, err
	}
	return s.showReviewed(s.Signer.CreateSession(ctx, c.peer, req))
}

// showReviewed is a new session, with what its operator has to know of it.
func (s *Server) showReviewed(sess *session.Session, review *session.Review, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	shown, err := s.showWhole(sess)
	if err != nil {
		return nil, err
	}
	shown.Warnings, shown.Risk = review.Warnings, review.Risk
	return shown, nil
}

// createRequest reads the parts of a request to make a session.
func (s *Server) createRequest(params *api.CreateSession) (*session.CreateRequest, error) {
	spec, err := policy.ParseSpec(params.Spec, false)
	if err != nil {
		return nil, fmt.Errorf("spec: %w", err)
	}
	req := &session.CreateRequest{Kind: session.Kind(params.Kind), Spec: spec, Backend: params.Backend,
		Unchecked: params.Unchecked}
	if req.Kind == "" {
		req.Kind = session.AGW
	}
	if params.Account != nil {
		req.Account = *params.Account
	}
	if req.Clients, err = parseClients(params.Clients); err != nil {
		return nil, err
	}
	chain, err := s.chainNamed(params.Chain)
	if err != nil {
		return nil, err
	}
	req.ChainID = chain.ID
	if req.Kind == session.AGW {
		req.Validator = chain.Validator
	}
	return req, nil
}

func parseClients(texts []string) (clients []session.Client, err error) {
	for i, text := range texts {
		client, err := session.ParseClient(text)
		if err != nil {
			return nil, badParam("clients["+strconv.Itoa(i)+"]", "%v", err)
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// chainNamed finds a configured chain by its name or its id.
func (s *Server) chainNamed(name string) (Chain, error) {
	if chain, ok := s.Chains[name]; ok {
		return chain, nil
	}
	for _, chain := range s.Chains {
		if strconv.FormatUint(chain.ID, 10) == name {
			return chain, nil
		}
	}
	return Chain{}, badParam("chain", "no chain %q in the configuration%s", shorten(name),
		suggest.DidYouMean(shorten(name), slices.Sorted(maps.Keys(s.Chains))))
}

// lifecycle reads a session's id, has step done with it, and shows the session.
func (s *Server) lifecycle(c *call, step func(id session.ID) (*session.Session, error)) (any, error) {
	var params api.SessionID
	if err := c.object(&params); err != nil {
		return nil, err
	}
	sess, err := step(s.sessionID(params.ID))
	if err != nil {
		return nil, err // names the session
	}
	return s.showWhole(sess)
}

// sessionID is the id of the session with that signer, or name itself.
func (s *Server) sessionID(name string) session.ID {
	var signer policy.Address
	if signer.UnmarshalText([]byte(strings.ToLower(name))) == nil {
		if sess, err := s.Signer.Sessions.BySigner(signer); err == nil {
			return sess.ID
		}
	}
	return session.ID(shorten(name)) // what is cut is no session's
}

func adminActivate(s *Server, ctx context.Context, c *call) (any, error) {
	return s.lifecycle(c, func(id session.ID) (*session.Session, error) {
		return s.Signer.Sessions.Activate(ctx, c.peer, id)
	})
}

func adminRevoke(s *Server, ctx context.Context, c *call) (any, error) {
	return s.lifecycle(c, func(id session.ID) (*session.Session, error) {
		return s.Signer.Sessions.Revoke(ctx, c.peer, id)
	})
}

func adminClose(s *Server, ctx context.Context, c *call) (any, error) {
	return s.lifecycle(c, func(id session.ID) (*session.Session, error) {
		return s.Signer.Sessions.CloseSession(ctx, c.peer, id)
	})
}

func adminGet(s *Server, _ context.Context, c *call) (any, error) {
	return s.lifecycle(c, s.Signer.Sessions.Get)
}

func adminList(s *Server, _ context.Context, c *call) (any, error) {
	page, err := s.page(c, func(name session.Ref) (*session.Session, error) {
		if name.ID != "" {
			return s.Signer.Sessions.Get(name.ID)
		}
		return s.Signer.Sessions.BySigner(name.Signer)
	})
	if err != nil {
		return nil, err
	}
	return s.showAll(s.Signer.Sessions.ListPage(page)), nil
}

func adminReload(s *Server, ctx context.Context, c *call) (any, error) {
	if s.Reload == nil {
		return nil, errors.New("this agent's configuration can't be read again: restart it")
	}
	result, err := s.Reload(ctx)
	if err != nil {
		return nil, fmt.Errorf("the configuration stays as it was: %w", err)
	}
	if _, err := s.done(ctx, c, audit.AgentReloaded, map[string]any{"changed": append([]string{},
		result.Changed...)}); err != nil {
		return nil, err
	}
	return result, nil
}

// done records what the operator did to the agent.
func (s *Server) done(ctx context.Context, c *call, event audit.Event, detail any) (any, error) {
	rec := audit.Record{Event: event, Peer: &c.peer, Method: c.method.Name, Detail: detail}
	if err := s.Signer.Sessions.Record(ctx, rec); err != nil {
		return nil, err
	}
	return api.Done{OK: true}, nil
}

func adminClients(s *Server, _ context.Context, _ *call) (any, error) { return s.clients(), nil }

func adminStatus(s *Server, ctx context.Context, _ *call) (any, error) { return s.Status(ctx), nil }

// Status says how the agent is. It asks the devices, and waits for none of them longer than a few seconds.
func (s *Server) Status(ctx context.Context) *api.Status {
	counts := s.Signer.Counts()
	status := &api.Status{
		Version: s.Version, PID: os.Getpid(), StartedAt: s.Started,
		Sessions: make(map[string]int), Backends: s.backendStates(ctx), Chains: s.chainStates(),
		Connections: s.agent.quota.inUse(connections), InFlight: s.agent.quota.inUse(callsInFlight),
		Granted: counts.Granted, Denied: counts.Denied, Failed: counts.Failed, AuditHead: s.auditHead(),
		Confined: append([]string{}, s.Confined...),
	}
	for state, n := range s.Signer.Sessions.Counts() {
		status.Sessions[string(state)] = n
	}
	took, n := s.recent.quantiles(time.Now(), .5, .99)
	status.Recent = api.Recent{Requests: n, P50: millis(took[0]), P99: millis(took[1])}
	queues := s.Signer.Sessions.Queues()
	for i := range status.Backends {
		q := queues[status.Backends[i].Name]
		status.Backends[i].Queue = &api.Queue{Slots: q.Slots, Busy: q.Busy, Waiting: q.Waiting}
	}
	s.judge(status)
	return status
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func adminAuditHead(s *Server, _ context.Context, _ *call) (any, error) { return s.auditHead(), nil }

func adminCopyLedger(s *Server, ctx context.Context, c *call) (any, error) {
	dir, err := s.Signer.Sessions.Copy(ctx, c.peer)
	if err != nil {
		return nil, err
	}
	return api.Copied{Directory: dir}, nil
}

func adminTrailArchived(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.TrailArchived
	if err := c.object(&params); err != nil {
		return nil, err
	}
	gone := &audit.Gone{Records: params.Records, Hash: params.Hash, To: params.To}
	for _, text := range params.Tree {
		h, err := tlog.ParseHash(text)
		if err != nil {
			return nil, fmt.Errorf("%w: tree: %w", session.ErrInvalid, err)
		}
		gone.Tree = append(gone.Tree, h)
	}
	for _, f := range params.Files {
		gone.Files = append(gone.Files, audit.GoneFile(f))
	}
	return api.Done{OK: true}, s.Signer.Sessions.TrailArchived(ctx, c.peer, gone)
}

func adminTrailErased(s *Server, ctx context.Context, c *call) (any, error) {
	var choice api.TrailErased
	if err := c.object(&choice); err != nil {
		return nil, err
	}
	return api.Done{OK: true}, s.Signer.Sessions.TrailErased(ctx, c.peer, choice)
}

func (s *Server) auditHead() api.AuditHead {
	head := s.Signer.Sessions.AuditHead()
	return api.AuditHead{Seq: head.Seq, Hash: policy.Hash(head.Hash)}
}
