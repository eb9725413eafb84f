package softhsmtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/syncbuf"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// Agent is a keyward process on a SoftHSM token of its own, in a directory that is gone
// when the test ends.
type Agent struct {
	t   testing.TB
	Dir string
	cmd *exec.Cmd
	log *syncbuf.Buffer
	// bin runs commands, server serves. env is in the server's environment, beside the test's.
	bin, server string
	env         []string
	// sockets, "agent" and "admin", are passed to the process as systemd does; nil: it makes its own.
	sockets []*os.File
}

// NewAgent makes the token and starts the agent, built from this tree, with the race
// detector if the test has it.
func NewAgent(t testing.TB) *Agent {
	t.Helper()
	return startAgent(t, testbin.Race, tempDir(t))
}

// NewPlainAgent is NewAgent without the race detector, which makes the agent slow. Its
// state is in dir.
func NewPlainAgent(t testing.TB, dir string) *Agent {
	t.Helper()
	return startAgent(t, testbin.Plain, dir)
}

func startAgent(t testing.TB, build func() (string, error), dir string) *Agent {
	t.Helper()
	a := initAgent(t, build, dir)
	a.Start()
	t.Cleanup(a.finish)
	return a
}

// initAgent is startAgent for an agent that is started later.
func initAgent(t testing.TB, build func() (string, error), dir string) *Agent {
	t.Helper()
	a := newAgent(t, build, dir)
	a.Keyward("init", "--softhsm")
	return a
}

// newAgent is an agent in dir that is not initialized and does not run. build makes the program that serves.
func newAgent(t testing.TB, build func() (string, error), dir string) *Agent {
	t.Helper()
	bin, err := testbin.Plain()
	if err != nil {
		t.Fatal(err)
	}
	server, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return &Agent{t: t, bin: bin, server: server, Dir: filepath.Join(dir, "agent"), log: &syncbuf.Buffer{}}
}

// Socket is the path of the app socket.
func (a *Agent) Socket() string { return filepath.Join(a.Dir, "agent.sock") }

// Start starts the process and waits until it answers.
func (a *Agent) Start() {
	a.t.Helper()
	a.launch()
	a.awaitAnswer()
}

// launch starts the process.
func (a *Agent) launch() {
	a.t.Helper()
	a.cmd = exec.Command(a.server, "serve", "--dir", a.Dir)
	a.cmd.Env = append(testbin.Env(), a.env...)
	if a.sockets != nil { // sd_listen_fds(3)
		a.cmd = exec.Command("sh", append([]string{"-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, a.cmd.Args...)...)
		a.cmd.ExtraFiles = a.sockets
		a.cmd.Env = append(a.cmd.Env, "LISTEN_FDS=2", "LISTEN_FDNAMES=agent:admin")
	}
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
}

func (a *Agent) awaitAnswer() {
	a.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		admin, err := client.Dial(a.t.Context(), filepath.Join(a.Dir, "admin.sock"))
		if err == nil {
			_, err = admin.Status(a.t.Context())
			admin.Close()
		}
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			a.t.Fatalf("the agent does not answer after 30 s: %v\n%s", err, a.log)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// CPU is the processor time that the agent and its child processes have used, to 10 ms.
func (a *Agent) CPU() time.Duration {
	a.t.Helper()
	return a.cpu(a.cmd.Process.Pid)
}

// cpu is that of one process and its children (proc_pid_stat(5), fields 14 and 15, in ticks of 10 ms).
func (a *Agent) cpu(pid int) time.Duration {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		a.t.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from field 3 on
	var total time.Duration
	for _, ticks := range fields[11:13] {
		n, err := strconv.Atoi(ticks)
		if err != nil {
			a.t.Fatal(err)
		}
		total += time.Duration(n) * 10 * time.Millisecond
	}
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		a.t.Fatal(err)
	}
	for _, name := range children {
		list, _ := os.ReadFile(name) // a thread may end meanwhile
		for _, child := range strings.Fields(string(list)) {
			n, err := strconv.Atoi(child)
			if err != nil {
				a.t.Fatal(err)
			}
			total += a.cpu(n)
		}
	}
	return total
}

// Configure adds a line to the section of the SoftHSM backend. The agent is stopped.
func (a *Agent) Configure(line string) {
	a.t.Helper()
	a.configureIn("backends.softhsm", line)
}

// configureIn adds a line to a section. The agent is stopped.
func (a *Agent) configureIn(name, line string) {
	a.t.Helper()
	section := "[" + name + "]\n"
	file := filepath.Join(a.Dir, "config.toml")
	data, err := os.ReadFile(file)
	before, after, found := strings.Cut(string(data), section)
	if err == nil && !found {
		err = fmt.Errorf("no %s in\n%s", section, data)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(before+section+line+"\n"+after), 0o600)
	}
	if err != nil {
		a.t.Fatal(err)
	}
}

// Kill ends the process as a crash does: SIGKILL.
func (a *Agent) Kill() {
	a.cmd.Process.Kill() // fails only if it has ended
	a.cmd.Wait()         // reports the signal
}

// Stop ends the process as an operator does: SIGTERM.
func (a *Agent) Stop() {
	a.t.Helper()
	a.cmd.Process.Signal(syscall.SIGTERM)
	if err := a.cmd.Wait(); err != nil {
		a.t.Errorf("stopping the agent: %v\n%s", err, a.log)
	}
}

// finish stops the agent with the test, and fails it if the race detector found something.
func (a *Agent) finish() {
	if a.cmd.ProcessState == nil {
		a.Stop()
	}
	if log := a.log.String(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "panic:") {
		a.t.Errorf("the agent's log:\n%s", log)
	}
}

// Keyward runs a command on the agent's directory and returns what it printed; a failure
// is fatal.
func (a *Agent) Keyward(args ...string) string {
	a.t.Helper()
	out, err := a.try(args...)
	if err != nil {
		a.t.Fatalf("keyward %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// Status is what keyward status prints, whatever state the agent is in.
func (a *Agent) Status() string {
	a.t.Helper()
	out, err := a.try("status")
	if out == "" {
		a.t.Fatalf("keyward status: %v", err)
	}
	return out
}

func (a *Agent) try(args ...string) (string, error) {
	var stderr bytes.Buffer
	cmd := exec.Command(a.bin, append(args, "--dir", a.Dir)...)
	cmd.Stderr = &stderr
	cmd.Env = testbin.Env()
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w\n%s", err, &stderr)
	}
	return string(out), err
}

// Client connects to the app socket. The client is closed with the test.
func (a *Agent) Client() *client.Client {
	a.t.Helper()
	c, err := client.Dial(a.t.Context(), a.Socket())
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	return c
}

// ActiveSession makes a session with spec (SDK JSON without signer) for account and activates it.
func (a *Agent) ActiveSession(spec, account string) *api.Session {
	a.t.Helper()
	file := filepath.Join(a.t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		a.t.Fatal(err)
	}
	out := a.Keyward("session", "create", "--spec", file, "--account", account, "--chain", "abstract-testnet", "--json")
	sess := new(api.Session)
	if err := json.Unmarshal([]byte(out), sess); err != nil {
		a.t.Fatalf("session create printed %q: %v", out, err)
	}
	a.Keyward("session", "activate", sess.ID)
	return sess
}
