package isolated

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/internal/secret"
)

// TestMain is also the child process. It fails if a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) > 1 && os.Args[1] == Arg:
		if err := Serve(openers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case len(os.Args) > 2 && os.Args[1] == "orphan":
		orphan(os.Args[2])
	default:
		goleak.VerifyTestMain(m)
	}
}

var openers = map[string]Opener{"soft": openSoft, "pkcs11": openPKCS11, "card": openCard, "admin card": openAdminCard,
	"bare": openBare, "free": openFree}

// softSettings order a fault of the first signature that finds the file Once, and removes it.
type softSettings struct {
	Once string `json:"once"`
	Do   string `json:"do"`
}

func openSoft(_ context.Context, _ string, settings json.RawMessage, env *Env) (backends.Backend, error) {
	var s softSettings
	if err := Decode(settings, &s); err != nil {
		return nil, err
	}
	if s.Do == "refuse" {
		return nil, errors.New("the configuration is wrong")
	}
	if s.Do == "crash at open" {
		if _, err := os.Stat(s.Once); err == nil {
			os.Exit(7)
		}
	}
	var card sync.Mutex // signs one thing at a time
	return &soft.Backend{OnSign: func(ctx context.Context, _ [32]byte) (*backends.Signature, error) {
		card.Lock()
		defer card.Unlock()
		if os.Remove(s.Once) != nil {
			return nil, nil
		}
		env.Logger.With("pid", os.Getpid()).Info("fault", "do", s.Do)
		switch s.Do {
		case "hang": // as a C call does, whatever ctx says
			env.Waiting("touch the card now")
			select {}
		case "exit":
			os.Exit(3)
		case "panic":
			panic("a bug in a library")
		case "stop":
			unix.Kill(os.Getpid(), unix.SIGSTOP)
			select {} // the signal may take its time
		case "garbage":
			writeRaw([]byte("garbage that is no frame at all"))
		case "huge":
			writeRaw(binary.BigEndian.AppendUint32(nil, 1<<31))
		case "stray answer":
			b, _ := appendFrame(nil, &frame{kind: kindResult, id: 1 << 40, body: []byte("null")})
			writeRaw(b)
		case "retire":
			env.Retire("a handle leaked")
			return nil, fmt.Errorf("%w: the card was pulled", backends.ErrUnavailable)
		case "touch": // is over when Once is there again
			env.Waiting("touch the card now")
			for os.Remove(s.Once) != nil && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			env.Waiting("")
		case "refuse to sign":
			return nil, backends.NotSigned(backends.ErrRefused)
		case "wait in line":
			<-ctx.Done()
			return nil, backends.NotSigned(ctx.Err())
		case "wait":
			env.Waiting("touch the card now")
			<-ctx.Done()
			env.Waiting("")
			return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, ctx.Err())
		}
		return nil, nil
	}}, nil
}

// writeRaw writes to the parent past the conn. Serve has closed file 3, but its copy has the same socket.
func writeRaw(b []byte) {
	for fd := 4; fd < 64; fd++ {
		if so, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); err == nil && so == unix.AF_UNIX {
			unix.Write(fd, b)
		}
	}
}

type pkcs11Settings struct {
	Module, Token, PINFile string
	Env                    map[string]string
}

func openPKCS11(ctx context.Context, name string, settings json.RawMessage, env *Env) (backends.Backend, error) {
	var s pkcs11Settings
	if err := Decode(settings, &s); err != nil {
		return nil, err
	}
	cfg := pkcs11.Config{Name: name, Module: s.Module, Env: s.Env, TokenLabel: s.Token, PINs: env.PINs, Logger: env.Logger}
	if env.PINs == nil {
		cfg.PIN = secret.FromFile(s.PINFile)
	}
	return pkcs11.Open(ctx, cfg)
}

// card is a backend whose PIN counter is in a file, as a real one's is in the card: it
// outlives the process.
type card struct {
	soft.Backend
	dir  string
	pins secret.PINs
}

const cardPIN = "123456"

func openCard(_ context.Context, _ string, settings json.RawMessage, env *Env) (backends.Backend, error) {
	var dir string
	if err := Decode(settings, &dir); err != nil {
		return nil, err
	}
	c := &card{dir: dir, pins: env.PINs}
	c.OnSign = func(ctx context.Context, _ [32]byte) (*backends.Signature, error) { return nil, c.verify(ctx) }
	return c, nil
}

