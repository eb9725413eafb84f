// Package pkcs11 keeps secp256k1 keys in a PKCS#11 token (PKCS #11 v2.40).
//
// # Calls, lanes and time
//
// A C_ function can't be interrupted, and may hang for as long as the device does. Every
// call is therefore made by a goroutine that holds a lane, one of a fixed number, each
// with a p11Session of its own. Who asked for the call waits for it, or leaves
// when its context is done; the call then goes on, and its lane with it.
//
// Holding all lanes means that nobody is in the module. That alone is when it
// is finalized, initialized, logged in to or logged out of: modules crash when that
// happens beside a call. No mutex is held across a call.
//
// # Connections
//
// A conn is what was learned since the last C_Initialize and C_Login: the slot, the
// handles of all keys. When a call fails in a way that says the device is gone, the conn
// is dropped; the next who needs it starts one attempt to connect again, all others wait
// for that one, and each repeats its own call once. Failed attempts are spaced out.
//
// # PINs
//
// The token's flags are read before each login, and the last try is never spent. A PIN
// that the token refused is not tried again until [Backend.Unlock].
package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// Config says which token to use, and how.
type Config struct {
	Name   string // in errors and logs
	Module string // absolute path of the shared library
	// Env is set in the process's environment before the module is loaded: SOFTHSM2_CONF
	// and the like. Two backends can't set one variable to different values.
	Env map[string]string

	// At least one; all that are given must match. Slot numbers move, so there is none here.
	TokenLabel  string
	TokenSerial string
	Slot        string // the slot's description, for a token that has no name of its own; or AnySlot

	// PINs has the user PIN for each login, and the rules for trying it. If it is a [secret.Keeper], Unlock gives it the
	// operator's PIN and Lock locks it; else the process that has the Keeper does. Nil: a Keeper of PIN.
	PINs secret.PINs
	PIN  secret.Source // nil: the token stays locked until Unlock brings the PIN

	Sessions  int           // p11Sessions, and so calls at a time; 0: 6
	OpTimeout time.Duration // of one operation, reconnecting included; 0: 10 s
	Logger    *slog.Logger  // nil: nothing is logged
	Locked    bool          // as Lock leaves it: no login and no PIN is fetched until Unlock

	// OnHang, if not nil, is told when the module has been busy with one operation for a second longer than OpTimeout. It
	// may be for ever: only the end of the process ends the call and gives back its p11Session.
	OnHang func(reason string)
}

const (
	defaultSessions  = 6
	defaultOpTimeout = 10 * time.Second
)

// errTokenAmbiguous is the one thing about a token, rather than about the
// configuration, that Open refuses: waiting does not help.
var errTokenAmbiguous = errors.New("more than one token matches")

// Backend is a PKCS#11 token.
type Backend struct {
	cfg    Config
	log    *slog.Logger
	mod    *module
	keeper *secret.Keeper // cfg.PINs, if it is one

	lanes    chan *lane    // free ones
	draining chan struct{} // holds one element while somebody takes all lanes

	health health

	life context.Context // done when Close begins
	end  context.CancelFunc

	mu       sync.Mutex // never held across a call into the module or a wait
	closing  bool
	conn     *conn     // nil: not connected
	attempt  *attempt  // under way; nil: none
	refused  error     // why no attempt is made until Unlock; nil: one may be made
	failures int       // attempts in a row that failed
	failure  error     // of the last of them
	retryAt  time.Time // no attempt before
}

var (
	_ backends.Backend  = (*Backend)(nil)
	_ backends.Lister   = (*Backend)(nil)
	_ backends.Limited  = (*Backend)(nil)
	_ backends.Unlocker = (*Backend)(nil)
	_ backends.Prober   = (*Backend)(nil)
)

// Open loads the module and tries to log in to the token. When the token is absent or its
// PIN is missing or wrong, Open succeeds all the same: the Backend says so in Status and in
// errors, and recovers by itself or with Unlock. An error means that the configuration
// is wrong: the module does not load, or several tokens match.
//
// A process can have one Backend for a module: initializing and finalizing
// are the module's, not a token's.
func Open(ctx context.Context, cfg Config) (*Backend, error) {
	if cfg.TokenLabel == "" && cfg.TokenSerial == "" && cfg.Slot == "" {
		return nil, fmt.Errorf("pkcs11 %s: neither a token label, a serial nor a slot is configured", cfg.Name)
	}
	if cfg.Sessions < 0 || cfg.OpTimeout < 0 {
		return nil, fmt.Errorf("pkcs11 %s: sessions and timeout can't be negative", cfg.Name)
	}
	cfg.Sessions = orDefault(cfg.Sessions, defaultSessions)
	cfg.OpTimeout = orDefault(cfg.OpTimeout, defaultOpTimeout)
	mod, err := acquireModule(cfg.Module, cfg.Env)
	if err != nil {
		return nil, fmt.Errorf("pkcs11 %s: %w", cfg.Name, err)
	}
	b := newBackend(cfg, mod)
	if cfg.TokenLabel == "" && cfg.TokenSerial == "" {
		b.log.Warn("the token is known by its slot alone: another token in it would be used as if it were this one", "slot",
			cfg.Slot)
	}
	if cfg.Locked {
		b.refused = errLockedByOperator
		return b, nil
	}
	if err := b.unlock(ctx, automatic); errors.Is(err, errTokenAmbiguous) {
		return nil, errors.Join(err, b.Close())
	} else if err != nil {
		b.log.Warn("token is not ready", "error", err)
	}
	return b, nil
}

