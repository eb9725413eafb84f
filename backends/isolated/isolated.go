// Package isolated runs a backend in a child process.
//
// Libraries for smart cards and HSMs hang, leak handles and crash, and a C call can't be
// interrupted. So keyward runs itself again, with one hidden argument, and the child serves
// one backend over a socket pair that only these two processes have. When the child does
// not answer in time, dies, or talks garbage, it is killed: calls under way fail with
// [backends.ErrUnavailable], and the next call starts a new child.
//
// # What crosses
//
// The configuration, calls and their results go over the socket pair, nothing by arguments or
// the environment. Errors keep their sentinels. See wire.go for the format.
//
// # PINs
//
// The PIN and the memory of refused ones stay with the parent, in a [secret.Keeper], which
// outlives any child. The child asks for each single try, telling the retry counter, and then
// says what became of it. A child that dies in between leaves the try in doubt, and
// the Keeper judges it by the counter. So no crash or restart makes a refused PIN be tried twice.
package isolated

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/internal/secret"
)

// Config says which backend to run.
type Config struct {
	Name     string // in errors and logs
	Type     string // one of those given to [Serve]
	Settings any    // for its [Opener]; JSON, without secrets
	// Subject names what may crash or hang, in errors and logs: "the PKCS#11 module /usr/lib/x.so".
	// "": "the process that talks to the device".
	Subject string
	// Unlocks says that the backend is a [backends.Unlocker], no [backends.Attester], and no [backends.Waiter]. Then Open
	// succeeds although the first child crashes or hangs, and a later call starts another one.
	Unlocks bool
	// Rewraps says that a backend that Unlocks is a [backends.Rewrapper].
	Rewraps bool
	// PINs has the PIN for a backend that asks for it. Nil: Unlock hands PINs on to the backend.
	PINs *secret.Keeper
	// AdminPINs has the PIN for generating and destroying keys. With one, the backend has to be a [backends.Unlocker] and
	// no [backends.Attester]; it becomes a [backends.AdminUnlocker].
	AdminPINs *secret.Keeper

	Timeout time.Duration // of one call, starting the child included; 0: 10 s
	Grace   time.Duration // after its timeout, until a child that has not answered is killed; 0: 2 s
	// Command runs the child; nil: this very program, even if its file was replaced meanwhile, with [Arg].
	Command []string
	HideEnv []string       // environment variables that the child does not get
	Confine *confine.Rules // what the child may do, before it opens its backend; nil: all that this process may
	Logger  *slog.Logger   // nil: nothing is logged
}

// Arg is the only argument of the child process.
const Arg = "__backend"

// Backend is the parent's side. It also is a [backends.Unlocker] or a [backends.Attester] if
// what it runs is; see [Open].
type Backend struct {
	cfg Config
	log *slog.Logger

	concurrency int  // of the first child's backend; 0: it says nothing of it
	counts      bool // the first child's backend is a [backends.Counter]

	life  context.Context // done when Close begins
	end   context.CancelFunc
	calls sync.WaitGroup // in flight

	mu       sync.Mutex // never held across a call or a wait
	closing  bool
	child    *child    // the newest; nil: none
	starting *starting // under way; nil: none
	failures int       // children in a row that were of no use
	retryAt  time.Time // no child is started before
	crashes  crashes
}

// starting is one go at starting a child, shared by all who need it.
type starting struct {
	done  chan struct{} // closed at the end
	child *child        // valid then
	err   error
}

// Children that are of no use are spaced by a delay that doubles from the first to the
// second of these, a quarter more or less.
const (
	minRetryDelay = 50 * time.Millisecond
	maxRetryDelay = 800 * time.Millisecond
)

