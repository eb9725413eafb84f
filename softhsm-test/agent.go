package softhsmtest

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/syncbuf"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// Agent is a keyward process on a SoftHSM token of its own, in a directory that is gone
// when the test ends.
type Agent struct {
	t   testing.TB
	bin string
	Dir string
	cmd *exec.Cmd
	log *syncbuf.Buffer
	// server is the program that serves, if that is not bin, and env what it has in its environment, beside the test's.
	server string
	env    []string
	// sockets, "agent" and "admin", are passed to the process as systemd does; nil: it makes its own.
	sockets []*os.File
}

// NewAgent makes the token and starts the agent, built from this tree, with the race
// detector if the test has it.
func NewAgent(t testing.TB) *Agent {
	t.Helper()
	return startAgent(t, buildOnce, tempDir(t))
}

// NewPlainAgent is NewAgent without the race detector, which makes the agent slow. Its
// state is in dir.
func NewPlainAgent(t testing.TB, dir string) *Agent {
	t.Helper()
	return startAgent(t, buildPlainOnce, dir)
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
	bin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{t: t, bin: bin, Dir: filepath.Join(dir, "agent"), log: &syncbuf.Buffer{}}
	a.Keyward("init", "--softhsm")
	return a
}

// Both build the agent once for all tests of a process; the go command's cache makes it cheap.
var (
	buildOnce      = sync.OnceValues(func() (string, error) { return build(raceFlag) })
	buildPlainOnce = sync.OnceValues(func() (string, error) { return build("-race=false") })
)

func build(flag string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	tree, err := os.Getwd()
	if err != nil {
		return "", err
	}
	// Each tree has a place of its own: another one's tests may run at the same time.
	bin := filepath.Join(cache, "keyward-test", fmt.Sprintf("%x", sha256.Sum256([]byte(tree)))[:16], "agent"+flag)
	out, err := exec.Command("go", "build", flag, "-o", bin, "github.com/keyward/keyward/cmd/keyward").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the agent: %w\n%s", err, out)
	}
	return bin, nil
}

// processEnv has the race detector not pause for a second at each exit.
func processEnv() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

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
	a.cmd = exec.Command(cmp.Or(a.server, a.bin), "serve", "--dir", a.Dir)
	a.cmd.Env = append(processEnv(), a.env...)
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
	cmd.Env = processEnv()
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
