package isolated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/confine"
)

// child is one child process, as its parent sees it.
type child struct {
	b       *Backend
	conn    *conn
	abil    abilities
	useful  atomic.Bool // it did something successfully
	noted   bool        // its end was taken in; b.mu
	waiting waits
	pid     int
	words   lastWords
	exited  chan struct{} // closed when the process is gone
	state   string        // how it went, "crashed (SIGABRT: abort)"; valid then

	mu    sync.Mutex
	tries map[uint64]*try
}

// alive reports whether calls can be made. A nil child is dead.
func (c *child) alive() bool {
	if c == nil {
		return false
	}
	return c.conn.open()
}

// explain says of a child that has ended how it went, if that is soon known.
func (c *child) explain(ctx context.Context, err error) error {
	if c.alive() || errors.Is(err, errClosed) {
		return err
	}
	select {
	case <-c.exited:
		return fmt.Errorf("%s %s: %w", c.b.cfg.Subject, c.state, err)
	case <-ctx.Done():
	case <-time.After(time.Second):
	}
	return fmt.Errorf("%s is being ended: %w", c.b.cfg.Subject, err)
}

// wasKilled is what describe says of a process that we, or somebody else, killed.
const wasKilled = "was killed"

// describe says how the process went. It is gone.
func (c *child) describe(state *os.ProcessState) string {
	if said := c.words.String(); said != "" {
		return "crashed (" + said + ")"
	}
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == syscall.SIGKILL {
		return wasKilled
	}
	return "ended (" + state.String() + ")"
}

// openRequest is the first call of a child.
type openRequest struct {
	Type      string          `json:"type"`
	Name      string          `json:"name"`
	Settings  json.RawMessage `json:"settings"`
	PINs      bool            `json:"pins"`      // the parent has them
	AdminPINs bool            `json:"adminPins"` // likewise
	Confine   *confine.Rules  `json:"confine"`
}

// abilities are what the child's backend can do beyond Backend, Lister and Prober.
type abilities struct {
	Unlock bool `json:"unlock"`
	Attest bool `json:"attest"`
	Count  bool `json:"count"` // it is a [backends.Counter]

	Concurrency int `json:"concurrency"` // of a [backends.Limited]; 0: it is none
}

// start runs a child once the old one, which may be nil, is gone: two could fight over the device.
func (b *Backend) start(ctx context.Context, old *child) (*child, error) {
	if old != nil {
		select {
		case <-old.exited:
		case <-ctx.Done():
			return nil, fmt.Errorf("%s does not end: %w", b.cfg.Subject, context.Cause(ctx))
		}
	}
	settings, err := json.Marshal(b.cfg.Settings)
	if err != nil {
		return nil, fmt.Errorf("settings: %w", err)
	}
	c, err := b.spawn()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", b.cfg.Subject, err)
	}
	request := openRequest{b.cfg.Type, b.cfg.Name, settings, b.cfg.PINs != nil, b.cfg.AdminPINs != nil, b.cfg.Confine}
	body, err := c.conn.call(ctx, opOpen, marshal(request), b.cfg.Grace)
	if err == nil {
		err = unmarshal(body, &c.abil)
	}
	want := abilities{Unlock: true}
	if !b.cfg.Unlocks && old != nil {
		want = old.abil
	}
	if err == nil && (b.cfg.Unlocks || old != nil) && (c.abil.Unlock != want.Unlock || c.abil.Attest != want.Attest) {
		err = fmt.Errorf("%w: the backend can do %+v, want %+v", errMalformed, c.abil, want)
	}
	if err != nil {
		err = c.explain(ctx, err)
		c.conn.fail(err)
		return nil, err
	}
	return c, nil
}

// spawn runs the child process, with one end of a socket pair as its file 3. It is killed when
// the conn ends, and its conn ends when it dies.
func (b *Backend) spawn() (*child, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	theirs := os.NewFile(uintptr(fds[1]), "backend")
	defer theirs.Close()
	ours := os.NewFile(uintptr(fds[0]), "backend")
	nc, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, err
	}
	cmd := exec.Command(b.cfg.Command[0], b.cfg.Command[1:]...)
	cmd.Env = childEnv(os.Environ(), b.cfg.HideEnv)
	c := &child{b: b, conn: new(conn), exited: make(chan struct{}), tries: map[uint64]*try{}}
	c.words.to = os.Stderr
	cmd.Stdout, cmd.Stderr = &c.words, &c.words
	cmd.WaitDelay = time.Second // a program that a module started may keep them open
	cmd.ExtraFiles = []*os.File{theirs}
	// Also while it is stopped, when it can't see the socket close.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.conn.handle, c.conn.notice = c.handle, c.notice
	c.conn.start(nc)
	started := make(chan error)
	go func() {
		// The death signal is sent when the thread ends that started the process, so it stays.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()
		c.state = c.describe(cmd.ProcessState)
		c.conn.fail(errGone) // first, so that who knows of the exit finds it not alive
		close(c.exited)
	}()
	if err := <-started; err != nil {
		c.conn.fail(err)
		return nil, err
	}
	c.pid = cmd.Process.Pid
	go func() {
		<-c.conn.done
		_ = cmd.Process.Kill()
		<-c.exited
		c.dropTries()
		c.obituary(c.conn.reason())
	}()
	return c, nil
}