var (
	_ backends.Backend       = (*Backend)(nil)
	_ backends.Lister        = (*Backend)(nil)
	_ backends.Limited       = (*Backend)(nil)
	_ backends.Prober        = (*Backend)(nil)
	_ backends.Counter       = (*Backend)(nil)
	_ backends.Waiter        = waiter{}
	_ backends.Unlocker      = unlocker{}
	_ backends.AdminUnlocker = adminUnlocker{}
	_ backends.Attester      = attester{}
	_ backends.Rewrapper     = rewrapper{}
)

// Open starts the child and opens its backend, which has to be a [backends.Lister] and a
// [backends.Prober]. What Open returns is a [backends.Unlocker] and a [backends.Attester]
// exactly if the child's is. An error means that the configuration is wrong.
func Open(ctx context.Context, cfg Config) (backends.Backend, error) {
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	if cfg.Grace == 0 {
		cfg.Grace = 2 * time.Second
	}
	if cfg.Subject == "" {
		cfg.Subject = "the process that talks to the device"
	}
	if cfg.Command == nil {
		cfg.Command = []string{"/proc/self/exe", Arg}
	}
	b := &Backend{cfg: cfg, log: cfg.Logger}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.log = b.log.With("backend", cfg.Name)
	b.life, b.end = context.WithCancel(context.Background())
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	var can abilities
	c, err := b.running(ctx)
	switch {
	case err == nil:
		can, b.concurrency, b.counts = c.abil, c.abil.Concurrency, c.abil.Count
	case cfg.Unlocks && !refused(err):
		b.log.Warn("not ready", "error", err)
	default:
		return nil, errors.Join(b.wrap("starting", err), b.Close())
	}
	switch {
	case cfg.AdminPINs != nil && (!can.Unlock || can.Attest): // no backend is so
		return nil, errors.Join(b.wrap("starting", errors.New("it has no use for an admin PIN")), b.Close())
	case cfg.AdminPINs != nil:
		return struct {
			*Backend
			waiter
			unlocker
			adminUnlocker
		}{b, waiter{b}, unlocker{b}, adminUnlocker{b}}, nil
	case cfg.Unlocks && cfg.Rewraps:
		return struct {
			*Backend
			unlocker
			rewrapper
		}{b, unlocker{b}, rewrapper{b}}, nil
	case cfg.Unlocks:
		return struct {
			*Backend
			unlocker
		}{b, unlocker{b}}, nil
	case can.Unlock && can.Attest:
		return struct {
			*Backend
			waiter
			unlocker
			attester
		}{b, waiter{b}, unlocker{b}, attester{b}}, nil
	case can.Unlock:
		return struct {
			*Backend
			waiter
			unlocker
		}{b, waiter{b}, unlocker{b}}, nil
	case can.Attest:
		return struct {
			*Backend
			waiter
			attester
		}{b, waiter{b}, attester{b}}, nil
	}
	return struct {
		*Backend
		waiter
	}{b, waiter{b}}, nil
}

// wrap says which backend failed at what, if the child's backend has not said it: those of this agent begin their
// errors with their type and name.
func (b *Backend) wrap(what string, err error) error {
	var remote *remoteError
	if errors.As(err, &remote) && strings.HasPrefix(remote.text, b.cfg.Type+" "+b.cfg.Name+": ") {
		return err
	}
	return fmt.Errorf("%s: %s: %w", b.cfg.Name, what, err)
}

// refused reports whether the child answered with err, rather than died or was late.
func refused(err error) bool {
	var remote *remoteError
	return errors.As(err, &remote)
}

