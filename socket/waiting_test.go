package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/socket/api"
)

const touchIt = "waiting for a touch of <card> 4711"

// touchable is a device that waits for a touch before each signature.
type touchable struct {
	*soft.Backend
	what    atomic.Value // string
	says    string       // instead of touchIt
	waits   chan struct{}
	touched context.Context // done: somebody touches it each time
	touch   func()
}

// Waiting implements [backends.Waiter].
func (d *touchable) Waiting() string { what, _ := d.what.Load().(string); return what }

func (d *touchable) sign(ctx context.Context, _ [32]byte) (*backends.Signature, error) {
	tell := backends.Waiting(ctx)
	if tell == nil {
		tell = func(string) {}
	}
	says := d.says
	if says == "" {
		says = touchIt
	}
	d.what.Store(says)
	tell(says)
	d.waits <- struct{}{}
	<-d.touched.Done()
	d.what.Store("")
	tell("")
	return nil, nil
}

// touchableAgent is an agent whose device waits for touches from now on.
func touchableAgent(t *testing.T) (*agent, *touchable, *api.Session) {
	t.Helper()
	a := startAgent(t)
	d := &touchable{Backend: a.device, waits: make(chan struct{}, 16)}
	d.touched, d.touch = context.WithCancel(context.Background())
	t.Cleanup(d.touch) // also after a failure, so that the agent can end
	a.Backends["memory"] = Backend{Backend: d, Type: "soft"}
	sess := a.session("agw", testSpec)
	a.device.OnSign = d.sign
	return a, d, sess
}

// requestLine is a request as it is sent.
func requestLine(t *testing.T, id, method string, params ...any) string {
	t.Helper()
	encoded, err := json.Marshal(append([]any{}, params...))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"method":%q,"params":%s}`+"\n", id, method, encoded)
}

// A client that asks is told of its own requests, whatever it sent in the same write; all others see nothing new,
// and find it in the session.
func TestWaiting(t *testing.T) {
	a, d, sess := touchableAgent(t)
	told, other := dial(t, a.appPath), dial(t, a.appPath)
	told.send(requestLine(t, "1", "rpc_notifyWaiting") + requestLine(t, `"a<b"`, "session_signTransaction", tx(nil)))
	<-d.waits
	other.send(requestLine(t, "1", "session_signTransaction", tx(map[string]any{"nonce": 2})))
	<-d.waits
	for _, want := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{"ok":true}}`,
		`{"jsonrpc":"2.0","method":"keyward_waiting","params":{"id":"a<b","for":"waiting for a touch of <card> 4711"}}`,
	} {
		if got := told.line(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if shown, err := a.app.Session(t.Context(), sess.ID); err != nil || shown.Waiting != touchIt {
		t.Errorf("session_get: %+v, %v, want it to say what is waited for", shown, err)
	}
	if shown, err := a.operator.Session(t.Context(), sess.ID); err != nil || shown.Waiting != touchIt {
		t.Errorf("admin_getSession: %+v, %v, want it to say what is waited for", shown, err)
	}
	d.touch()
	if got, want := told.line(), `{"jsonrpc":"2.0","method":"keyward_waiting","params":{"id":"a<b","for":""}}`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := told.line(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":"a<b","result":`) {
		t.Errorf("got %s, want the signature", got)
	}
	if got := other.line(); !strings.HasPrefix(got, `{"jsonrpc":"2.0","id":1,"result":`) {
		t.Errorf("the client that did not ask got %s, want the signature and nothing else", got)
	}
	if shown, err := a.app.Session(t.Context(), sess.ID); err != nil || shown.Waiting != "" {
		t.Errorf("afterwards: %+v, %v, want nothing to be waited for", shown, err)
	}
}

// The operator's requests wait too: this one has the device sign.
func TestWaitingOperator(t *testing.T) {
	a, d, _ := touchableAgent(t)
	d.touch()
	var told []string
	a.operator.OnWaiting = func(what string) { told = append(told, what) }
	if check, err := a.operator.CheckBackend(t.Context(), "memory"); err != nil || !check.OK {
		t.Fatalf("CheckBackend = %+v, %v", check, err)
	}
	if diff := cmp.Diff([]string{touchIt, ""}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}

func TestWaitingOverHTTP(t *testing.T) {
	a := startAgent(t)
	web := httpClient(a.appPath)
	defer web.CloseIdleConnections()
	resp, err := web.Post("http://keyward/", "application/json",
		strings.NewReader(requestLine(t, "1", "rpc_notifyWaiting")))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if code(t, string(body)) != api.CodeUnsupported || !strings.Contains(string(body), "use the raw stream") {
		t.Errorf("answer %s, want 4200 and what to use instead", body)
	}
}

// A client that reads nothing gets some of its notifications, all of its answers, and holds nobody up.
func TestWaitingUnread(t *testing.T) {
	const times = 10_000
	done := make(chan int, 1)
	what := strings.Repeat("x", 1000)
	h := startServer(t, Limits{MaxPendingOutput: 100 << 10}, []Method{notifyMethod(), {
		Name: "test_wait", do: func(_ *Server, ctx context.Context, _ *call) (any, error) {
			for range times {
				backends.Waiting(ctx)(what)
			}
			done <- times
			return "done", nil
		}},
	})
	c := dial(t, h.path)
	c.send(requestLine(t, "1", "rpc_notifyWaiting") + requestLine(t, "2", "test_wait"))
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("the call waits for its client to read")
	}
	if got := c.line(); got != `{"jsonrpc":"2.0","id":1,"result":{"ok":true}}` {
		t.Errorf("first: %s", got)
	}
	told := 0
	for line := c.line(); line != `{"jsonrpc":"2.0","id":2,"result":"done"}`; line = c.line() {
		if !strings.Contains(line, `"keyward_waiting"`) {
			t.Fatalf("got %.100s", line)
		}
		told++
	}
	if told == 0 || told == times {
		t.Errorf("%d notifications of %d, want some", told, times)
	}
	if got := c.ask(requestLine(t, "3", "rpc_notifyWaiting")); got != `{"jsonrpc":"2.0","id":3,"result":{"ok":true}}` {
		t.Errorf("afterwards: %s", got)
	}
}

// One goroutine at a time writes to a connection, or lines would overtake each other. That it is to write
// is noted before it runs.
func TestWaitingHasOneWriter(t *testing.T) {
	h := startServer(t, Limits{}, nil)
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reader := dial(t, l.Addr().String())
	nc, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	c := newConn(h.Server, h.agent, nc.(*net.UnixConn), audit.Peer{})
	for i := range 1000 {
		c.sendAside(fmt.Appendf(nil, "%d\n", i))
		c.mu.Lock()
		forgotten := len(c.out) > 0 && !c.writing
		c.mu.Unlock()
		if forgotten {
			t.Fatalf("line %d waits, and nobody is to write it", i)
		}
		if got, want := reader.line(), fmt.Sprint(i); got != want {
			t.Fatalf("got line %q, want %q", got, want)
		}
	}
	c.answer.Wait()
}
