package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// request is what the agent gets.
type request struct {
	ID     json.RawMessage
	Method string
	Params json.RawMessage
}

// script stands for an agent: it does with each request what the test says. Returning false ends
// the connection without an answer.
type script struct {
	path string
	mu   sync.Mutex
	got  []string // methods, in order
}

func startScript(t *testing.T, do func(n int, r request, nc net.Conn) bool) *script {
	t.Helper()
	s := &script{path: filepath.Join(t.TempDir(), "s")}
	l, err := net.Listen("unix", s.path)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer nc.Close()
				for lines := bufio.NewScanner(nc); lines.Scan(); {
					var r request
					if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
						t.Errorf("request %q: %v", lines.Text(), err)
						return
					}
					s.mu.Lock()
					s.got = append(s.got, r.Method)
					n := len(s.got)
					s.mu.Unlock()
					if !do(n, r, nc) {
						return
					}
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); serving.Wait() })
	return s
}

func (s *script) methods() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.got...)
}

func reply(nc net.Conn, r request, rest string) bool {
	_, err := nc.Write([]byte(`{"jsonrpc":"2.0","id":` + string(r.ID) + `,` + rest + "}\n"))
	return err == nil
}

func dial(t *testing.T, path string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCall(t *testing.T) {
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		switch r.Method {
		case "echo":
			return reply(nc, r, `"result":`+string(r.Params))
		case "deny":
			return reply(nc, r, `"error":{"code":4001,"message":"User denied: no","data":{"reason":"valueTooHigh","policy":2,"asked":"7"}}`)
		}
		return reply(nc, r, `"error":{"code":-32000,"message":"locked","data":{"reason":"deviceLocked","retryable":true,"hint":"keyward unlock"}}`)
	})
	c := dial(t, s.path)
	var got []any
	if err := c.Call(t.Context(), &got, "echo", 1, "<two>"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]any{1.0, "<two>"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if err := c.Call(t.Context(), nil, "echo"); err != nil {
		t.Errorf("without a result: %v", err)
	}
	err := c.Call(t.Context(), nil, "deny")
	var refusal *client.Error
	if !errors.As(err, &refusal) || refusal.Denial() == nil || refusal.Denial().Reason != "valueTooHigh" ||
		*refusal.Denial().Policy != 2 {
		t.Errorf("denied: %v", err)
	}
	err = c.Call(t.Context(), nil, "other")
	if e := client.Details(err); e == nil || e.Denial() != nil ||
		e.Details() != (api.ErrorData{Reason: "deviceLocked", Retryable: true, Hint: "keyward unlock"}) {
		t.Errorf("locked: %v", err)
	}
}

// Answers come in any order, each to who asked.
func TestParallel(t *testing.T) {
	const n = 20
	var held []request
	s := startScript(t, func(i int, r request, nc net.Conn) bool {
		if held = append(held, r); i == n {
			for len(held) > 0 { // the last comes first
				last := held[len(held)-1]
				held = held[:len(held)-1]
				reply(nc, last, `"result":`+string(last.Params))
			}
		}
		return true
	})
	c := dial(t, s.path)
	var calls sync.WaitGroup
	for i := range n {
		calls.Go(func() {
			var got []int
			if err := c.Call(t.Context(), &got, "echo", i); err != nil || len(got) != 1 || got[0] != i {
				t.Errorf("call %d = %v, %v", i, got, err)
			}
		})
	}
	calls.Wait()
}

// A connection that ends before the answer is made anew, once; but what must not be done twice is not.
func TestReconnect(t *testing.T) {
	answer := func(n int, r request, nc net.Conn) bool { return n > 1 && reply(nc, r, `"result":true`) }
	never := func(int, request, net.Conn) bool { return false }
	for _, tt := range []struct {
		name, method string
		do           func(int, request, net.Conn) bool
		ok           bool
		want         int // requests
	}{
		{"lost once", "session_signTransaction", answer, true, 2},
		{"always lost", "session_signTransaction", never, false, 2},
		{"makes a key", "admin_createSession", answer, false, 1},
		{"makes a successor's key", "admin_renewSession", answer, false, 1},
		{"makes a key to check with", "admin_checkBackend", answer, false, 1},
		{"spends a PIN try", "admin_unlock", answer, false, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startScript(t, tt.do)
			err := dial(t, s.path).Call(t.Context(), nil, tt.method)
			if (err == nil) != tt.ok || len(s.methods()) != tt.want {
				t.Errorf("Call = %v after %d requests, want ok %v after %d", err, len(s.methods()), tt.ok, tt.want)
			}
		})
	}
}

// A call that has no time left, or is given up as it is sent, costs others of the connection nothing.
func TestGivenUpCallLeavesOthersAlone(t *testing.T) {
	created := make(chan struct{})
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		if r.Method == "admin_createSession" {
			go func() { <-created; reply(nc, r, `"result":true`) }()
			return true
		}
		return reply(nc, r, `"result":true`)
	})
	c := dial(t, s.path)
	done := make(chan error)
	go func() { done <- c.Call(t.Context(), nil, "admin_createSession") }()
	for len(s.methods()) == 0 {
		time.Sleep(time.Millisecond)
	}
	expired, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := c.Call(expired, nil, "expired"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Call = %v, want DeadlineExceeded", err)
	}
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Microsecond)
				_ = c.Call(ctx, nil, "given up")
				cancel()
				if err := c.Call(t.Context(), nil, "not given up"); err != nil {
					t.Errorf("Call = %v", err)
				}
			}
		})
	}
	calls.Wait()
	close(created)
	if err := <-done; err != nil {
		t.Errorf("the call that took long = %v", err)
	}
}

