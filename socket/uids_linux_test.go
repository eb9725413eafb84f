package socket

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
)

// client and strangers of the attacks below.
const (
	clientUID   = 4001
	strangerUID = 5001
)

// dialAs connects as another user: the kernel tells the server the credentials that the thread has in connect(2).
func dialAs(t *testing.T, path string, uid int) *peerConn {
	t.Helper()
	type result struct {
		nc  net.Conn
		err error
	}
	done := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			done <- result{nil, fmt.Errorf("becoming uid %d, which takes root: %w", uid, errno)}
			return
		}
		nc, err := net.Dial("unix", path)
		done <- result{nc, err}
	}()
	r := <-done
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.nc.Close() })
	if err := r.nc.SetDeadline(time.Now().Add(3 * patience)); err != nil {
		t.Fatal(err)
	}
	return &peerConn{t, r.nc.(*net.UnixConn), bufio.NewReader(r.nc)}
}

// startOpenServer serves methods to every user; only clientUID has a session.
func startOpenServer(t *testing.T, limits Limits) *harness {
	t.Helper()
	return startServerFor(t, limits, func(p audit.Peer) bool { return p.UID == clientUID })
}

// startServerFor is startOpenServer where known says of whom there is a session.
func startServerFor(t *testing.T, limits Limits, known func(audit.Peer) bool) *harness {
	t.Helper()
	h := &harness{Server: New(Config{Limits: limits, Version: "test"}), path: filepath.Join(openDir(t), "agent.sock"),
		served: make(chan error, 1)}
	methods := fakeMethods(nil, nil)
	h.agent.list, h.agent.methods = methods, methodTable(methods)
	h.agent.quota.known, h.agent.work.known = known, known
	l, err := Listen(h.path, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	go func() { h.served <- h.Serve(context.Background(), l, nil) }()
	t.Cleanup(func() { h.stop(t) })
	return h
}

// openDir is a directory that every user may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "keyward")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// unfinishedMessage is the beginning of a message, of n bytes.
func unfinishedMessage(n int) string {
	const head = `{"jsonrpc":"2.0","id":9,"method":"test_echo","params":["`
	return head + strings.Repeat("x", n-len(head))
}

// Many users without a session hold all the memory for messages that they can get, idle. A client's large message, and
// its small ones, are answered as ever.
func TestStrangersDontHoldTheMemory(t *testing.T) {
	h := startOpenServer(t, Limits{MaxInFlightBytes: 16 << 20})
	for i := range 64 {
		c := dialAs(t, h.path, strangerUID+i%16)
		c.send(unfinishedMessage(600 << 10))
	}
	waitFor(t, "the strangers to hold their part", func() bool { return h.agent.quota.inUse(bytesInFlight) > 2<<20 })
	client := dialAs(t, h.path, clientUID)
	large := `{"jsonrpc":"2.0","id":1,"method":"test_echo","params":["` + strings.Repeat("x", 1<<20-100) + `"]}`
	for range 3 {
		if got := client.ask(large); code(t, got) != 0 {
			t.Errorf("a large message: %.200s", got)
		}
		if got := client.ask(echo); code(t, got) != 0 {
			t.Errorf("a small message: %.200s", got)
		}
	}
}

// One client that holds all that it can leaves another what it is assured.
func TestAClientDoesNotHoldAnothersMemory(t *testing.T) {
	h := startServerFor(t, Limits{MaxInFlightBytes: 16 << 20}, func(p audit.Peer) bool { return p.UID >= clientUID })
	for i := range 64 {
		dialAs(t, h.path, clientUID+1+i%4).send(unfinishedMessage(600 << 10))
	}
	waitFor(t, "the memory to be held", func() bool { return h.agent.quota.inUse(bytesInFlight) > 12<<20 })
	client := dialAs(t, h.path, clientUID)
	if got := client.ask(`{"jsonrpc":"2.0","id":1,"method":"test_echo","params":["` + strings.Repeat("x", 1<<20-100) +
		`"]}`); code(t, got) != 0 {
		t.Errorf("a large message: %.200s", got)
	}
}

// An unfinished message is answered once its time is up, the rest is passed over, and what it held is given back.
func TestUnfinishedMessage(t *testing.T) {
	h := startOpenServer(t, Limits{MessagePatience: 100 * time.Millisecond})
	for _, size := range []int{60, 100 << 10} {
		c := dialAs(t, h.path, strangerUID)
		began := time.Now()
		c.send(unfinishedMessage(size))
		got := c.line()
		if idAndCode(t, got) != "9 -32600" || !strings.Contains(got, "unfinished after") {
			t.Errorf("%d bytes: %s", size, got)
		}
		if took, least := time.Since(began), h.limits.patienceFor(size); took < least {
			t.Errorf("%d bytes: answered after %v, want %v", size, took, least)
		}
		waitFor(t, "the memory to be given back", func() bool { return h.agent.quota.inUse(bytesInFlight) == 0 })
		c.send(`rest"]}`)
		if got := c.ask(echo); code(t, got) != 0 {
			t.Errorf("%d bytes: afterwards %s", size, got)
		}
	}
	web := dialAs(t, h.path, strangerUID)
	web.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + unfinishedMessage(100))
	if answer, err := io.ReadAll(web.r); err != nil || !strings.Contains(string(answer), "unfinished after") {
		t.Errorf("over HTTP %s, %v", answer, err)
	}
}

