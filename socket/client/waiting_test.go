package client_test

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/socket/client"
)

// waiting writes a notification about the request with that id.
func waiting(nc net.Conn, id json.RawMessage, what string) {
	text, _ := json.Marshal(what)
	_, _ = nc.Write([]byte(`{"jsonrpc":"2.0","method":"keyward_waiting","params":{"id":` + string(id) + `,"for":` +
		string(text) + "}}\n"))
}

// listening is a Client that keeps what it was told.
func listening(t *testing.T, path string) (*client.Client, chan string) {
	c, told := dial(t, path), make(chan string, 16)
	c.OnWaiting = func(what string) { told <- what }
	return c, told
}

// all is what was told so far.
func all(told chan string) (list []string) {
	for {
		select {
		case what := <-told:
			list = append(list, what)
		default:
			return list
		}
	}
}

// The agent is asked once on each connection, before anything else; an agent that does not know
// the method is an older one.
func TestOnWaiting(t *testing.T) {
	s := startScript(t, func(n int, r request, nc net.Conn) bool {
		switch r.Method {
		case "rpc_notifyWaiting":
			return reply(nc, r, `"error":{"code":-32601,"message":"the method does not exist/is not available"}`)
		case "touch":
			waiting(nc, r.ID, "touch it")
			waiting(nc, r.ID, "")
		case "dropped": // the end of it, since the client was behind
			waiting(nc, r.ID, "touch it")
		case "others":
			waiting(nc, json.RawMessage(`"x"`), "touch it")
			waiting(nc, json.RawMessage(`4711`), "touch it")
		case "end":
			reply(nc, r, `"result":true`)
			return false
		}
		return reply(nc, r, `"result":true`)
	})
	c, told := listening(t, s.path)
	for _, tt := range []struct {
		method string
		want   []string
	}{
		{"plain", nil}, {"touch", []string{"touch it", ""}}, {"dropped", []string{"touch it", ""}}, {"others", nil},
		{"end", nil}, {"touch", []string{"touch it", ""}},
	} {
		if err := c.Call(t.Context(), nil, tt.method); err != nil {
			t.Fatalf("%s: %v", tt.method, err)
		}
		if diff := cmp.Diff(tt.want, all(told)); diff != "" {
			t.Errorf("%s: told (-want +got):\n%s", tt.method, diff)
		}
	}
	want := []string{"rpc_notifyWaiting", "plain", "touch", "dropped", "others", "end", "rpc_notifyWaiting", "touch"}
	if got := s.methods(); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("methods %q, want %q", got, want)
	}
	if err := dial(t, s.path).Call(t.Context(), nil, "plain"); err != nil {
		t.Fatal(err)
	}
	if got := s.methods(); got[len(got)-1] != "plain" || len(got) != len(want)+1 {
		t.Errorf("a client that does not listen calls %q", got[len(want):])
	}
}

// Several calls that wait for one finger are told of once, until the last of them does not wait any more.
func TestOnWaitingOfSeveral(t *testing.T) {
	var held []request
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		if r.Method == "rpc_notifyWaiting" {
			return reply(nc, r, `"result":{"ok":true}`)
		}
		waiting(nc, r.ID, "touch it")
		if held = append(held, r); len(held) < 2 {
			return true
		}
		return reply(nc, held[0], `"result":true`)
	})
	c, told := listening(t, s.path)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	for range 2 {
		go func() { done <- c.Call(ctx, nil, "touch") }()
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"touch it"}, all(told)); diff != "" {
		t.Errorf("while one waits: told (-want +got):\n%s", diff)
	}
	cancel() // the other gives up
	<-done
	if diff := cmp.Diff([]string{""}, all(told)); diff != "" {
		t.Errorf("after both: told (-want +got):\n%s", diff)
	}
}

// What refuses the request for notifications would refuse any other, and is told as such.
func TestOnWaitingRefused(t *testing.T) {
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		reply(nc, r, `"error":{"code":-32005,"message":"too many connections: this one gets no further answer"}`)
		return false
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for range 500 { // the request may be sent before the refusal is there, after it, or after the end
		c, _ := listening(t, s.path)
		err := c.Call(ctx, nil, "eth_accounts")
		if e := client.Details(err); e == nil || e.Code != -32005 {
			t.Fatalf("Call = %v, want the agent's -32005", err)
		}
		c.Close()
	}
}