// An agent that reads nothing: a call with a time limit does not wait longer behind one that has none.
func TestCallBehindABlockedOne(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, listens := range []bool{false, true} {
		c := dial(t, l.Addr().String())
		if listens {
			c.OnWaiting = func(string) {}
		}
		blocked, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.Call(blocked, nil, "x", strings.Repeat("a", 4<<20)) }()
		time.Sleep(100 * time.Millisecond) // until the socket is full
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begun := time.Now()
		if err := c.Call(ctx, nil, "y"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) > 10*time.Second {
			t.Errorf("Call = %v after %v, want DeadlineExceeded in time", err, time.Since(begun))
		}
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the other call = %v, want Canceled", err)
		}
	}
}

// After a restart of the agent, the next call finds the new one.
func TestRestart(t *testing.T) {
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		reply(nc, r, `"result":true`)
		return false // ends the connection after each answer
	})
	c := dial(t, s.path)
	for i := range 3 {
		if err := c.Call(t.Context(), nil, "eth_accounts"); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
	}
}

func TestCancel(t *testing.T) {
	arrived := make(chan struct{}, 1)
	var first request
	s := startScript(t, func(n int, r request, nc net.Conn) bool {
		if n == 1 {
			first = r
			arrived <- struct{}{}
			return true
		}
		return reply(nc, first, `"result":"late"`) && reply(nc, r, `"result":"mine"`)
	})
	c := dial(t, s.path)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	if err := c.Call(ctx, nil, "slow"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var got string
	if err := c.Call(t.Context(), &got, "fast"); err != nil || got != "mine" {
		t.Errorf("afterwards %q, %v, want its own answer on the same connection", got, err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if err := c.Call(ctx, nil, "fast"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("out of time: %v", err)
	}
}

func TestEndOfClient(t *testing.T) {
	arrived := make(chan struct{}, 1)
	s := startScript(t, func(int, request, net.Conn) bool { arrived <- struct{}{}; return true })
	c := dial(t, s.path)
	failed := make(chan error, 1)
	go func() { failed <- c.Call(t.Context(), nil, "slow") }()
	<-arrived
	c.Close()
	if err := <-failed; !errors.Is(err, client.ErrClosed) {
		t.Errorf("in flight: %v, want ErrClosed", err)
	}
	if err := c.Call(t.Context(), nil, "more"); !errors.Is(err, client.ErrClosed) {
		t.Errorf("afterwards: %v, want ErrClosed", err)
	}
	if _, err := client.Dial(t.Context(), s.path+"x"); err == nil {
		t.Error("Dial found a socket that is not there")
	}
}

// An error about nothing in particular fails the calls in flight with its own words.
func TestErrorWithoutID(t *testing.T) {
	s := startScript(t, func(_ int, _ request, nc net.Conn) bool {
		_, err := nc.Write([]byte(`{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"message larger than 1048576 bytes"}}` + "\n"))
		return err == nil
	})
	err := dial(t, s.path).Call(t.Context(), nil, "eth_accounts", strings.Repeat("x", 10))
	if e := client.Details(err); e == nil || e.Code != -32600 {
		t.Errorf("Call = %v, want the agent's -32600", err)
	}
}

// The admin socket has another method for the same question.
func TestSessionOnAdminSocket(t *testing.T) {
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		if r.Method == "session_get" {
			return reply(nc, r, `"error":{"code":-32601,"message":"does not exist/is not available"}`)
		}
		return reply(nc, r, `"result":{"id":"00"}`)
	})
	sess, err := dial(t, s.path).Session(t.Context(), "00")
	if err != nil || sess.ID != "00" {
		t.Errorf("Session = %v, %v", sess, err)
	}
	if diff := cmp.Diff([]string{"session_get", "admin_getSession"}, s.methods()); diff != "" {
		t.Errorf("methods (-want +got):\n%s", diff)
	}
}

func TestUnlockWipes(t *testing.T) {
	var got json.RawMessage
	s := startScript(t, func(_ int, r request, nc net.Conn) bool {
		got = r.Params
		return reply(nc, r,
			`"result":{"ok":true}`)
	})
	pin := []byte(`12"4`)
	if err := dial(t, s.path).Unlock(t.Context(), "hsm", pin); err != nil {
		t.Fatal(err)
	}
	if string(got) != `[{"backend":"hsm","pin":"12\"4"}]` || string(pin) != "\x00\x00\x00\x00" {
		t.Errorf("params %s, pin afterwards %q, want it wiped", got, pin)
	}
	pin = []byte("1234")
	if err := dial(t, s.path).UnlockAdmin(t.Context(), "card", pin); err != nil {
		t.Fatal(err)
	}
	if string(got) != `[{"backend":"card","pin":"1234","adminPin":true}]` || string(pin) != "\x00\x00\x00\x00" {
		t.Errorf("admin PIN: params %s, pin afterwards %q, want it wiped", got, pin)
	}
}