// However many connections a client asks on without reading the answers, what waits for it is bounded, and another
// client notices nothing.
func TestUnreadAnswersOfAllConnections(t *testing.T) {
	h := startOpenServer(t, Limits{MaxPendingOutput: 4 << 20})
	before := heap()
	const rude = 80
	for i := range rude {
		c := dialAs(t, h.path, []int{strangerUID + i%8, clientUID + 1}[i%2])
		// 16 kB sent for 24 MB of answers. It may be ended meanwhile.
		_, _ = io.WriteString(c, strings.Repeat(`{"jsonrpc":"2.0","id":1,"method":"test_medium"}`, 360))
	}
	client := dialAs(t, h.path, clientUID)
	for range 50 {
		if got := client.ask(`{"jsonrpc":"2.0","id":1,"method":"test_medium"}`); code(t, got) != 0 {
			t.Fatalf("beside them: %.100s", got)
		}
		if held := h.agent.quota.inUse(bytesPending); held > 8<<20 {
			t.Fatalf("%d bytes of answers wait, want at most those of the strangers and of the client", held)
		}
	}
	waitFor(t, "connections to be ended", func() bool { return len(h.connections()) < rude+1 })
	if grown := int64(heap()) - int64(before); grown > 64<<20 {
		t.Errorf("unread answers hold %d MB", grown>>20)
	}
}

// Strangers that open as many connections as they can leave places for a client.
func TestStrangersDontTakeThePlaces(t *testing.T) {
	h := startOpenServer(t, Limits{MaxConnections: 64, maxRefusedConns: 2, refusedConnectionFor: 50 * time.Millisecond})
	for i := range 200 {
		dialAs(t, h.path, strangerUID+i)
	}
	for range 10 {
		if got := dialAs(t, h.path, clientUID).ask(echo); code(t, got) != 0 {
			t.Errorf("beside them: %s", got)
		}
	}
}

// The connections follow the limit on open files.
func TestConnectionsFollowTheFileLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	open := openFiles()
	for _, files := range []uint64{uint64(open) + 300, 4096, 1} {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: max(files, uint64(open)+8),
			Max: limit.Max}); err != nil {
			t.Fatal(err)
		}
		l := Limits{}.withDefaults()
		fewer := l.fitFiles(openFiles())
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Fatal(err)
		}
		all := l.MaxConnections + l.maxRefusedConns
		if !fewer || l.MaxConnections < 1 || l.maxRefusedConns < 1 || files > 1 && all+open+reservedFiles > int(files) {
			t.Errorf("of %d files, %d open: %d connections and %d that are refused", files, open, l.MaxConnections,
				l.maxRefusedConns)
		}
	}
	if l := (Limits{MaxConnections: 10, maxRefusedConns: 1}); l.fitFiles(openFiles()) || l.MaxConnections != 10 {
		t.Errorf("with files to spare: %+v", l)
	}
}

// What strangers send costs the others a tenth of a processor: it is read later, not refused.
func TestWorkIsPaid(t *testing.T) {
	known := func(p audit.Peer) bool { return p.UID == clientUID }
	w := newWork(known)
	stranger, other, client := audit.Peer{UID: 1}, audit.Peer{UID: 2}, audit.Peer{UID: clientUID}
	if wait := w.charge(stranger, workBurst/strangersShare); wait > 0 {
		t.Errorf("what was saved up is waited for: %v", wait)
	}
	if wait := w.charge(other, time.Second); wait < 9*time.Second || wait > 10*time.Second {
		t.Errorf("another stranger waits %v for a second of the processor, want the tenfold", wait)
	}
	if wait := w.charge(client, 0); wait > 0 {
		t.Errorf("a client waits %v for nothing", wait)
	}
	w.charge(client, workBurst/clientShare)
	if wait := w.charge(client, time.Second); wait < 3*time.Second || wait > 4*time.Second {
		t.Errorf("a client waits %v for a second of refused requests, want the fourfold", wait)
	}
	for uid := range uint32(5 * maxIdleUsers) {
		w.known = func(audit.Peer) bool { return true }
		w.charge(audit.Peer{UID: uid}, time.Nanosecond)
		w.users[uid] = time.Now().Add(-2 * workBurst)
	}
	if len(w.users) > maxIdleUsers+2 {
		t.Errorf("%d users are remembered, want about %d", len(w.users), maxIdleUsers)
	}
}

// Large malformed messages of strangers don't slow a client down.
func TestMalformedMessagesDontDelayOthers(t *testing.T) {
	h := startOpenServer(t, Limits{})
	var keys strings.Builder
	keys.WriteString(`{"jsonrpc":"2.0","id":1,"method":"test_echo"`)
	for i := range 60000 {
		fmt.Fprintf(&keys, `,"k%d":1`, i)
	}
	bad := keys.String() + "}"
	for i := range 8 {
		c := dialAs(t, h.path, strangerUID+i)
		go func() {
			for range 50 {
				if _, err := io.WriteString(c, bad); err != nil {
					return
				}
			}
		}()
	}
	client := dialAs(t, h.path, clientUID)
	var took []time.Duration
	for range 200 {
		began := time.Now()
		if got := client.ask(echo); code(t, got) != 0 {
			t.Fatal(got)
		}
		took = append(took, time.Since(began))
		time.Sleep(5 * time.Millisecond)
	}
	slow := 0
	for _, d := range took {
		if d > 500*time.Millisecond {
			slow++
		}
	}
	if slow > len(took)/10 {
		t.Errorf("%d of %d requests took more than 500 ms", slow, len(took))
	}
}
