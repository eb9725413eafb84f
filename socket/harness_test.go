package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/policy"
)

// patience is how long tests wait for what should happen at once.
const patience = 20 * time.Second

// medium is what test_medium answers, as large as a large answer of a real method.
var medium = json.RawMessage(`"` + strings.Repeat("x", 64<<10) + `"`)

// fakeMethods stand for the real ones where the frame is tested, not what is in it.
func fakeMethods(block <-chan struct{}, started chan<- struct{}) []Method {
	any3 := []Param{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	return []Method{
		{Name: "test_echo", Params: any3, do: func(_ *Server, _ context.Context, c *call) (any,
			error) {
			return echoed(c.params), nil
		}},
		{Name: "test_need", Params: []Param{{Name: "a", Required: true}},
			do: func(*Server, context.Context, *call) (any, error) { return true, nil }},
		{Name: "test_deny", do: func(*Server, context.Context, *call) (any, error) {
			return nil, &policy.Denial{Reason: "no", Policy: -1, Constraint: -1}
		}},
		{Name: "test_panic", do: func(*Server, context.Context, *call) (any, error) { panic("on purpose") }},
		{Name: "test_large", do: func(*Server, context.Context, *call) (any, error) {
			return strings.Repeat("x", 1<<20),
				nil
		}},
		{Name: "test_medium", do: func(*Server, context.Context, *call) (any, error) { return medium, nil }},
		{Name: "test_wait", do: func(_ *Server, ctx context.Context, _ *call) (any, error) {
			if started != nil {
				started <- struct{}{}
			}
			select {
			case <-block:
				return "waited", nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}},
		{Name: "test_sign", signs: true, do: func(*Server, context.Context, *call) (any, error) { return "signed", nil }},
	}
}

// harness is a server on a socket of its own.
type harness struct {
	*Server
	path   string
	served chan error
}

// startServer serves methods on an agent socket until the test ends.
func startServer(t *testing.T, limits Limits, methods []Method) *harness {
	t.Helper()
	h := &harness{Server: New(Config{Limits: limits, Version: "test"}), path: filepath.Join(t.TempDir(), "agent.sock"),
		served: make(chan error, 1)}
	h.agent.list, h.agent.methods = methods, methodTable(methods)
	l, err := Listen(h.path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	go func() { h.served <- h.Serve(context.Background(), l, nil) }()
	t.Cleanup(func() { h.stop(t) })
	return h
}

// stop shuts the server down and checks that nothing is left of what clients took.
func (h *harness) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = h.Shutdown(ctx) // may be the second time, and is cut short
	select {
	case err := <-h.served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Serve does not return after Shutdown")
	}
	for r, name := range map[resource]string{connections: "connections", callsInFlight: "calls", bytesInFlight: "bytes",
		bytesPending: "bytes of answers"} {
		if n := h.agent.quota.inUse(r); n != 0 {
			t.Errorf("%d %s are still counted after Shutdown", n, name)
		}
	}
}

// peerConn is a client's side of a connection.
type peerConn struct {
	t *testing.T
	*net.UnixConn
	r *bufio.Reader
}

func dial(t *testing.T, path string) *peerConn {
	t.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &peerConn{t, nc.(*net.UnixConn), bufio.NewReader(nc)}
}

func (c *peerConn) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("sending %.60q: %v", text, err)
	}
}

// line reads one answer.
func (c *peerConn) line() string {
	c.t.Helper()
	line, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatalf("reading an answer: %v (so far %.200q)", err, line)
	}
	return strings.TrimSuffix(line, "\n")
}

// ask sends one request and reads one answer.
func (c *peerConn) ask(text string) string {
	c.t.Helper()
	c.send(text)
	return c.line()
}

// code is the error code of an answer, 0 for a result.
func code(t *testing.T, line string) int {
	t.Helper()
	var answer struct {
		Result json.RawMessage
		Error  *struct{ Code int }
	}
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		t.Fatalf("answer %.200q: %v", line, err)
	}
	if answer.Error == nil {
		return 0
	}
	return answer.Error.Code
}

// echoed is params as a result.
func echoed(params []policy.JSONValue) (result []json.RawMessage) {
	if params != nil {
		result = []json.RawMessage{}
	}
	for _, p := range params {
		result = append(result, json.RawMessage(p))
	}
	return result
}

// manyMembers is n members of an object that nothing knows.
func manyMembers(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, `,"x%d":1`, i)
	}
	return text.String()
}
