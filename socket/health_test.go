package socket

import (
	"context"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/socket/api"
)

// inState is a backend that says it is in that state.
type inState struct {
	soft.Backend
	state string
}

func (b *inState) Status(context.Context) backends.Status { return backends.Status{State: b.state} }

func TestState(t *testing.T) {
	for _, test := range []struct {
		backends string // their states
		want     string
		signs    bool
		detail   string
	}{
		{"ready", api.StateReady, true, ""},
		{"ready ready", api.StateReady, true, ""},
		{"locked", api.StateLocked, false, "no backend can sign: backend a is locked"},
		{"locked locked", api.StateLocked, false, "no backend can sign: backend a is locked; backend b is locked"},
		{"ready locked", api.StateDegraded, true, "backend b is locked"},
		{"unavailable", api.StateDegraded, false, "no backend can sign: backend a is unavailable"},
		{"locked unavailable", api.StateDegraded, false,
			"no backend can sign: backend a is locked; backend b is unavailable"},
		{"unavailable ready", api.StateDegraded, true, "backend a is unavailable"},
	} {
		a := startAgent(t)
		clear(a.Backends)
		for i, state := range strings.Fields(test.backends) {
			a.Backends[string(rune('a'+i))] = Backend{Backend: &inState{state: state}, Type: "soft"}
		}
		st := a.Status(t.Context())
		if st.State != test.want || st.Signs != test.signs || st.Detail != test.detail {
			t.Errorf("backends %s: the agent is %s, signs %v, %q, want %s, %v, %q", test.backends, st.State, st.Signs, st.Detail,
				test.want, test.signs, test.detail)
		}
	}
}
