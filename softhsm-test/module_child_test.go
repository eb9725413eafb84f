package softhsmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// addFaulty adds a backend "faulty" to the agent, which has to be started again: a token of its own behind the fault
// module. lines are added to its section.
func (a *Agent) addFaulty(lines ...string) *Faults {
	a.t.Helper()
	faults, control := a.addModule("faulty", lines...)
	a.mayWrite(control)
	return faults
}

// mayWrite lets the agent's modules write to files: a fault module writes to the one that controls it.
func (a *Agent) mayWrite(files ...string) {
	a.t.Helper()
	list, err := json.Marshal(files) // which TOML reads, too
	a.must(err)
	a.configureIn("confine", fmt.Sprintf("write = %s", list))
}

// addModule adds a backend of that name, and returns the file that controls its fault module.
func (a *Agent) addModule(name string, lines ...string) (faults *Faults, control string) {
	a.t.Helper()
	return a.addToken(NewToken(a.t), name, lines...)
}

// addToken is addModule with that token.
func (a *Agent) addToken(tok *Token, name string, lines ...string) (faults *Faults, control string) {
	a.t.Helper()
	faults = NewFaults(a.t, tok)
	var env []string
	for name, value := range tok.Env() {
		env = append(env, fmt.Sprintf("%q = %q", name, value))
	}
	conf, err := os.OpenFile(filepath.Join(a.Dir, "config.toml"), os.O_APPEND|os.O_WRONLY, 0)
	a.must(err)
	_, err = fmt.Fprintf(conf, "\n[backends.%s]\ntype = \"pkcs11\"\nmodule = %q\ntoken = %q\npin_file = %q\nenv = { %s "+
		"}\n%s\n",
		name, tok.Module, tok.Label, tok.PINFile, strings.Join(env, ", "), strings.Join(lines, "\n"))
	a.must(errors.Join(err, conf.Close()))
	return faults, tok.Env()["FAULT_CONTROL"]
}

// wantRetryable fails the test unless err is what an app is told of a device that may answer later.
func wantRetryable(t *testing.T, what string, err error) {
	t.Helper()
	if e := client.Details(err); e == nil || !e.Details().Retryable || e.Details().Reason != "deviceUnavailable" {
		t.Errorf("%s: %v, want a retryable deviceUnavailable", what, err)
	}
}

// TestModuleFaults: a module that crashes, hangs, or closes descriptors that are not its own costs the requests that
// are in it, which can be repeated. The agent, its connections and its other backend go on, and status and log say
// which module it was.
func TestModuleFaults(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	faults := a.addFaulty(`timeout = "3s"`) // a log-in has to fit into it on a busy machine
	a.Start()
	good, bad := a.activeSessionOn("softhsm", transferSpec(1_000_000)),
		a.activeSessionOn("faulty", transferSpec(1_000_000))
	stop := a.signAllAlong(t, good.ID)
	app := a.Client() // one connection for all: it must outlive each fault
	nonce := uint64(0)
	sign := func() error {
		nonce++
		_, err := app.SignTransaction(t.Context(), transferTx(bad.ID, nonce))
		return err
	}
	for restarts, tt := range []struct {
		name string
		kind FaultKind
		says string
	}{
		{"abort", Abort, "crashed (SIGABRT"},
		{"segmentation fault", SegFault, "crashed (SIGSEGV"},
		// Three things can be the first to happen: the agent sees the connection break, the child ends because its
		// connection is gone, or the child's runtime finds its epoll descriptor closed.
		{"closes descriptors", CloseAll, "broke the connection to the agent|ended (exit status 0)|crashed (fatal error: " +
			"runtime: "},
		{"hang", Hang, "has not returned from the module"},
	} {
		if err := sign(); err != nil {
			t.Fatalf("before %s: %v", tt.name, err)
		}
		faults.On("Sign").Set(tt.kind, 0, 1)
		began := time.Now()
		wantRetryable(t, tt.name, sign())
		a.signsWithin(t, tt.name, time.Minute, sign)
		t.Logf("%s: signs again %v after the fault", tt.name, time.Since(began).Round(time.Millisecond))
		times := "restarted once"
		if restarts > 0 {
			times = fmt.Sprintf("restarted %d times", restarts+1)
		}
		a.statusSays(t, "faulty", times, "the PKCS#11 module ", "fault.so", tt.says) // a hang shows when its time is over
		if !strings.Contains(a.log.String(), "the PKCS#11 module ") || !containsOne(a.log.String(), tt.says) {
			t.Errorf("%s: the log does not say %q of the module:\n%s", tt.name, tt.says, a.log)
		}
	}
	stop()
}

