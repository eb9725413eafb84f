package socket

import (
	"cmp"
	"slices"

	"github.com/keyward/keyward/socket/api"
)

// clients lists who is connected, by socket and process.
func (s *Server) clients() []api.Client {
	type process struct {
		of  *endpoint
		pid int32
		uid uint32
	}
	byProcess := make(map[process]*api.Client)
	for _, c := range s.connections() {
		key := process{c.socket, c.peer.PID, c.peer.UID}
		shown := byProcess[key]
		if shown == nil {
			shown = &api.Client{Socket: c.socket.name(), UID: c.peer.UID, GID: c.peer.GID, PID: c.peer.PID, Exe: c.peer.Exe,
				Since: c.since}
			byProcess[key] = shown
		}
		shown.Connections++
		shown.InFlight += int(c.calls.Load())
		if c.since.Before(shown.Since) {
			shown.Since = c.since
		}
	}
	list := []api.Client{}
	for _, client := range byProcess {
		list = append(list, *client)
	}
	slices.SortFunc(list, func(a, b api.Client) int {
		return cmp.Or(cmp.Compare(b.Socket, a.Socket), a.Since.Compare(b.Since), cmp.Compare(a.PID, b.PID))
	})
	return list
}

// name is the socket's name in lists.
func (e *endpoint) name() string {
	switch {
	case e.admin:
		return "admin"
	case e.methods["approve_vote"] != nil:
		return "approve"
	}
	return "agent"
}
