package isolated

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/syncbuf"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
)

func TestSuiteSoft(t *testing.T) {
	backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
		return open(t, Config{Type: "soft", Settings: softSettings{}})
	})
}

func TestSuitePKCS11(t *testing.T) {
	backendtest.Run(t, backendtest.Options{Signatures: 32}, func(t *testing.T) backends.Backend {
		tok := softhsmtest.NewToken(t)
		return open(t, Config{
			Type:     "pkcs11",
			Settings: pkcs11Settings{Module: tok.Module, Token: tok.Label, Env: tok.Env()},
			PINs:     secret.NewKeeper(secret.FromFile(tok.PINFile), 0),
		})
	})
}

// TestChildFails ends the child in the middle of a call, in each way there is: the call fails, and
// can be tried again; the next one works, in another process.
func TestChildFails(t *testing.T) {
	for _, tt := range []struct {
		do      string
		timeout time.Duration // of the call; 0: it ends before
	}{
		{"exit", 0}, {"panic", 0}, {"garbage", 0}, {"huge", 0}, {"stray answer", 0}, {"retire", 0},
		{"hang", 300 * time.Millisecond}, {"stop", 300 * time.Millisecond},
	} {
		t.Run(tt.do, func(t *testing.T) {
			once := filepath.Join(t.TempDir(), "once")
			b := open(t, Config{Type: "soft", Settings: softSettings{once, tt.do}, Grace: 100 * time.Millisecond})
			k := backendtest.Generate(t, b, "x")
			backendtest.Verify(t, k, [32]byte{1})
			pid := base(b).pid()
			os.WriteFile(once, nil, 0o600)
			ctx := t.Context()
			if tt.timeout != 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, tt.timeout)
				defer cancel()
			}
			_, err := k.SignDigest(ctx, [32]byte{1})
			if !errors.Is(err, backends.ErrUnavailable) || errors.Is(err, backends.ErrNotSigned) { // it had the whole call
				t.Errorf("SignDigest = %v, want ErrUnavailable, in doubt", err)
			}
			gone(t, pid)
			backendtest.Verify(t, backendtest.Generate(t, b, "y"), [32]byte{2})
			if now := base(b).pid(); now == pid || now == 0 {
				t.Errorf("child is process %d, was %d", now, pid)
			}
		})
	}
}

// TestKilledBetweenCalls is noticed by nobody, except that keys in memory are gone.
func TestKilledBetweenCalls(t *testing.T) {
	b := open(t, Config{Type: "soft", Settings: softSettings{}})
	for range 3 {
		pid := base(b).pid()
		unix.Kill(pid, unix.SIGKILL)
		gone(t, pid)
		<-base(b).child.exited
		backendtest.Verify(t, backendtest.Generate(t, b, "x"), [32]byte{1})
	}
}

// TestOneFailureForAll has many calls in flight when the child dies.
func TestOneFailureForAll(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "exit"}})
	k := backendtest.Generate(t, b, "x")
	os.WriteFile(once, nil, 0o600)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for {
				_, err := k.SignDigest(t.Context(), [32]byte{1})
				if errors.Is(err, backends.ErrKeyNotFound) { // the new child's answer
					return
				}
				if err != nil && !errors.Is(err, backends.ErrUnavailable) {
					t.Errorf("SignDigest = %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestCrashLoopBacksOff(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "crash at open"}})
	os.WriteFile(once, nil, 0o600)
	unix.Kill(base(b).pid(), unix.SIGKILL)
	<-base(b).child.exited
	for try := 1; try <= 4; try++ {
		began := time.Now()
		if _, err := b.Key(t.Context(), "soft:1"); !errors.Is(err, backends.ErrUnavailable) {
			t.Fatalf("Key = %v, want ErrUnavailable", err)
		}
		// A delay that is too long is the machine's, one that is too short is ours.
		if least := minRetryDelay << (try - 1) / 2; time.Since(began) < least {
			t.Errorf("try %d took %v, want %v at least", try, time.Since(began), least)
		}
	}
	if n := base(b).failed(); n < 4 {
		t.Errorf("%d failures were counted", n)
	}
	os.Remove(once)
	if _, err := b.Key(t.Context(), "soft:1"); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Key = %v, want ErrKeyNotFound", err)
	}
}

func (b *Backend) failed() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures
}

func TestOpenFails(t *testing.T) {
	for name, cfg := range map[string]Config{
		"wrong configuration": {Type: "soft", Settings: softSettings{Do: "refuse"}},
		"unknown settings":    {Type: "soft", Settings: map[string]int{"unknown": 1}},
		"unknown type":        {Type: "none"},
		"not listing":         {Type: "bare"},
		"useless admin PIN":   {Type: "soft", AdminPINs: secret.NewAdminKeeper("x", nil)},
		"no such program":     {Type: "soft", Command: []string{"/nonexistent"}},
		"another program":     {Type: "soft", Command: []string{"/bin/true"}},
	} {
		cfg.Name, cfg.Timeout = "test", 30*time.Second
		if b, err := Open(t.Context(), cfg); err == nil {
			b.Close()
			t.Errorf("%s: Open succeeded", name)
		}
	}
}

