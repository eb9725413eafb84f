package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// conn is one connection to the token: what holds from one C_Initialize to the next.
type conn struct {
	mod    *module
	slotID uint
	slot   string // its description
	info   p11.TokenInfo
	keys   *index
	held   held // of wrapped keys
}

// trigger says who wants a login.
type trigger int

const (
	automatic trigger = iota // the agent: never with tries running low
	operator                 // a person, who may risk a try
	observer                 // Status, which logs in nowhere
)

// errSeen is the outcome of an observer's attempt: the token is there, and nobody logged in.
var errSeen = errors.New("it is present, and the next request logs in")

// attempt is one go at connecting, shared by all who need it.
type attempt struct {
	done chan struct{} // closed at the end
	err  error         // valid then
}

// Attempts that fail are spaced by a delay that doubles from the first to the
// second of these, a quarter more or less, so that a token that comes back is used
// within about a second.
const (
	minRetryDelay = 50 * time.Millisecond
	maxRetryDelay = 800 * time.Millisecond
)

// Several processes that open a SoftHSM token at the same moment can get
// CKR_GENERAL_ERROR, which is gone a moment later.
const (
	generalErrorTries = 5
	generalErrorDelay = 20 * time.Millisecond
)

// current returns the connection, or nil.
func (b *Backend) current() *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.conn
}

// dropIfLost forgets c, unless it was replaced already, if err says that it is lost.
func (b *Backend) dropIfLost(c *conn, err error) {
	if isLost(err) {
		b.drop(c, err)
	}
}

// drop forgets c, unless it was replaced already.
func (b *Backend) drop(c *conn, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn == c {
		b.conn = nil
		b.log.Warn("connection to the token is lost", "error", err)
	}
}

// connected returns once there is a connection, having made one if there was none.
func (b *Backend) connected(ctx context.Context) error {
	for {
		err := b.connectOnce(ctx, automatic)
		if !errors.Is(err, errSeen) { // else an observer's attempt was under way
			return err
		}
	}
}

// connectOnce is connected, or what the attempt that was under way or that it makes comes to.
func (b *Backend) connectOnce(ctx context.Context, by trigger) error {
	if ctx.Err() != nil {
		return gaveUp(ctx, "not begun")
	}
	b.mu.Lock()
	if b.closing {
		b.mu.Unlock()
		return errClosed
	}
	if b.conn != nil {
		b.mu.Unlock()
		return nil
	}
	a := b.attempt
	if a == nil {
		if err := b.mayAttemptLocked(); err != nil {
			b.mu.Unlock()
			return err
		}
		a = b.beginLocked(b.life, by)
	}
	b.mu.Unlock()
	return a.wait(ctx)
}

// mayAttemptLocked says why no automatic attempt is to be made now. b.mu is held.
func (b *Backend) mayAttemptLocked() error {
	if b.refused != nil {
		return b.refused
	}
	if time.Now().Before(b.retryAt) {
		return b.failure
	}
	return nil
}

// wait returns the attempt's outcome.
func (a *attempt) wait(ctx context.Context) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return gaveUp(ctx, "connecting to the token takes long")
	}
}

// waitAttempt returns when no attempt is under way.
func (b *Backend) waitAttempt(ctx context.Context) error {
	for {
		b.mu.Lock()
		a := b.attempt
		b.mu.Unlock()
		if a == nil {
			return nil
		}
		if err := a.wait(ctx); ctx.Err() != nil {
			return err
		}
	}
}

// beginLocked starts an attempt, which gives up when ctx is done or the Backend is closed.
// b.mu is held, there is no attempt, and the Backend is not closing. Close waits
// for the attempt.
func (b *Backend) beginLocked(ctx context.Context, by trigger) *attempt {
	a := &attempt{done: make(chan struct{})}
	b.attempt = a
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(b.life, cancel)
	go func() {
		defer cancel()
		defer stop()
		c, err := b.connect(ctx, by)
		b.mu.Lock()
		defer b.mu.Unlock()
		b.settleLocked(c, err)
		b.attempt, a.err = nil, err
		close(a.done)
	}()
	return a
}

// settleLocked takes in the outcome of an attempt. b.mu is held.
func (b *Backend) settleLocked(c *conn, err error) {
	if err == nil {
		b.conn, b.refused, b.failure, b.failures = c, nil, nil, 0
		b.log.Info("connected to the token", "token", c.describe())
		return
	}
	if errors.Is(err, errSeen) {
		b.failure, b.failures = nil, 0
		return
	}
	if needsOperator(err) {
		b.refused = err
	}
	delay := min(minRetryDelay<<min(b.failures, 10), maxRetryDelay)
	delay += time.Duration((rand.Float64() - 0.5) / 2 * float64(delay))
	b.failures, b.failure, b.retryAt = b.failures+1, err, time.Now().Add(delay)
}

// connect waits until nobody is in the module, and connects anew. Errors
// wrap ErrUnavailable, or one that needs the operator.
func (b *Backend) connect(ctx context.Context, by trigger) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, b.cfg.OpTimeout)
	defer cancel()
	refill, err := b.drain(ctx)
	if err != nil {
		return nil, err
	}
	defer refill()
	defer b.watch("connecting")()
	for try := 1; ; try++ {
		c, err := b.attach(ctx, by)
		if err == nil {
			return c, nil
		}
		if !errors.Is(err, p11.Error(p11.CKR_GENERAL_ERROR)) || try == generalErrorTries {
			return nil, unavailable(err)
		}
		select {
		case <-time.After(generalErrorDelay):
		case <-ctx.Done():
			return nil, unavailable(err)
		}
	}
}

// unavailable wraps err in ErrUnavailable, unless the operator is needed.
func unavailable(err error) error {
	if needsOperator(err) || errors.Is(err, errSeen) {
		return err
	}
	return fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
}

// attach initializes the module, finds the token, logs in and lists its keys. The
// caller holds all lanes, and with them the p11Sessions of before, which end here.
func (b *Backend) attach(ctx context.Context, by trigger) (*conn, error) {
	if err := b.mod.finalize(); err != nil {
		b.log.Warn("before connecting anew", "error", err)
	}
	if err := b.mod.initialize(); err != nil {
		return nil, err
	}
	c, err := findToken(b.mod, choice{b.cfg.TokenLabel, b.cfg.TokenSerial, b.cfg.Slot})
	if err != nil {
		return nil, err
	}
	s, err := b.mod.OpenSession(c.slotID, sessionFlags)
	if err != nil {
		return nil, fmt.Errorf("opening a p11Session: %w", err)
	}
	b.mod.base = &s
	if by == observer && c.info.Flags&p11.CKF_LOGIN_REQUIRED != 0 {
		if err := mayTryPIN(c.info.Flags, automatic); err != nil {
			return nil, fmt.Errorf("%s: %w", c.describe(), err)
		}
		return nil, fmt.Errorf("%s: %w", c.describe(), errSeen)
	}
	if err := b.login(ctx, c, s, by); err != nil {
		return nil, err
	}
	if err := c.load(s); err != nil {
		return nil, err
	}
	return c, nil
}
