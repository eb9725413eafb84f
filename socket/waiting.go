package socket

import (
	"context"
	"encoding/json"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/socket/api"
)

// waitingMethod is the only notification that the agent sends.
const waitingMethod = "keyward_waiting"

// whyHTTP is why a client over HTTP is not told.
const whyHTTP = "over HTTP there is no way to tell: use the raw stream on this socket, or ask for the session " +
	"meanwhile, which says it in waiting"

// notifyMethod lets a client ask for notifications, which it gets of what it asks afterwards on this connection.
func notifyMethod() Method {
	return Method{
		Name: "rpc_notifyWaiting", Summary: "Have this connection told while one of its requests waits for a person",
		Result: Result{"done", "Done", "from now on " + waitingMethod + " notifications come; not over HTTP"},
		Errors: []int{api.CodeUnsupported}, inOrder: true, do: notifyWaiting,
	}
}

func notifyWaiting(_ *Server, _ context.Context, c *call) (any, error) {
	if c.from.push == nil {
		return nil, &unsupported{c.method.Name, whyHTTP}
	}
	c.from.notify.Store(true)
	return api.Done{OK: true}, nil
}

// notification is a JSON-RPC 2.0 notification, section 4.1.
type notification struct {
	Version string      `json:"jsonrpc"`
	Method  string      `json:"method"`
	Params  api.Waiting `json:"params"`
}

// tellWaiting has the client told of the request with that id, if it wants to be.
func (c *client) tellWaiting(ctx context.Context, id json.RawMessage) context.Context {
	if !c.notify.Load() {
		return ctx
	}
	return backends.WithWaiting(ctx, func(what string) {
		c.push(encodeLine(notification{"2.0", waitingMethod, api.Waiting{ID: id, For: what}}))
	})
}

// waitsFor is what a person has to do for the backend to go on; "": nothing.
func (s *Server) waitsFor(backend string) string {
	if waiter, ok := s.Backends[backend].Backend.(backends.Waiter); ok {
		return waiter.Waiting()
	}
	return ""
}
