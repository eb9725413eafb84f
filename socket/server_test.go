package socket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEnvelope(t *testing.T) {
	h := startServer(t, Limits{MaxBatch: 3}, fakeMethods(nil, nil))
	deep := strings.Repeat("[", 70) + strings.Repeat("]", 70)
	for _, tt := range []struct{ name, request, want string }{
		{"id 0", `{"jsonrpc":"2.0","id":0,"method":"test_echo","params":[1]}`, `{"jsonrpc":"2.0","id":0,"result":[1]}`},
		{"empty id", `{"jsonrpc":"2.0","id":"","method":"test_echo","params":[]}`, `{"jsonrpc":"2.0","id":"","result":[]}`},
		{"UUID", `{"jsonrpc":"2.0","id":"9b0e3c0a-0001-4c4e-8b7e-4d8e5ae0f4c1","method":"test_echo","params":[]}`,
			`{"jsonrpc":"2.0","id":"9b0e3c0a-0001-4c4e-8b7e-4d8e5ae0f4c1","result":[]}`},
		{"null", `{"jsonrpc":"2.0","id":null,"method":"test_echo","params":[]}`, `{"jsonrpc":"2.0","id":null,"result":[]}`},
		{"large id", `{"jsonrpc":"2.0","id":12345678901234567890.10e+2,"method":"test_echo","params":[]}`,
			`{"jsonrpc":"2.0","id":12345678901234567890.10e+2,"result":[]}`},
		{"odd id", `{"jsonrpc":"2.0","id":"<&>\u0041","method":"test_echo","params":[]}`,
			`{"jsonrpc":"2.0","id":"<&>\u0041","result":[]}`},
		{"members in any order", `{"params":[2],"method":"test_echo","id":1,"jsonrpc":"2.0"}`,
			`{"jsonrpc":"2.0","id":1,"result":[2]}`},
		{"no newline, no params", `{"method":"test_echo","id":1,"jsonrpc":"2.0"}`, `{"jsonrpc":"2.0","id":1,"result":null}`},
		{"batch", `[{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[1]},{"jsonrpc":"2.0","method":"test_echo"},{"jsonrpc":"2.0","id":"b","method":"test_echo","params":[2]}]`,
			`[{"jsonrpc":"2.0","id":1,"result":[1]},{"jsonrpc":"2.0","id":"b","result":[2]}]`},

		{"no version", `{"id":1,"method":"test_echo"}`, `1 -32600`},
		{"other version", `{"jsonrpc":"1.0","id":1,"method":"test_echo"}`, `1 -32600`},
		{"version is a number", `{"jsonrpc":2.0,"id":1,"method":"test_echo"}`, `1 -32600`},
		{"no method", `{"jsonrpc":"2.0","id":1}`, `1 -32600`},
		{"method null", `{"jsonrpc":"2.0","id":1,"method":null}`, `1 -32600`},
		{"method empty", `{"jsonrpc":"2.0","id":1,"method":""}`, `1 -32600`},
		{"unknown member", `{"jsonrpc":"2.0","id":1,"method":"test_echo","extra":1}`,
			`{"jsonrpc":"2.0","id":1,"result":null}`},
		{"unknown member twice", `{"jsonrpc":"2.0","id":1,"method":"test_echo","extra":1,"\u0065xtra":2}`, `1 -32600`},
		{"many unknown members", `{"jsonrpc":"2.0","id":1,"method":"test_echo"` + manyMembers(65) + `}`, `1 -32600`},
		{"member in another case", `{"jsonrpc":"2.0","id":1,"Method":"test_echo"}`, `1 -32600`},
		{"duplicate member", `{"jsonrpc":"2.0","id":1,"method":"test_echo","method":"test_deny"}`, `1 -32600`},
		{"duplicate id", `{"jsonrpc":"2.0","id":1,"id":2,"method":"test_echo"}`, `null -32600`},
		{"id is an object", `{"jsonrpc":"2.0","id":{},"method":"test_echo"}`, `null -32600`},
		{"id is a boolean", `{"jsonrpc":"2.0","id":true,"method":"test_echo"}`, `null -32600`},
		{"id too long", `{"jsonrpc":"2.0","id":"` + strings.Repeat("x", 300) + `","method":"test_echo"}`, `null -32600`},
		{"params by name", `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":{"a":1}}`, `1 -32602`},
		{"params null", `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":null}`,
			`{"jsonrpc":"2.0","id":1,"result":null}`},
		{"far too many params", `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[1` + strings.Repeat(",1", 99) + `]}`,
			`1 -32602`},
		{"too many params", `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[1,2,3,4]}`, `1 -32602`},
		{"too few params", `{"jsonrpc":"2.0","id":1,"method":"test_need","params":[]}`, `1 -32602`},
		{"unknown method", `{"jsonrpc":"2.0","id":1,"method":"test_none"}`, `1 -32601`},
		{"sends", `{"jsonrpc":"2.0","id":1,"method":"eth_sendTransaction","params":[{}]}`, `1 4200`},
		{"denied", `{"jsonrpc":"2.0","id":1,"method":"test_deny"}`, `1 4001`},
		{"panics", `{"jsonrpc":"2.0","id":1,"method":"test_panic"}`, `1 -32000`},
		{"scalar", `12`, `null -32600`},
		{"word", `hello`, `null -32700`},
		{"not JSON", `{"jsonrpc":"2.0","id":1,"method":}`, `1 -32700`},
		{"empty batch", `[]`, `null -32600`},
		{"long batch", `[1,2,3,4]`, `null -32600`},
		{"too deep", `{"jsonrpc":"2.0","id":4,"method":"test_echo","params":` + deep + `}`, `4 -32600`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, h.path)
			c.send(tt.request)
			if strings.IndexByte(`{[`, tt.request[0]) < 0 {
				c.send("\n") // what ends a scalar
			}
			got := c.line()
			if tt.want[0] != '{' && tt.want[0] != '[' {
				got = idAndCode(t, got)
			}
			if got != tt.want {
				t.Errorf("answer to %s = %s, want %s", tt.request, got, tt.want)
			}
			// Whatever it was, the connection goes on.
			if got, want := c.ask(`{"jsonrpc":"2.0","id":"after","method":"test_echo","params":[]}`),
				`{"jsonrpc":"2.0","id":"after","result":[]}`; got != want {
				t.Errorf("afterwards %s, want %s", got, want)
			}
		})
	}
}

