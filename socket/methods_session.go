package socket

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// maxHooks bounds the validation hooks of an account: the SDK's accounts have one.
const maxHooks = 16

// sessionMethods are the agent's own.
func sessionMethods() []Method {
	return []Method{{
		Name: "session_list", Summary: "Sessions that this client may use and that have not ended",
		Params: []Param{pageParam},
		Result: Result{"sessions", "Sessions", "oldest first"}, do: sessionList,
	}, {
		Name: "session_get", Summary: "One session, with what is left of its limits",
		Params: []Param{{"session", true, "String", "its id or its signer"}},
		Result: Result{"session", "Session", "also one that has ended"}, Errors: []int{api.CodeUnauthorized}, do: sessionGet,
	}, {
		Name: "session_simulate", Summary: "The verdict that signing would get now; nothing is counted",
		Params: []Param{transactionParam},
		Result: Result{"verdict", "Verdict", "a denial is a result here, no error"}, Errors: []int{api.CodeUnauthorized},
		do: simulate,
	}, {
		Name: "session_signTransaction", Summary: "Sign a transaction, and give all that there is to it",
		Params: []Param{transactionParam},
		Result: Result{"signed", "SignedTransaction", "the raw transaction and its parts"},
		Errors: signingErrors, signs: true, do: sessionSign,
	}}
}

// rpcMethods are what JSON-RPC tools ask a server about itself, on both sockets.
func rpcMethods() []Method {
	return []Method{{
		Name: "rpc_modules", Summary: "Groups of methods on this socket",
		Result: Result{"modules", "Modules", "name to version"}, do: rpcModules,
	}, {
		Name: "rpc_discover", Summary: "This document, as OpenRPC",
		Result: Result{"openrpc", "Object", "OpenRPC 1.3.2"}, do: discover,
	}, notifyMethod()}
}

func sessionList(s *Server, _ context.Context, c *call) (any, error) {
	page, err := s.page(c, func(name session.Ref) (*session.Session,
		error) {
		return s.Signer.Sessions.GetFor(c.peer, name)
	})
	if err != nil {
		return nil, err
	}
	return s.showAll(s.Signer.Sessions.VisiblePage(c.peer, page)), nil
}

func sessionGet(s *Server, _ context.Context, c *call) (any, error) {
	name, err := parseName("params[0]", c.param(0))
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Sessions.GetFor(c.peer, name)
	if err != nil {
		return nil, err
	}
	return s.showWhole(sess)
}

// parseName reads a session's name: its id, or its signer's address. Of an address ID is "".
func parseName(path string, value policy.JSONValue) (session.Ref, error) {
	text, err := parseString(path, value)
	switch {
	case err != nil:
		return session.Ref{}, err
	case strings.HasPrefix(text, "0x"):
		signer, err := parseSigner(path, value)
		return session.Ref{Signer: signer}, err
	case text == "":
		return session.Ref{}, badParam(path, "want an id or a signer's address")
	}
	return session.Ref{ID: session.ID(text)}, nil
}

// show is a session as both sockets show it.
func (s *Server) show(sess *session.Session) *api.Session {
	shown := &api.Session{
		ID: string(sess.ID), Kind: string(sess.Kind), Signer: sess.Signer(), Account: sess.Account,
		ChainID: sess.ChainID, Status: string(sess.Status), SessionHash: sess.Hash, Session: sess.Spec,
		KeyURI: sess.KeyURI, Backend: sess.Backend, Protection: string(sess.Protection),
		CreatedAt: sess.CreatedAt, ActivatedAt: given(sess.ActivatedAt), EndedAt: given(sess.EndedAt),
		KeyDestroyedAt: given(sess.KeyDestroyedAt), SignsUntil: s.Signer.Sessions.SignsUntil(sess),
	}
	for _, client := range sess.Clients {
		shown.Clients = append(shown.Clients, client.String())
	}
	if sess.Kind == session.AGW {
		shown.Validator = &sess.Validator
	}
	shown.Blocked, shown.Predecessor = sess.Blocked, string(sess.Predecessor)
	shown.Successor = string(s.Signer.Sessions.Successor(sess.ID))
	return shown
}

// given returns nil for the zero time.
func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// showWhole adds what costs more to find out.
func (s *Server) showWhole(sess *session.Session) (*api.Session, error) {
	shown := s.show(sess)
	usage, err := s.Signer.Sessions.Usage(sess.ID)
	if err != nil {
		return nil, err
	}
	for _, u := range usage {
		shown.Limits = append(shown.Limits, api.Limit{
			Tracker: u.Tracker, Limit: u.Limit, Used: u.Used, Remaining: u.Remaining, ChainUsed: u.Chain,
			RunsOut: given(u.RunsOut),
		})
	}
	outstanding, err := s.Signer.Sessions.Outstanding(sess.ID)
	if err != nil {
		return nil, err
	}
	inDevice := s.Signer.Sessions.InDevice(sess.ID)
	shown.Outstanding, shown.InDevice = &outstanding, &inDevice
	shown.Chain, shown.Waiting = s.onChain(sess), s.waitsFor(sess.Backend)
	if shown.Waiting == "" && s.Signer.Sessions.AwaitsApproval(sess.ID) {
		shown.Waiting = session.WaitsForApproval
	}
	if sess.Kind == session.AGW {
		shown.CreateSessionCalldata = api.Bytes(sess.Spec.CreateSessionCalldata()).String()
		shown.RevokeKeysCalldata = api.Bytes(policy.RevokeKeysCalldata(sess.Hash)).String()
	}
	return shown, nil
}