func (c *card) number(name string) int {
	b, _ := os.ReadFile(filepath.Join(c.dir, name))
	n, _ := strconv.Atoi(string(b))
	return n
}

func (c *card) set(name string, n int) {
	if err := os.WriteFile(filepath.Join(c.dir, name), []byte(strconv.Itoa(n)), 0o600); err != nil {
		panic(err)
	}
}

func (c *card) verify(ctx context.Context) error {
	return c.pins.Try(ctx, secret.Tries{Left: c.number("left"), Full: c.number("full")}, func(pin []byte) error {
		c.set("shown", c.number("shown")+1)
		right := string(pin) == cardPIN
		if right {
			c.set("left", 3)
		} else {
			c.set("left", c.number("left")-1)
		}
		if os.Remove(filepath.Join(c.dir, "die")) == nil {
			os.Exit(9) // the verdict is lost
		}
		if !right {
			return fmt.Errorf("%w: %d tries are left", backends.ErrPINIncorrect, c.number("left"))
		}
		return nil
	})
}

func (c *card) Unlock(ctx context.Context, pin []byte) error {
	if pin != nil {
		return errors.New("the PIN is the Keeper's")
	}
	return c.verify(ctx)
}

func (c *card) Lock(context.Context) error { return nil }

// adminCard takes the admin PIN for generating, and can't attest.
type adminCard struct {
	soft.Backend
	card card
}

func openAdminCard(_ context.Context, _ string, settings json.RawMessage, env *Env) (backends.Backend, error) {
	c := &adminCard{card: card{pins: env.AdminPINs}}
	return c, Decode(settings, &c.card.dir)
}

func (c *adminCard) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	if err := c.card.pins.Ready(ctx); err != nil {
		return nil, err
	}
	if err := c.card.verify(ctx); err != nil {
		return nil, err
	}
	return c.Backend.Generate(ctx, attrs)
}

func (c *adminCard) Unlock(context.Context, []byte) error { return nil }
func (c *adminCard) Lock(context.Context) error           { return nil }

func (c *card) Attest(_ context.Context, uri string) (*backends.Attestation, error) {
	return &backends.Attestation{Chain: [][]byte{{1, 2}, {3}}, Verified: true, Detail: uri}, nil
}

func openBare(context.Context, string, json.RawMessage, *Env) (backends.Backend, error) {
	return struct{ backends.Backend }{&soft.Backend{}}, nil
}

// openFree opens a device that signs in no time.
func openFree(context.Context, string, json.RawMessage, *Env) (backends.Backend, error) {
	return &soft.Backend{OnSign: func(context.Context, [32]byte) (*backends.Signature,
		error) {
		return new(backends.Signature), nil
	}}, nil
}

// orphan is a parent that dies by itself, leaving a child that is stopped or not. It prints the child's pid.
func orphan(how string) {
	b, err := Open(context.Background(), Config{Name: "orphan", Type: "soft", Settings: softSettings{}})
	if err != nil {
		panic(err)
	}
	pid := base(b).pid()
	if how == "stopped" {
		unix.Kill(pid, unix.SIGSTOP)
	}
	fmt.Println(pid)
	unix.Kill(os.Getpid(), unix.SIGKILL)
}

// pid is the child's, or 0.
func (b *Backend) pid() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.child == nil {
		return 0
	}
	return b.child.pid
}

// holdsChild reports whether there is a child that is not known to have ended.
func (b *Backend) holdsChild() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.child.alive()
}

// base is the *Backend in whatever Open returned.
func base(b backends.Backend) *Backend {
	switch b := b.(type) {
	case *Backend:
		return b
	case interface{ base() *Backend }:
		return b.base()
	}
	panic(fmt.Sprintf("%T", b))
}

func (b *Backend) base() *Backend { return b }

// open opens cfg, and closes it when the test ends.
func open(t *testing.T, cfg Config) backends.Backend {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "test"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	b, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil && !errors.Is(err, backends.ErrUnavailable) {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

// gone waits for the end of a process that is not ours to wait for.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(state), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d does not end: %s", pid, state)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// pair is two ends of a connection.
func pair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	return ends[0], ends[1]
}

var _ io.Closer = (*Backend)(nil)