// idAndCode shortens an error answer.
func idAndCode(t *testing.T, line string) string {
	t.Helper()
	var answer struct{ ID json.RawMessage }
	if err := json.Unmarshal([]byte(line), &answer); err != nil {
		t.Fatalf("answer %.200q: %v", line, err)
	}
	return fmt.Sprintf("%s %d", answer.ID, code(t, line))
}

func TestBatchOfMistakes(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	got := dial(t, h.path).ask(`[1,{"jsonrpc":"2.0","id":2,"method":"test_none"},[],{"jsonrpc":"2.0","id":3,"method":"test_echo","params":[3]}]`)
	var answers []json.RawMessage
	if err := json.Unmarshal([]byte(got), &answers); err != nil {
		t.Fatal(err)
	}
	var short []string
	for _, a := range answers {
		short = append(short, idAndCode(t, string(a)))
	}
	if diff := cmp.Diff([]string{"null -32600", "2 -32601", "null -32600", "3 0"}, short); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// A notification is not executed and has no answer.
func TestNotification(t *testing.T) {
	started := make(chan struct{}, 1)
	h := startServer(t, Limits{}, fakeMethods(nil, started))
	c := dial(t, h.path)
	c.send(`{"jsonrpc":"2.0","method":"test_wait"}[{"jsonrpc":"2.0","method":"test_wait"}]`)
	if got, want := c.ask(`{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[]}`),
		`{"jsonrpc":"2.0","id":1,"result":[]}`; got != want {
		t.Errorf("after notifications %s, want %s", got, want)
	}
	if len(started) != 0 {
		t.Error("a notification was executed")
	}
}

func TestPieces(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	c := dial(t, h.path)
	for _, b := range []byte(`{"jsonrpc":"2.0","id":1,"method":"test_echo","params":["a b"]}` + "\n") {
		c.send(string(b))
	}
	if got, want := c.line(), `{"jsonrpc":"2.0","id":1,"result":["a b"]}`; got != want {
		t.Errorf("in pieces: %s, want %s", got, want)
	}
	c.send(strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[]}`, 20))
	for range 20 {
		if got, want := c.line(), `{"jsonrpc":"2.0","id":1,"result":[]}`; got != want {
			t.Errorf("several in one write: %s, want %s", got, want)
		}
	}
}

// Calls on one connection run at the same time, and a slow one does not hold up the others.
func TestParallel(t *testing.T) {
	block, started := make(chan struct{}), make(chan struct{}, 20)
	h := startServer(t, Limits{}, fakeMethods(block, started))
	c := dial(t, h.path)
	c.send(strings.Repeat(`{"jsonrpc":"2.0","id":"slow","method":"test_wait"}`, 20))
	for range 20 {
		<-started
	}
	if got, want := c.ask(`{"jsonrpc":"2.0","id":"fast","method":"test_echo"}`),
		`{"jsonrpc":"2.0","id":"fast","result":null}`; got != want {
		t.Errorf("beside 20 slow calls %s, want %s", got, want)
	}
	close(block)
	for range 20 {
		if got, want := c.line(), `{"jsonrpc":"2.0","id":"slow","result":"waited"}`; got != want {
			t.Errorf("slow call %s, want %s", got, want)
		}
	}
}

// A client that has closed its side still gets all answers, and then the end.
func TestHalfClosed(t *testing.T) {
	block, started := make(chan struct{}), make(chan struct{}, 2)
	h := startServer(t, Limits{}, fakeMethods(block, started))
	c := dial(t, h.path)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"test_wait"}{"jsonrpc":"2.0","id":1,"method":"test_wait"}{"jsonrpc":"2.0","id":2,`)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-started
	<-started
	if got, want := idAndCode(t, c.line()), "2 -32700"; got != want {
		t.Errorf("unfinished request: %s, want %s", got, want)
	}
	close(block)
	for range 2 {
		if got, want := c.line(), `{"jsonrpc":"2.0","id":1,"result":"waited"}`; got != want {
			t.Errorf("answer %s, want %s", got, want)
		}
	}
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v, want the end", rest, err)
	}
}