// signAllAlong signs with a session until stop, which fails the test if a request was not answered with a signature.
func (a *Agent) signAllAlong(t *testing.T, session string) (stop func()) {
	var wg sync.WaitGroup
	over, app := make(chan struct{}), a.Client()
	wg.Go(func() {
		for nonce := uint64(0); ; nonce++ {
			select {
			case <-over:
				return
			default:
			}
			if _, err := app.SignTransaction(t.Context(), transferTx(session, nonce)); err != nil {
				t.Errorf("the other backend: %v", err)
				return
			}
		}
	})
	return func() { close(over); wg.Wait() }
}

// signsWithin repeats sign until it succeeds. Until then it has to fail in a way that can be repeated.
func (a *Agent) signsWithin(t *testing.T, what string, limit time.Duration, sign func() error) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		err := sign()
		if err == nil {
			return
		}
		wantRetryable(t, what, err)
		if time.Now().After(deadline) {
			t.Fatalf("%s: still failing after %v: %v", what, limit, err)
		}
	}
}

// statusSays waits until the status of a backend has all texts.
func (a *Agent) statusSays(t *testing.T, backend string, texts ...string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		detail := a.backendStatus(backend).Detail
		missing := slices.DeleteFunc(slices.Clone(texts), func(text string) bool { return containsOne(detail, text) })
		if len(missing) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("status says %q, want %q in it", detail, missing)
		}
	}
}

// containsOne reports whether text has one of the alternatives, which "|" separates.
func containsOne(text, alternatives string) bool {
	return slices.ContainsFunc(strings.Split(alternatives, "|"), func(a string) bool { return strings.Contains(text, a) })
}

// backendStatus is what the agent says of a backend.
func (a *Agent) backendStatus(name string) api.Backend {
	a.t.Helper()
	admin, err := client.Dial(a.t.Context(), filepath.Join(a.Dir, "admin.sock"))
	a.must(err)
	defer admin.Close()
	status, err := admin.Status(a.t.Context())
	a.must(err)
	for _, b := range status.Backends {
		if b.Name == name {
			return b
		}
	}
	a.t.Fatalf("no backend %s in %+v", name, status.Backends)
	return api.Backend{}
}

// TestModuleCrashesAtStart: a module that can't be initialized does not keep the agent from starting with its other
// backends, and is used once it can be.
func TestModuleCrashesAtStart(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	faults := a.addFaulty()
	faults.On("Initialize").Set(SegFault, 0, 1<<40)
	a.Start()
	good := a.activeSessionOn("softhsm", transferSpec(1000))
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(good.ID, 1)); err != nil {
		t.Errorf("the other backend: %v", err)
	}
	if st := a.backendStatus("faulty"); st.State != "unavailable" || !strings.Contains(st.Detail, "crashed (SIGSEGV") {
		t.Errorf("status = %+v, want unavailable, and why", st)
	}
	before := faults.On("Initialize").Calls()
	time.Sleep(time.Second) // nobody asks for it
	if n := faults.On("Initialize").Calls() - before; n != 0 {
		t.Errorf("C_Initialize was called %d times with no need", n)
	}
	faults.On("Initialize").Set(Return, 0, 0)
	a.activeSessionOn("faulty", transferSpec(1000))
}

// TestModuleInTheAgent: where the configuration wants it so, the module has no process of its own.
func TestModuleInTheAgent(t *testing.T) {
	a := NewAgent(t)
	if n := len(a.children()); n != 1 {
		t.Errorf("the agent has %d children, want 1", n)
	}
	a.Stop()
	a.Configure(`process = "agent"`)
	a.Start()
	if n := len(a.children()); n != 0 {
		t.Errorf("the agent has %d children, want none", n)
	}
	sess := a.activeSessionOn("softhsm", transferSpec(1000))
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, 1)); err != nil {
		t.Error(err)
	}
}
