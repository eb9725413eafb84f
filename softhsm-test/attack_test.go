package softhsmtest

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// newOpenAgent is an agent whose socket every user may connect to, started with at most so many descriptors.
func newOpenAgent(t *testing.T, descriptors int) *Agent {
	t.Helper()
	dir := tempDir(t)
	a := NewPlainAgent(t, dir)
	a.must(os.Chmod(dir, 0o755))
	a.must(os.Chmod(a.Dir, 0o755))
	a.Stop()
	a.configureIn("agent", `socket_mode = "0666"`)
	script := filepath.Join(t.TempDir(), "run")
	a.must(os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", descriptors, a.server),
		0o700))
	a.server = script
	a.Start()
	return a
}

// connectMany makes n connections of users without a session.
func connectMany(t *testing.T, a *Agent, n int) (all []net.Conn) {
	t.Helper()
	for i := range n {
		nc, err := dialAs(a.Socket(), strangerUID+i%16)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { nc.Close() })
		all = append(all, nc)
	}
	return all
}

// signsAll signs n transactions, each of which has to succeed, and returns the longest time that one took.
func (a *Agent) signsAll(session string, first uint64, n int) (longest time.Duration) {
	a.t.Helper()
	app := a.Client()
	for i := range n {
		began := time.Now()
		if _, err := app.SignTransaction(a.t.Context(), transferTx(session, first+uint64(i))); err != nil {
			a.t.Errorf("request %d: %v", i, err)
		}
		longest = max(longest, time.Since(began))
	}
	return longest
}

// TestFewDescriptors: an agent that may open 4,096 files serves its clients and its operator beside 5,000 connections
// of others.
func TestFewDescriptors(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 6000 {
		t.Fatalf("this process may open %d files, %v: the attack takes 6,000", limit.Max, err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit.Max, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	a := newOpenAgent(t, 4096)
	sess := a.ActiveSession(transferSpec(1000), userAccount)
	connectMany(t, a, 5000)
	longest := a.signsAll(sess.ID, 0, 20)
	status := a.status() // over admin.sock
	if status.Connections < 500 || status.Connections > 4096-64 {
		t.Errorf("%d connections are open, want many, and 64 descriptors to spare", status.Connections)
	}
	a.ActiveSession(transferSpec(1000), userAccount) // which makes a key, and writes
	if strings.Contains(a.log.String(), "too many open files") {
		t.Errorf("the agent ran out of descriptors:\n%s", lastLines(a.log.String(), 20))
	}
	t.Logf("beside %d connections a signature took at most %v", status.Connections, longest)
}

// TestUnreadAnswersOfAnAgent: connections that ask and do not read, of strangers and of a client, cost the agent a
// bounded amount of memory. They were worth 1.1 GB once.
func TestUnreadAnswersOfAnAgent(t *testing.T) {
	a := newOpenAgent(t, 1<<14)
	sess := a.ActiveSession(transferSpec(1000), userAccount)
	before := a.rss()
	ask := strings.Repeat(request("rpc.discover"), 200) // 15 KB for about 20 MB
	all := connectMany(t, a, 90)
	for range 90 { // and a client, as often
		nc, err := net.Dial("unix", a.Socket())
		a.must(err)
		t.Cleanup(func() { nc.Close() })
		all = append(all, nc)
	}
	most := 0
	for _, nc := range all {
		a.must(nc.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)))
		_, _ = io.WriteString(nc, ask) // the agent may have ended it
		most = max(most, a.rss())
	}
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		most = max(most, a.rss())
	}
	a.signsAll(sess.ID, 0, 5)
	t.Logf("%d connections that do not read: the agent grew from %d MB to %d MB", len(all), before>>10, most>>10)
	if most-before > 256<<10 {
		t.Errorf("the agent grew by %d MB", (most-before)>>10)
	}
}

// rss is the agent's resident memory in KB.
func (a *Agent) rss() int {
	a.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.cmd.Process.Pid))
	a.must(err)
	kb, err := strconv.Atoi(strings.Fields(afterLine(string(status), "VmRSS:"))[0])
	a.must(err)
	return kb
}

// status is what the agent says of itself.
func (a *Agent) status() *api.Status {
	a.t.Helper()
	admin, err := client.Dial(a.t.Context(), filepath.Join(a.Dir, "admin.sock"))
	a.must(err)
	defer admin.Close()
	status, err := admin.Status(a.t.Context())
	a.must(err)
	return status
}

func lastLines(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "")
}
