package socket

import (
	"context"

	"github.com/keyward/keyward/socket/api"
)

// setClientsMethod changes the one thing about a session that the chain does not know.
func setClientsMethod() Method {
	return Method{
		Name: "admin_setClients", Summary: "Say who may use a session from now on",
		Params: []Param{{"request", true, "SetClients", "id: a session's id or its signer; clients: all of them, at least one"}},
		Result: Result{"session", "Session", "with its limits"}, do: adminSetClients,
	}
}

func adminSetClients(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.SetClients
	if err := c.object(&params); err != nil {
		return nil, err
	}
	clients, err := parseClients(params.Clients)
	if err != nil {
		return nil, err
	}
	sess, err := s.Signer.Sessions.SetClients(ctx, c.peer, s.sessionID(params.ID), clients)
	if err != nil {
		return nil, err // names the session
	}
	return s.showWhole(sess)
}
