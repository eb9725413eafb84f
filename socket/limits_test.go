package socket

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
)

const echo = `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":[]}`

// heap is how many bytes are in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// A 40 MB message is refused with bounded memory, and the connection can be used afterwards.
func TestHugeMessage(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	c := dial(t, h.path)
	before := heap()
	c.send(`{"jsonrpc":"2.0","id":40,"method":"test_echo","params":["`)
	chunk := bytes.Repeat([]byte("x"), 1<<20)
	for range 40 {
		c.send(string(chunk))
	}
	if grown := int64(heap()) - int64(before); grown > 8<<20 {
		t.Errorf("40 MB in flight hold %d kB", grown>>10)
	}
	c.send(`"]}`)
	if got := c.line(); idAndCode(t, got) != "40 -32600" || !strings.Contains(got, "message larger than 1048576 bytes") {
		t.Errorf("answer %s, want -32600 with the bound", got)
	}
	if got := c.ask(echo); code(t, got) != 0 {
		t.Errorf("afterwards %s, want a result", got)
	}
}

// As many idle connections as 10,000 are cheap, and new ones are served beside them.
func TestManyConnections(t *testing.T) {
	want := raiseFileLimit(t)
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	before := heap()
	for i := range want {
		nc, err := net.Dial("unix", h.path)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer nc.Close()
		if _, err := io.WriteString(nc, echo); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(nc, make([]byte, len(`{"jsonrpc":"2.0","id":1,"result":[]}`)+1)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	each := (heap() - before) / uint64(want)
	t.Logf("%d connections, %d bytes each, both ends together", want, each)
	if each > 16<<10 {
		t.Errorf("an idle connection holds %d bytes, want at most 16 kB", each)
	}
	if got := dial(t, h.path).ask(echo); code(t, got) != 0 {
		t.Errorf("beside %d connections: %s", want, got)
	}
}

// raiseFileLimit returns how many connections, of two descriptors each, the process may have, at most 10,000.
func raiseFileLimit(t *testing.T) int {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	n := (min(limit.Max, 1<<20) - 200) / 2
	if n < 2000 {
		t.Fatalf("only %d file descriptors are allowed here: too few to learn anything", limit.Max)
	}
	return int(min(n, 10000))
}

// A client that never reads is ended once its time is up; nobody else notices.
func TestNeverReads(t *testing.T) {
	h := startServer(t, Limits{WriteTimeout: 200 * time.Millisecond}, fakeMethods(nil, nil))
	rude, polite := dial(t, h.path), dial(t, h.path)
	rude.send(strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"test_large"}`, 8))
	for range 100 {
		if got := polite.ask(echo); code(t, got) != 0 {
			t.Fatalf("beside one that does not read: %s", got)
		}
	}
	waitFor(t, "the connection to be ended", func() bool { return len(h.connections()) == 1 })
	if got := polite.ask(echo); code(t, got) != 0 {
		t.Errorf("afterwards: %s", got)
	}
}

// What a client does not fetch is bounded in bytes, too.
func TestPendingOutput(t *testing.T) {
	h := startServer(t, Limits{MaxPendingOutput: 2 << 20}, fakeMethods(nil, nil))
	rude := dial(t, h.path)
	rude.send(strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"test_large"}`, 20))
	waitFor(t, "the connection to be ended", func() bool { return len(h.connections()) == 0 })
}

