package client

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/keyward/keyward/socket/api"
)

// The method that turns notifications on for a connection, and the notification.
const (
	notifyMethod  = "rpc_notifyWaiting"
	waitingMethod = "keyward_waiting"
)

// waits is which calls of a connection wait for a person.
type waits struct {
	mu   sync.Mutex        // held while tell runs, so that it hears things in order
	tell func(what string) // nil: the agent was not asked to say
	now  map[string]string // by id of the request: what a person has to do
	told string
}

// begin has tell told from now on.
func (w *waits) begin(tell func(what string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell, w.now = tell, make(map[string]string)
}

// set takes in what a person has to do for a request; "": nothing.
func (w *waits) set(id, what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tell == nil || w.now[id] == what {
		return
	}
	w.now[id] = what
	if what == "" {
		delete(w.now, id)
		for _, what = range w.now { // another call still waits, most likely for the same
		}
	}
	if what != w.told {
		w.told = what
		w.tell(what)
	}
}

// notify has the agent say, from the next request on, when one waits. It is asked once. That it can't be
// is found by the request that follows.
func (l *link) notify(ctx context.Context, tell func(what string)) {
	if take(ctx, l.first) != nil { // so that no request overtakes this one
		return
	}
	defer func() { <-l.first }()
	if l.asked {
		return
	}
	l.asked = true
	l.waits.begin(tell)
	id, _, err := l.expect()
	if err != nil {
		return
	}
	l.mu.Lock()
	l.asking = id
	l.mu.Unlock()
	if l.send(ctx, id, notifyMethod, json.RawMessage("[]")) != nil { // ctx ended, perhaps: the next call asks
		l.asked = false
		l.forget(id)
	}
}

// take takes in a notification.
func (l *link) take(params json.RawMessage) {
	var w api.Waiting
	if json.Unmarshal(params, &w) != nil {
		return // from an agent that means something else by it
	}
	id := string(w.ID)
	if !l.expects(id) {
		return
	}
	l.waits.set(id, w.For)
	if !l.expects(id) { // given up just now, and nobody else takes it back
		l.waits.set(id, "")
	}
}