// errGone: the process ended by itself, or somebody else ended it.
var errGone = errors.New("its process is gone")

// errHangs: a call into foreign code does not return.
var errHangs = fmt.Errorf("%w: it hangs", backends.ErrUnavailable)

// errRetired: the child asked for its end, which is no fault.
var errRetired = fmt.Errorf("%w: it asked for a new process", backends.ErrUnavailable)

// obituary logs the end of the child, and counts it if it was a fault. The process is gone.
func (c *child) obituary(reason error) {
	if errors.Is(reason, errClosed) {
		return
	}
	b := c.b
	if errors.Is(reason, errRetired) {
		b.log.Warn(b.cfg.Subject+" is started again", "reason", reason)
		return
	}
	how := c.state
	switch {
	case c.words.String() != "" || errors.Is(reason, errGone):
	case errors.Is(reason, io.EOF) && how == wasKilled: // by us
		how = "broke the connection to the agent, as foreign code does that closes files that are not its own"
	case !errors.Is(reason, io.EOF):
		how = "was ended: " + reason.Error()
	}
	b.mu.Lock()
	b.crashes = crashes{n: b.crashes.n + 1, last: time.Now(), how: b.cfg.Subject + " " + how}
	b.mu.Unlock()
	b.log.Error(b.cfg.Subject+" "+how+"; the next call starts it again", "reason", reason)
}

// childEnv is env less what is this process's own: systemd's protocols and secrets.
func childEnv(env, hide []string) []string {
	hide = append([]string{
		"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "CREDENTIALS_DIRECTORY",
		"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
	}, hide...)
	return slices.DeleteFunc(slices.Clone(env), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(hide, name)
	})
}

// notice takes in what the child notes.
func (c *child) notice(f *frame) {
	switch f.op {
	case opWaiting:
		if what := string(f.body); c.waiting.set(what) && what != "" {
			c.b.log.Warn(what)
		}
	case opLog:
		var r logRecord
		if err := unmarshal(f.body, &r); err != nil {
			c.conn.fail(err)
			return
		}
		r.emit(c.b.log)
	case opRetire:
		c.conn.fail(fmt.Errorf("%w: %s", errRetired, f.body))
	case opHung:
		c.conn.drain(fmt.Errorf("%w: %s", errHangs, f.body), c.b.cfg.Grace)
	default:
		c.conn.fail(fmt.Errorf("%w: notice %d", errMalformed, f.op))
	}
}

// handle answers what the child calls.
func (c *child) handle(ctx context.Context, f *frame) ([]byte, error) {
	switch f.op {
	case opReady:
		var r readyRequest
		if err := unmarshal(f.body, &r); err != nil {
			return nil, err
		}
		pins, err := c.pins(r.Admin)
		if err != nil {
			return nil, err
		}
		return []byte("null"), pins.Ready(ctx)
	case opTry:
		var r tryRequest
		if err := unmarshal(f.body, &r); err != nil {
			return nil, err
		}
		pins, err := c.pins(r.Admin)
		if err != nil {
			return nil, err
		}
		return c.try(ctx, pins, r)
	case opSettle:
		var r settleRequest
		if err := unmarshal(f.body, &r); err != nil {
			return nil, err
		}
		return []byte("null"), c.settle(r)
	}
	return nil, fmt.Errorf("%w: op %d", errMalformed, f.op)
}

// logRecord is a line of the child's log.
type logRecord struct {
	Level   slog.Level `json:"level"`
	Message string     `json:"message"`
	Attrs   []string   `json:"attrs,omitempty"` // key, value, key, value, …
}

func (r *logRecord) emit(log *slog.Logger) {
	var args []any
	for i := 0; i+1 < len(r.Attrs); i += 2 {
		args = append(args, slog.String(r.Attrs[i], r.Attrs[i+1]))
	}
	log.Log(context.Background(), r.Level, r.Message, args...)
}