// A slow reader gets everything.
func TestSlowReader(t *testing.T) {
	h := startServer(t, Limits{}, fakeMethods(nil, nil))
	c := dial(t, h.path)
	const n = 2000
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"test_echo","params":["`+
			strings.Repeat("x", 1000)+`"]}`, n))
		sent <- err
	}()
	for i := range n {
		if i%100 == 0 {
			runtime.Gosched()
		}
		if got := c.line(); code(t, got) != 0 && code(t, got) != -32005 {
			t.Fatalf("answer %d: %.200s", i, got)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// waitFor polls for what another goroutine brings about.
func waitFor(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestInFlight(t *testing.T) {
	pad := strings.Repeat(" ", freeBuffer) // a smaller message does not count by its size
	large := `{"jsonrpc":"2.0","id":1,"method":"test_wait"` + pad + `}`
	for _, tt := range []struct {
		name   string
		limits Limits
	}{
		{"of a connection", Limits{MaxInFlightPerConn: 3}},
		{"of a user", Limits{MaxInFlight: 4}},               // of which one user gets 3
		{"bytes", Limits{MaxInFlightBytes: 6 * len(large)}}, // a user gets 4.5, of which the buffer to read them takes 1
	} {
		t.Run(tt.name, func(t *testing.T) {
			block, started := make(chan struct{}), make(chan struct{}, 3)
			h := startServer(t, tt.limits, fakeMethods(block, started))
			c := dial(t, h.path)
			for range 3 { // the next is read when the one before has its place
				c.send(large)
				<-started
			}
			got := c.ask(`[{"jsonrpc":"2.0","id":"one more","method":"test_wait"},{"jsonrpc":"2.0","method":"test_wait"` + pad +
				`}]`)
			if !strings.HasPrefix(got, `[{"jsonrpc":"2.0","id":"one more","error":{"code":-32005,`) {
				t.Errorf("one more: %s, want -32005", got)
			}
			close(block)
			for range 3 {
				c.line()
			}
			if got := c.ask(echo); code(t, got) != 0 {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

// One connection too many is told so, under its own id, and closed.
func TestTooManyConnections(t *testing.T) {
	h := startServer(t, Limits{MaxConnections: 4, refusedConnectionFor: 50 * time.Millisecond, maxRefusedConns: 1},
		fakeMethods(nil, nil))
	for range 3 { // a user gets three quarters
		c := dial(t, h.path)
		c.ask(echo)
	}
	stream := dial(t, h.path)
	if got := idAndCode(t, stream.ask(`{"jsonrpc":"2.0","id":"x","method":"test_echo"}`)); got != `"x" -32005` {
		t.Errorf("answer %s, want -32005", got)
	}
	if rest, err := io.ReadAll(stream.r); err != nil || len(rest) > 0 {
		t.Errorf("then %q, %v, want the end", rest, err)
	}
	waitFor(t, "its place", func() bool { return len(h.refusedSlots) == 0 })
	web := dial(t, h.path)
	web.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 57\r\n\r\n" + echo)
	resp, err := http.ReadResponse(web.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || code(t, string(body)) != -32005 {
		t.Errorf("over HTTP %s, %v, want -32005", body, err)
	}
	waitFor(t, "its place", func() bool { return len(h.refusedSlots) == 0 })
	silent := dial(t, h.path)
	if rest, err := io.ReadAll(silent.r); err != nil || len(rest) > 0 {
		t.Errorf("one that says nothing gets %q, %v, want the end", rest, err)
	}
}

// How users share what there is: 64 of it, of which each with a session is assured 4.
func TestQuota(t *testing.T) {
	const stranger, other, client, second = 1, 2, 101, 102
	q := newQuota(Limits{MaxConnections: 64, MaxInFlight: 64, MaxInFlightBytes: 64, MaxMessage: 1, MaxPendingOutput: 16},
		func(p audit.Peer) bool { return p.UID > 100 })
	steps := []struct {
		uid  uint32
		r    resource
		n    int
		want bool
	}{
		{stranger, callsInFlight, 13, false}, {stranger, callsInFlight, 12, true}, // three quarters of a quarter
		{other, callsInFlight, 5, false}, {other, callsInFlight, 4, true}, // strangers have a quarter together
		{client, callsInFlight, 49, false}, {client, callsInFlight, 48, true}, {client, callsInFlight, 1, false},
		// what is assured
		{second, callsInFlight, 5, false}, {second, callsInFlight, 4, true}, {second, callsInFlight, 1, false},

		{stranger, bytesPending, 17, false}, {stranger, bytesPending, 16, true}, {other, bytesPending, 1, false},
		{client, bytesPending, 17, false}, {client, bytesPending, 16, true}, {second, bytesPending, 16, true},
	}
	for _, s := range steps {
		if got := q.take(audit.Peer{UID: s.uid}, s.r, s.n); got != s.want {
			t.Errorf("take(uid %d, resource %d, %d) = %v, want %v", s.uid, s.r, s.n, got, s.want)
		}
	}
	q.known = func(audit.Peer) bool { return true } // a session was made meanwhile
	for _, s := range steps {
		if s.want {
			q.give(audit.Peer{UID: s.uid}, s.r, s.n)
		}
	}
	if len(q.users) != 0 || q.used != [resources]int{} || q.strange != [resources]int{} {
		t.Errorf("after giving all back: %v", fmt.Sprint(q.users, q.used, q.strange))
	}
}