func simulate(s *Server, ctx context.Context, c *call) (any, error) {
	req, err := s.parseTransaction(ctx, c)
	if err != nil {
		return nil, err
	}
	verdict, err := s.Signer.Simulate(ctx, c.peer, &req.sign)
	if err != nil {
		return nil, err
	}
	return showVerdict(verdict), nil
}

func showVerdict(v *session.Verdict) *api.Verdict {
	shown := &api.Verdict{
		Allow: v.Denial == nil, Charges: []api.Charge{}, PeriodIDs: v.PeriodIDs,
		Digest: v.Digest, Session: string(v.Session.ID),
	}
	for _, charge := range v.Charges {
		shown.Charges = append(shown.Charges, api.Charge(charge))
	}
	if v.Denial != nil {
		reply := replyTo(v.Denial, false)
		shown.Reason, shown.Message, shown.Denial = v.Denial.Reason, v.Denial.Error(), reply.Denial()
	}
	return shown
}

func sessionSign(s *Server, ctx context.Context, c *call) (any, error) {
	signed, err := s.signTransaction(ctx, c)
	if err != nil {
		return nil, err
	}
	return signed.reply, nil
}

// signedTransaction is a transaction with its signature.
type signedTransaction struct {
	tx           *zktx.Transaction
	rawSignature []byte // what stands in the raw transaction: agw customSignature, eoa R ‖ S ‖ V
	reply        api.SignedTransaction
}

// sign signs and keeps the signature's pass for the answer.
func (s *Server) sign(ctx context.Context, c *call, req *session.SignRequest) (*session.Signed, error) {
	req.Conn = c.from
	c.decoded = time.Since(c.begun)
	signed, err := s.Signer.Sign(ctx, c.peer, req)
	if errors.Is(err, session.ErrNotApproved) {
		signed, err = s.signApproved(ctx, c, req)
	}
	if err != nil {
		return nil, err
	}
	c.pass, c.signed = signed.Pass, signed
	return signed, nil
}

// signTransaction reads the first parameter, has it signed, and puts the raw transaction together.
func (s *Server) signTransaction(ctx context.Context, c *call) (*signedTransaction, error) {
	req, err := s.parseTransaction(ctx, c)
	if err != nil {
		return nil, err
	}
	signed, err := s.sign(ctx, c, &req.sign)
	if err != nil {
		return nil, err
	}
	tx, sess := req.sign.Tx, signed.Session
	out := &signedTransaction{tx: tx, rawSignature: signed.Signature[:]}
	out.reply = api.SignedTransaction{
		Signature: signed.Signature[:], Digest: signed.Digest,
		Session: string(sess.ID), SessionHash: sess.Hash,
	}
	if sess.Kind == session.AGW {
		hookData := req.hookData(sess, signed.PeriodIDs)
		out.rawSignature = zktx.CustomSignature(signed.Signature, sess.Validator, hookData)
		out.reply.CustomSignature, out.reply.PeriodIDs = out.rawSignature, signed.PeriodIDs
	}
	if out.reply.Raw, err = tx.Raw(out.rawSignature); err != nil {
		return nil, err
	}
	if out.reply.Hash, err = tx.Hash(out.rawSignature); err != nil {
		return nil, err
	}
	return out, nil
}

// hookData has an entry for each validation hook, empty but for the session's validator.
func (r *transactionRequest) hookData(sess *session.Session, periodIDs []uint64) [][]byte {
	own := sess.Spec.HookData(periodIDs)
	if r.hooks == nil {
		return [][]byte{own}
	}
	data := make([][]byte, len(r.hooks))
	for i, hook := range r.hooks {
		if hook == sess.Validator {
			data[i] = own
		}
	}
	return data
}

// rpcModules has the groups that the names of the methods begin with (Clef's clients and geth attach ask).
func rpcModules(s *Server, _ context.Context, c *call) (any, error) {
	modules := make(map[string]string)
	for name := range c.socket.methods {
		module, _, _ := strings.Cut(name, "_")
		modules[module] = "1.0"
	}
	return modules, nil
}

func discover(s *Server, _ context.Context, c *call) (any, error) {
	return OpenRPC(c.socket.list, s.Version)
}