// TestAbilities: what Open returns can do what the child's backend can, and no more.
func TestAbilities(t *testing.T) {
	plain := open(t, Config{Type: "soft", Settings: softSettings{}})
	able := open(t, Config{Type: "card", Settings: newCard(t), PINs: secret.NewKeeper(nil, secret.UntilLock)})
	for _, tt := range []struct {
		b    backends.Backend
		want bool
	}{{plain, false}, {able, true}} {
		_, unlocks := tt.b.(backends.Unlocker)
		_, attests := tt.b.(backends.Attester)
		if unlocks != tt.want || attests != tt.want {
			t.Errorf("%T unlocks: %v, attests: %v, want %v", tt.b, unlocks, attests, tt.want)
		}
	}
	got, err := able.(backends.Attester).Attest(t.Context(), "soft:1")
	want := &backends.Attestation{Chain: [][]byte{{1, 2}, {3}}, Verified: true, Detail: "soft:1"}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("Attest: %v (-want +got):\n%s", err, diff)
	}
}

func newCard(t *testing.T) string {
	c := &card{dir: t.TempDir()}
	c.set("left", 3)
	c.set("full", 3)
	return c.dir
}

// TestOrphan kills the parent: the child ends, also when it is stopped and reads nothing.
func TestOrphan(t *testing.T) {
	for _, how := range []string{"running", "stopped"} {
		var out bytes.Buffer
		cmd := exec.Command("/proc/self/exe", "orphan", how)
		cmd.Stdout = &out
		cmd.WaitDelay = 30 * time.Second
		if err := cmd.Run(); err == nil {
			t.Fatal("the parent was not killed")
		}
		pid, err := strconv.Atoi(strings.TrimSpace(out.String()))
		if err != nil {
			t.Fatal(err)
		}
		gone(t, pid)
	}
}

// TestChildHasNoSecrets reads what others can see of a child.
func TestChildHasNoSecrets(t *testing.T) {
	t.Setenv("TEST_SECRET_PIN", "4711-in-the-environment")
	t.Setenv("NOTIFY_SOCKET", "/nonexistent/notify")
	b := open(t, Config{Type: "soft", Settings: softSettings{Once: "/a-setting"}, HideEnv: []string{"TEST_SECRET_PIN"}})
	dir := filepath.Join("/proc", strconv.Itoa(base(b).pid()))
	for _, file := range []string{"environ", "cmdline"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, leak := range []string{"4711", "NOTIFY_SOCKET", "a-setting"} {
			if bytes.Contains(data, []byte(leak)) {
				t.Errorf("%s has %q", file, leak)
			}
		}
	}
}

// TestWaiting: what a person has to do is told while a call waits for it, and logged.
func TestWaiting(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	logs := &syncbuf.Buffer{}
	b := open(t, Config{
		Type: "soft", Settings: softSettings{once, "wait"},
		Logger: slog.New(slog.NewTextHandler(logs, nil)),
	})
	k := backendtest.Generate(t, b, "x")
	os.WriteFile(once, nil, 0o600)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { _, err := k.SignDigest(ctx, [32]byte{}); done <- err }()
	for b.(backends.Waiter).Waiting() == "" {
		time.Sleep(time.Millisecond)
	}
	if st := b.(backends.Prober).Status(t.Context()); !strings.Contains(st.Detail, "touch the card now") {
		t.Errorf("Status = %+v", st)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !errors.Is(err, backends.ErrUnavailable) {
		t.Errorf("SignDigest = %v, want Canceled and ErrUnavailable", err)
	}
	backendtest.Verify(t, k, [32]byte{1}) // the child has only been asked to stop waiting
	// The call that was left says so when it ends, which may be after the other's answer.
	for deadline := time.Now().Add(30 * time.Second); b.(backends.Waiter).Waiting() != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Waiting = %q, want nothing", b.(backends.Waiter).Waiting())
		}
	}
	for _, want := range []string{"touch the card now", "backend=test", "do=wait", "pid="} {
		if !strings.Contains(logs.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, logs)
		}
	}
}

// TestCloseOfAHungDevice: an agent that is stopped ends a process that does not answer, which is no failure of the
// agent's.
func TestCloseOfAHungDevice(t *testing.T) {
	var log syncbuf.Buffer
	b := open(t, Config{Type: "soft", Settings: softSettings{}, Timeout: 2 * time.Second, Grace: 100 * time.Millisecond,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	pid := base(b).pid()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	gone(t, pid)
	if !strings.Contains(log.String(), "was not closed") {
		t.Errorf("the log has no word of it:\n%s", &log)
	}
}

// TestSignalsAreTheParents: a terminal and systemd signal the whole group.
func TestSignalsAreTheParents(t *testing.T) {
	b := open(t, Config{Type: "soft", Settings: softSettings{}})
	pid := base(b).pid()
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP} {
		unix.Kill(pid, sig)
	}
	backendtest.Generate(t, b, "x")
	if now := base(b).pid(); now != pid {
		t.Errorf("child is process %d, was %d", now, pid)
	}
	if err := b.Close(); err != nil {
		t.Errorf("Close = %v", err)
	}
	gone(t, pid)
}
