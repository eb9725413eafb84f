package socket

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// approveMethods are the methods of approve.sock, besides [rpcMethods].
func approveMethods() []Method {
	return []Method{{
		Name: "approve_list", Summary: "Requests that wait for an approval",
		Result: Result{"approvals", "Approvals", "oldest first"}, do: approveList,
	}, {
		Name: "approve_get", Summary: "One request that waits, with what is left of its session",
		Params: []Param{{"request", true, "ApprovalID", "id: as approve_list has it"}},
		Result: Result{"approval", "Approval", ""}, do: approveGet,
	}, {
		Name: "approve_vote", Summary: "Approve or deny a request that waits",
		Params: []Param{{"vote", true, "ApprovalVote", "all votes of one user are one; a single no denies"}},
		Result: Result{"done", "Done", "the vote is recorded"}, Errors: []int{api.CodeUnauthorized, api.CodeUnavailable},
		do: approveVote,
	}}
}

// ServeVoters has [Server.Serve], which comes after it, serve approve.sock too: to those that
// [session.Sessions.MayVote] lets vote.
func (s *Server) ServeVoters(l net.Listener) { s.approve = l }

// mayVote reports whether peer may use approve.sock.
func (s *Server) mayVote(peer audit.Peer) bool {
	return s.Signer != nil && s.Now().Signer.Sessions.MayVote(peer)
}

// signApproved waits for an approval and signs then, by the configuration of then. People take longer than a request
// has: the approval has a time of its own, and the time of the request begins again after it.
func (s *Server) signApproved(ctx context.Context, c *call, req *session.SignRequest) (*session.Signed, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(s.base, cancel)()
	if err := s.Signer.AwaitApproval(ctx, c.peer, req); err != nil {
		return nil, err
	}
	if c.from.left() { // a signature for nobody would be charged
		return nil, errLeft
	}
	s = s.enter()
	defer s.users.Leave()
	ctx, cancel = context.WithTimeout(ctx, s.limits.RequestTimeout)
	defer cancel()
	return s.Signer.Sign(ctx, c.peer, req)
}

// hungUp reports whether the other end of nc is closed, and not only for writing: POLLHUP, poll(2).
func hungUp(nc *net.UnixConn) (gone bool) {
	raw, err := nc.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		gone = err == nil && n > 0 && poll[0].Revents&unix.POLLHUP != 0
	})
	return err != nil || gone
}

func approveList(s *Server, _ context.Context, _ *call) (any, error) {
	list := []*api.Approval{}
	for _, a := range s.Signer.Sessions.Approvals() {
		shown, err := s.showApproval(&a)
		if err != nil {
			return nil, err
		}
		list = append(list, shown)
	}
	return list, nil
}

func (s *Server) showApproval(a *session.Approval) (*api.Approval, error) {
	tx, err := json.Marshal(a.Tx)
	if err != nil {
		return nil, err
	}
	shown := &api.Approval{
		ID: a.ID, Session: string(a.Session), Account: a.Tx.From, ChainID: a.Tx.ChainID, Digest: a.Digest,
		Client: api.ApprovalClient{UID: a.Peer.UID, GID: a.Peer.GID, PID: a.Peer.PID, Exe: a.Peer.Exe},
		Method: a.Method, Call: rules.CallText(a.Tx.Data), Charges: []api.Charge{}, AskedAt: a.AskedAt, Until: a.Until,
		Required: a.Required, Votes: []api.Vote{}, Transaction: tx,
	}
	for _, need := range a.Needs {
		shown.Rules = append(shown.Rules, api.ApprovalRule{Name: need.Rule, Message: need.Message})
	}
	for _, charge := range a.Charges {
		shown.Charges = append(shown.Charges, api.Charge(charge))
	}
	for _, v := range a.Votes {
		shown.Votes = append(shown.Votes, api.Vote{By: v.By, Approve: v.Yes, At: v.At})
	}
	return shown, nil
}

func approveGet(s *Server, _ context.Context, c *call) (any, error) {
	var params api.ApprovalID
	if err := c.object(&params); err != nil {
		return nil, err
	}
	a, err := s.Signer.Sessions.Approval(params.ID)
	if err != nil {
		return nil, err
	}
	shown, err := s.showApproval(a)
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Sessions.Get(a.Session)
	if err != nil {
		return nil, err
	}
	whole, err := s.showWhole(sess)
	if err != nil {
		return nil, err
	}
	shown.Limits, shown.Policy = whole.Limits, sess.Spec.Describe()
	shown.Risk = sess.Spec.Risk(uint64(max(0, time.Now().Unix()))).Sentence
	return shown, nil
}

func approveVote(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.ApprovalVote
	if err := c.object(&params); err != nil {
		return nil, err
	}
	a, err := s.Signer.Sessions.Approval(params.ID)
	if err == nil && a.Digest != params.Digest {
		return nil, badParam("params[0].digest", "the request %s has the digest %s", a.ID, a.Digest)
	}
	if a != nil {
		params.ID = a.ID
	}
	if err := s.Signer.Sessions.Vote(ctx, c.peer, params.ID, params.Approve); err != nil {
		return nil, err
	}
	return api.Done{OK: true}, nil
}