// unavailable makes err retryable. An error that the child's backend returned stays as it is.
func unavailable(err error) error {
	if refused(err) || errors.Is(err, backends.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
}

var errClosed = fmt.Errorf("%w: closed", backends.ErrUnavailable)

// do makes one call of the child. in is wiped. The result is decoded into out as JSON, unless that is nil or a *[]byte,
// which gets it as it is.
func (b *Backend) do(ctx context.Context, o op, in []byte, out any) error {
	defer clear(in)
	if err := b.begin(); err != nil {
		return backends.NotSigned(err)
	}
	defer b.calls.Done()
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	defer cancel()
	if ctx.Err() != nil {
		return backends.NotSigned(unavailable(fmt.Errorf("not begun: %w", context.Cause(ctx))))
	}
	c, err := b.running(ctx)
	if err != nil {
		return backends.NotSigned(unavailable(err))
	}
	stop := c.waiting.follow(backends.Waiting(ctx))
	// A copy, which is wiped when it is written: in is the caller's, who does not wait for that.
	body, err := c.conn.call(ctx, o, bytes.Clone(in), b.cfg.Grace)
	what := stop()
	if err != nil && what != "" && errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w (%s): %w", backends.ErrNotTouched, what, err)
	}
	if err != nil {
		return unavailable(c.explain(ctx, err))
	}
	if o != opStatus {
		c.useful.Store(true)
	}
	switch out := out.(type) {
	case nil:
		return nil
	case *[]byte:
		*out = body
		return nil
	}
	if err := unmarshal(body, out); err != nil {
		c.conn.fail(err)
		return unavailable(err)
	}
	return nil
}

func (b *Backend) begin() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return errClosed
	}
	b.calls.Add(1)
	return nil
}

// running returns the child, having started one if there was none.
func (b *Backend) running(ctx context.Context) (*child, error) {
	b.mu.Lock()
	if b.child.alive() {
		defer b.mu.Unlock()
		return b.child, nil
	}
	s := b.starting
	if s == nil {
		b.noteDeathLocked()
		s = b.startLocked()
	}
	b.mu.Unlock()
	select {
	case <-s.done:
		return s.child, s.err
	case <-ctx.Done():
		return nil, fmt.Errorf("starting %s: %w", b.cfg.Subject, context.Cause(ctx))
	}
}

// noteDeathLocked takes in the end of a child, once. b.mu is held.
func (b *Backend) noteDeathLocked() {
	if b.child == nil || b.child.noted {
		return
	}
	b.child.noted = true
	if b.child.useful.Load() {
		b.failures = 0
		return
	}
	b.backOffLocked()
}

// backOffLocked puts the next start off. b.mu is held.
func (b *Backend) backOffLocked() {
	delay := min(minRetryDelay<<min(b.failures, 10), maxRetryDelay)
	delay += time.Duration((rand.Float64() - 0.5) / 2 * float64(delay))
	b.failures, b.retryAt = b.failures+1, time.Now().Add(delay)
}

// startLocked starts a child when the one before is gone, and its time has come. b.mu is held.
func (b *Backend) startLocked() *starting {
	s, old, wait := &starting{done: make(chan struct{})}, b.child, time.Until(b.retryAt)
	b.starting = s
	b.calls.Add(1)
	go func() {
		defer b.calls.Done()
		ctx, cancel := context.WithTimeout(b.life, b.cfg.Timeout)
		defer cancel()
		select {
		case <-time.After(wait):
			s.child, s.err = b.start(ctx, old)
		case <-ctx.Done():
			s.err = ctx.Err()
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.starting = nil
		if s.err != nil {
			b.backOffLocked()
		} else {
			b.child = s.child
		}
		close(s.done)
	}()
	return s
}

// Close waits for calls in flight, then ends the child, which closes its backend before.
// Calls after Close give [backends.ErrUnavailable]. A child that hangs is ended all the same, and the log says so.
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.calls.Wait() // each ends within Timeout
	b.end()
	b.mu.Lock()
	c := b.child
	b.child = nil
	b.mu.Unlock()
	if c == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.Timeout)
	defer cancel()
	var err error
	if c.alive() {
		_, err = c.conn.call(ctx, opClose, nil, b.cfg.Grace)
	}
	c.conn.fail(errClosed)
	<-c.exited
	if err != nil { // no failure of the caller's: the process has ended, and all that it had of the device with it
		b.log.Warn("the device was not closed before its process ended", "error", err)
	}
	return nil
}
