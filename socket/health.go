package socket

import (
	"fmt"
	"strings"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// judge sets what st says of the agent as a whole: State, Detail and Signs. The rest of st is complete.
//
// The first state that holds counts, worst first: halted, locked, degraded, ready. An agent whose backends all wait for
// their PINs is locked too: an unlock is what it needs.
func (s *Server) judge(st *api.Status) {
	troubles := s.troubles(st)
	ready, locked := 0, 0
	for _, b := range st.Backends {
		switch b.State {
		case api.StateReady:
			ready++
		case api.StateLocked:
			locked++
		}
	}
	halted := s.Signer.Sessions.Halted()
	switch {
	case halted != nil:
		st.State, st.Detail = api.StateHalted, halted.Error()
	case s.Signer.Locked():
		st.State, st.Detail = api.StateLocked, session.ErrLocked.Error()
	case len(st.Backends) > 0 && locked == len(st.Backends):
		st.State, st.Detail = api.StateLocked, "no backend can sign: "+strings.Join(troubles, "; ")
	case ready == 0:
		st.State, st.Detail = api.StateDegraded, "no backend can sign: "+strings.Join(troubles, "; ")
	case len(troubles) > 0:
		st.State, st.Detail, st.Signs = api.StateDegraded, strings.Join(troubles, "; "), true
	default:
		st.State, st.Signs = api.StateReady, true
	}
}

// troubles lists what keeps some signatures, but not all, from being made, and what needs the operator.
func (s *Server) troubles(st *api.Status) (troubles []string) {
	add := func(format string, args ...any) { troubles = append(troubles, fmt.Sprintf(format, args...)) }
	for _, b := range st.Backends {
		if b.State != api.StateReady {
			add("backend %s is %s", b.Name, b.State)
		}
	}
	for _, b := range st.Backends {
		if b.Foreign > 0 {
			add("the device of backend %s has made %d signatures that this agent did not ask for", b.Name, b.Foreign)
		}
		if b.WentBack > 0 {
			add("the counter of %d keys in backend %s went back: the card was reset, or is another one", b.WentBack, b.Name)
		}
	}
	for _, c := range st.Chains {
		switch c.State {
		case "clock":
			add("nothing is signed for chain %s: its clock and the agent's differ", c.Name)
		case "unavailable":
			add("chain %s can't be read", c.Name)
		}
		if c.Blocked > 0 {
			add("the registry of chain %s stops %d sessions", c.Name, c.Blocked)
		}
		if c.Exposed > 0 {
			add("%d sessions on chain %s have usage that this agent did not sign", c.Exposed, c.Name)
		}
	}
	if s.Signer.Sessions.DiskShort() {
		add("the state's disk is short of room: refusals are only counted")
	}
	return troubles
}
