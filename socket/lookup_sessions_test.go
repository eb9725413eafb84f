package socket

import (
	"fmt"
	"os"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

var (
	us   = session.Client{ID: uint32(os.Getuid())}
	them = session.Client{ID: 4_000_000_000}
)

// pending makes a pending session of testAccount for this process, with changes to the request.
func (a *agent) pending(change ...func(*session.CreateRequest)) *session.Session {
	a.t.Helper()
	spec, err := policy.ParseSpec([]byte(testSpec), false)
	if err != nil {
		a.t.Fatal(err)
	}
	req := &session.CreateRequest{Kind: session.AGW, Spec: spec, ChainID: testChain, Validator: a.validator,
		Clients: []session.Client{us}, Unchecked: true}
	if err := req.Account.UnmarshalText([]byte(testAccount)); err != nil {
		a.t.Fatal(err)
	}
	for _, c := range change {
		c(req)
	}
	sess, err := a.Signer.Sessions.Create(a.t.Context(), audit.Peer{}, req)
	if err != nil {
		a.t.Fatal(err)
	}
	return sess
}

// active makes an active session as pending does.
func (a *agent) active(change ...func(*session.CreateRequest)) *session.Session {
	a.t.Helper()
	return a.activate(a.pending(change...))
}

func (a *agent) activate(sess *session.Session) *session.Session {
	a.t.Helper()
	sess, err := a.Signer.Sessions.Activate(a.t.Context(), audit.Peer{}, sess.ID)
	if err != nil {
		a.t.Fatal(err)
	}
	return sess
}

func (a *agent) revoke(sess *session.Session) {
	a.t.Helper()
	if _, err := a.operator.RevokeSession(a.t.Context(), string(sess.ID)); err != nil {
		a.t.Fatal(err)
	}
}

// renew makes a pending successor of sess.
func (a *agent) renew(sess *session.Session, clients ...session.Client) *session.Session {
	return a.pending(func(r *session.CreateRequest) {
		r.Predecessor = sess.ID
		if clients != nil {
			r.Clients = clients
		}
	})
}

func onChain(id uint64) func(*session.CreateRequest) {
	return func(r *session.CreateRequest) { r.ChainID = id }
}

func forClients(clients ...session.Client) func(*session.CreateRequest) {
	return func(r *session.CreateRequest) { r.Clients = clients }
}

// meant asks for a signature over tx(changes) by every method that takes a transaction. All have to agree on the
// session, which it returns, or on the error, of which it returns code, reason and message.
func (a *agent) meant(changes map[string]any) string {
	a.t.Helper()
	signed, err := a.app.SignTransaction(a.t.Context(), tx(changes))
	want, raw := errorText(err), ""
	if err == nil {
		want, raw = signed.Session, signed.Raw.String()
	}
	var got api.Bytes
	err = a.app.Call(a.t.Context(), &got, "eth_signTransaction", tx(changes))
	if errorText(err) != errorText(nil) && errorText(err) != want || err == nil && got.String() != raw {
		a.t.Errorf("eth_signTransaction = %v %s, session_signTransaction %s", got, errorText(err), want)
	}
	var clef struct{ Raw api.Bytes }
	err = a.app.Call(a.t.Context(), &clef, "account_signTransaction", tx(changes))
	if errorText(err) != errorText(nil) && errorText(err) != want || err == nil && clef.Raw.String() != raw {
		a.t.Errorf("account_signTransaction = %v %s, session_signTransaction %s", clef.Raw, errorText(err), want)
	}
	verdict, err := a.app.Simulate(a.t.Context(), tx(changes))
	tried := errorText(err)
	if err == nil {
		if tried = verdict.Session; !verdict.Allow {
			tried = "4001 " + verdict.Reason + ": User denied: " + verdict.Message
		}
	}
	if tried != want {
		a.t.Errorf("session_simulate = %s, session_signTransaction %s", tried, want)
	}
	return want
}

// errorText is an error's code, reason and message; "" of none.
func errorText(err error) string {
	reply := goclient.Details(err)
	if reply == nil {
		return ""
	}
	return fmt.Sprintf("%d %s: %s", reply.Code, reply.Details().Reason, reply.Message)
}

// wantMeant checks what a request means: exactly a session, by its id alone, or an error that has all of these words.
func (a *agent) wantMeant(what string, changes map[string]any, want ...string) {
	a.t.Helper()
	got := a.meant(changes)
	if _, err := a.Signer.Sessions.Get(session.ID(want[0])); err == nil && got != want[0] {
		a.t.Errorf("%s: %s, want session %s", what, got, want[0])
	}
	for _, word := range want {
		if !strings.Contains(got, word) {
			a.t.Errorf("%s: %s, want %q", what, got, word)
		}
	}
}

var byAccount map[string]any // nothing but from and chainId says which session is meant

func named(key string, value any) map[string]any { return map[string]any{key: value} }

// testAccountName is testAccount as the agent writes it.
const testAccountName = "0x6352cb2cA1E45d5a5B8b19c85d15cd0Cd5447cd1"