func TestRequestTimeout(t *testing.T) {
	h := startServer(t, Limits{RequestTimeout: time.Millisecond}, fakeMethods(nil, nil))
	got := dial(t, h.path).ask(`{"jsonrpc":"2.0","id":1,"method":"test_wait"}`)
	if c := code(t, got); c != -32000 || !strings.Contains(got, `"retryable":true`) {
		t.Errorf("timed out: %s, want -32000, retryable", got)
	}
}

func TestLockedBySigningGate(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	if err := h.signing.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	c := dial(t, h.path)
	if got := c.ask(`{"jsonrpc":"2.0","id":1,"method":"test_sign"}`); code(t, got) != -32000 {
		t.Errorf("locked: %s, want -32000", got)
	}
	if got := c.ask(`{"jsonrpc":"2.0","id":1,"method":"test_echo"}`); code(t, got) != 0 {
		t.Errorf("locked, reading: %s, want a result", got)
	}
	h.signing.Open()
	if got := c.ask(`{"jsonrpc":"2.0","id":1,"method":"test_sign"}`); code(t, got) != 0 {
		t.Errorf("unlocked: %s, want a result", got)
	}
}

// Shutdown answers what is in flight, tells requests that come meanwhile to come again, and then
// ends the connections in order.
func TestShutdown(t *testing.T) {
	block, started := make(chan struct{}), make(chan struct{}, 1)
	h := startServer(t, Limits{}, fakeMethods(block, started))
	busy, idle := dial(t, h.path), dial(t, h.path)
	idle.ask(`{"jsonrpc":"2.0","id":1,"method":"test_echo"}`)
	busy.send(`{"jsonrpc":"2.0","id":1,"method":"test_wait"}`)
	<-started
	done := make(chan error, 1)
	go func() { done <- h.Shutdown(context.Background()) }()
	for !h.calls.Closed() {
		time.Sleep(time.Millisecond)
	}
	if got := idle.ask(`{"jsonrpc":"2.0","id":2,"method":"test_echo"}`); code(t, got) != -32000 ||
		!strings.Contains(got, `"retryable":true`) {
		t.Errorf("while it ends: %s, want -32000, retryable", got)
	}
	close(block)
	if got, want := busy.line(), `{"jsonrpc":"2.0","id":1,"result":"waited"}`; got != want {
		t.Errorf("in flight: %s, want %s", got, want)
	}
	for name, c := range map[string]*peerConn{"busy": busy, "idle": idle} {
		if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
			t.Errorf("%s connection then has %q, %v, want the end", name, rest, err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if _, err := net.Dial("unix", h.path); err == nil {
		t.Error("the socket still takes connections")
	}
}

func TestShutdownCutShort(t *testing.T) {
	started := make(chan struct{}, 1)
	h := startServer(t, Limits{}, fakeMethods(nil, started))
	c := dial(t, h.path)
	c.send(`{"jsonrpc":"2.0","id":1,"method":"test_wait"}`)
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := h.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown = %v, want context.Canceled", err)
	}
}

// Requests that the kernel has, but nobody has read, when the input is closed get an answer too.
func TestShutdownAnswersWhatWasSent(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	conns := make([]*peerConn, 50)
	for i := range conns {
		conns[i] = dial(t, h.path)
		conns[i].ask(`{"jsonrpc":"2.0","id":1,"method":"test_echo"}`)
	}
	for _, c := range conns {
		c.send(strings.Repeat(`{"jsonrpc":"2.0","id":2,"method":"test_echo"}`, 10))
	}
	if err := h.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	for i, c := range conns {
		answers, err := io.ReadAll(c.r)
		if n := strings.Count(string(answers), "\n"); n != 10 || err != nil {
			t.Errorf("connection %d has %d answers, %v, want 10", i, n, err)
		}
	}
}
