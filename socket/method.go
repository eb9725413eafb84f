package socket

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// Method is one method of a socket: how it is called and what does it. The
// OpenRPC document and the reference in docs/protocol.md are made from these.
type Method struct {
	Name    string
	Summary string
	Params  []Param
	Result  Result
	Errors  []int // codes beyond those that every method may answer
	Admin   bool  // on admin.sock only

	signs   bool // stops while the operator has locked the agent
	inOrder bool // unless in a batch, is done before what follows on its connection, and must not wait for anything
	do      func(s *Server, ctx context.Context, c *call) (any, error)
}

// Param is one parameter, by position.
type Param struct {
	Name        string
	Required    bool
	Schema      string // a name in schemas.json
	Description string
}

// Result is what a method answers.
type Result struct {
	Name        string
	Schema      string // a name in schemas.json
	Description string
}

// call is one call of a method.
type call struct {
	peer   audit.Peer
	socket *endpoint
	from   *client
	method *Method
	params []policy.JSONValue
	pass   *session.Pass // of the signature that the call has made; nil: none yet
	signed *session.Signed
	begun  time.Time
	// decoded is how long reading the parameters took; 0: they are not read yet, or ask for no signature.
	decoded time.Duration
}

// checkParams holds the number of parameters to the method's table.
func (c *call) checkParams() error {
	if n := len(c.method.Params); len(c.params) > n {
		return badParam("params", "%s takes %d, not %d", c.method.Name, n, len(c.params))
	}
	for i, p := range c.method.Params {
		if p.Required && i >= len(c.params) {
			return badParam(fmt.Sprintf("params[%d]", i), "%s is missing", p.Name)
		}
	}
	return nil
}

// param returns the parameter, or nil if it is not given.
func (c *call) param(i int) policy.JSONValue {
	if i >= len(c.params) || !c.method.Params[i].Required && c.params[i].Kind() == policy.KindNull {
		return nil // null is an optional parameter that is not there
	}
	return c.params[i]
}

// refusedMethod is a method of wallets, nodes or Clef that clients know and that is not
// here on purpose.
type refusedMethod struct {
	Name, Why string
	signs     bool // asks for a signature
}

const (
	whySend  = "the agent signs, it does not send: sign the transaction and send it through a node"
	whyKeys  = "keys are made by the operator, one for each session (keyward session create)"
	whyTyped = "only eth_signTypedData_v4 is"
	whyChain = "a session is for one chain"
)

// refusedMethods are answered with code 4200.
var refusedMethods = []refusedMethod{
	{"eth_sendTransaction", whySend, true},
	{"eth_sendRawTransaction", whySend, false},
	{"eth_sendRawTransactionSync", whySend, false},
	{"wallet_sendTransaction", whySend, true},
	{"wallet_sendCalls", whySend, true},
	{"personal_sendTransaction", whySend, true},
	{"personal_signTransaction", "only eth_signTransaction is", true},
	{"eth_signTypedData", whyTyped, true},
	{"eth_signTypedData_v3", whyTyped, true},
	{"account_new", whyKeys, false},
	{"personal_newAccount", whyKeys, false},
	{"personal_importRawKey", whyKeys, false},
	{"personal_unlockAccount", "the operator unlocks (keyward unlock)", false},
	{"wallet_switchEthereumChain", whyChain, false},
	{"wallet_addEthereumChain", whyChain, false},
	{"wallet_requestPermissions", "the operator grants sessions (keyward session create)", false},
}

// methodTable makes the methods of one socket findable by name.
func methodTable(methods []Method) map[string]*Method {
	table := make(map[string]*Method, len(methods))
	for i := range methods {
		table[methods[i].Name] = &methods[i]
	}
	return table
}

// Methods returns every method: those of agent.sock, then those of admin.sock only, then those of approve.sock only.
func Methods() []Method { return slices.Concat(agentMethods(), adminMethods(), approveMethods()) }
