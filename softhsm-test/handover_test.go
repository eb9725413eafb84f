package softhsmtest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// inheritSockets has the agent, which is stopped, take over sockets that this process listens on, as
// systemd does with a socket unit. They outlive it.
func (a *Agent) inheritSockets() {
	a.t.Helper()
	for _, name := range []string{"agent.sock", "admin.sock"} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(a.Dir, name), Net: "unix"})
		if err != nil {
			a.t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		f, err := l.File()
		if err != nil {
			a.t.Fatal(err)
		}
		a.t.Cleanup(func() { l.Close(); f.Close() })
		a.sockets = append(a.sockets, f)
	}
}

// A client that comes while the agent is down finds the socket there, waits, and gets its answer
// from the next process.
func TestSocketOutlivesTheAgent(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	a.inheritSockets()
	a.Start()
	sess := a.ActiveSession(transferSpec(1000), userAccount)
	for restart, end := range map[string]func(){"stopped": a.Stop, "killed": a.Kill} {
		t.Run(restart, func(t *testing.T) {
			if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, uint64(len(restart)))); err != nil {
				t.Fatal(err)
			}
			end()
			for _, name := range []string{"agent.sock", "admin.sock"} {
				if _, err := os.Stat(filepath.Join(a.Dir, name)); err != nil {
					t.Errorf("after the agent's end: %v", err)
				}
			}
			nc, err := net.Dial("unix", a.Socket())
			if err != nil {
				t.Fatalf("connecting while the agent is down: %v", err)
			}
			defer nc.Close()
			fmt.Fprintf(nc, `{"jsonrpc":"2.0","id":"x","method":"session_list"}`)
			a.Start()
			line, err := bufio.NewReader(nc).ReadString('\n')
			if err != nil || !strings.Contains(line, `"id":"x"`) || !strings.Contains(line, sess.ID) {
				t.Errorf("answer %q, %v, want the session", line, err)
			}
		})
	}
}

// Clients that connect all the time see no refused connection while the agent is restarted.
func TestNoRefusedConnectionInARestart(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	a.inheritSockets()
	a.Start()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(20 * time.Millisecond): // what the kernel's queue holds while the agent is down
				}
				nc, err := net.Dial("unix", a.Socket())
				if err != nil {
					t.Errorf("connecting: %v", err)
					return
				}
				nc.Close()
			}
		})
	}
	for range 3 {
		a.Stop()
		a.Start()
	}
	close(stop)
	wg.Wait()
}