func newBackend(cfg Config, mod *module) *Backend {
	b := &Backend{
		cfg: cfg, mod: mod, log: cfg.Logger,
		lanes:    make(chan *lane, cfg.Sessions),
		draining: make(chan struct{}, 1),
	}
	if b.cfg.PINs == nil {
		b.cfg.PINs = secret.NewKeeper(cfg.PIN, secret.UntilLock)
	}
	b.keeper, _ = b.cfg.PINs.(*secret.Keeper)
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	b.log = b.log.With("backend", cfg.Name)
	b.life, b.end = context.WithCancel(context.Background())
	for range cfg.Sessions {
		b.lanes <- &lane{}
	}
	return b
}

func orDefault[T int | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// Close waits for calls in flight, then logs out and finalizes the module. If a call hangs
// for longer than the operation timeout, the module is left as it is, since finalizing it
// would crash the process; the error says so, and Close may be called again. Calls
// after Close give [backends.ErrUnavailable].
func (b *Backend) Close() error {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.end()
	ctx, cancel := context.WithTimeout(context.Background(), b.cfg.OpTimeout)
	defer cancel()
	if err := b.shutdown(ctx); err != nil {
		return fmt.Errorf("pkcs11 %s: closing: %w", b.cfg.Name, err)
	}
	return nil
}

// shutdown releases the module, unless that was done.
func (b *Backend) shutdown(ctx context.Context) error {
	if err := b.waitAttempt(ctx); err != nil {
		return fmt.Errorf("the module hangs and was not finalized: %w", err)
	}
	refill, err := b.drain(ctx)
	if err != nil {
		return fmt.Errorf("a call hangs, so the module was not finalized: %w", err)
	}
	defer refill()
	defer b.watch("closing")()
	b.mu.Lock()
	b.conn = nil
	b.mu.Unlock()
	if b.mod.released {
		return nil
	}
	err = b.mod.finalize()
	if b.keeper != nil {
		err = errors.Join(err, b.keeper.Close())
	}
	b.mod.release()
	return err
}

// Status reports the token's state, having asked the token. One that fails to sign is not ready. It logs in nowhere: a
// token that is present and not logged in to is ready if there is a PIN to do so.
func (b *Backend) Status(ctx context.Context) backends.Status {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.OpTimeout)
	defer cancel()
	detail, err := b.ask(ctx)
	if isLost(err) || isStale(err) || errors.Is(err, errNotBegun) { // the connection is dropped: look again
		detail, err = b.ask(ctx)
	}
	if errors.Is(err, errSeen) {
		detail, err = err.Error(), b.cfg.PINs.Ready(ctx)
	}
	if err == nil {
		if err = b.health.failing(signing); err != nil {
			err = fmt.Errorf("%s answers, but the last signature failed: %w", detail, err)
		}
	}
	if err == nil {
		return backends.Status{State: "ready", Detail: detail}
	}
	return state(b.wrap("asking the token", err))
}

// ask asks the token that is connected, or looks whether there is one: that is errSeen.
func (b *Backend) ask(ctx context.Context) (detail string, err error) {
	if err := b.connectOnce(ctx, observer); err != nil {
		return "", err
	}
	return run(ctx, b, "asking the token", func(c *conn, s p11Session) (string, error) {
		return c.describe(), c.present(s)
	}, nil)
}

// state is that of a token of which err is all that is known.
func state(err error) backends.Status {
	if needsOperator(err) {
		return backends.Status{State: "locked", Detail: err.Error()}
	}
	return backends.Status{State: "unavailable", Detail: err.Error()}
}

// Concurrency is a signature for each lane, and as many that wait for one: no lane is idle while the next
// request is on its way.
func (b *Backend) Concurrency() int { return 2 * cap(b.lanes) }
