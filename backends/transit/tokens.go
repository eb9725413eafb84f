package transit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// token is what Vault knows the agent by.
type token struct {
	value     *secret.Buffer
	issued    time.Time
	life      time.Duration // from issued on; 0: it does not end
	renewable bool
	worked    atomic.Bool // Vault has accepted it
}

// expired reports whether the token's life is over.
func (t *token) expired() bool { return t.life > 0 && time.Since(t.issued) >= t.life }

// renewAt is when to renew the token; zero: never.
func (t *token) renewAt() time.Time {
	if !t.renewable || t.life == 0 {
		return time.Time{}
	}
	return t.issued.Add(t.life * 2 / 3)
}

const (
	// loginPause is how long a token that was never accepted has to be refused before it is replaced.
	loginPause = 10 * time.Second
	// firstRefusal is how long a credential that Vault refused is not tried again, doubled each time up to
	// lastRefusal: Vault locks a role after some refused logins (user lockout, 5 within 15 minutes by default).
	// Another credential is tried immediately.
	firstRefusal = 30 * time.Second
	lastRefusal  = 15 * time.Minute
)

// errRefusedBefore: Vault refused this credential a while ago, and it is not tried yet again.
var errRefusedBefore = errors.New("not tried again yet")

// tokens keeps the token of a client. It is safe for concurrent use.
type tokens struct {
	c    *client
	turn chan struct{} // holds one element during a login or a renewal

	life context.Context // done when close begins
	end  context.CancelFunc
	done sync.WaitGroup
	wake chan struct{} // tells the renewing goroutine of a new token

	mu  sync.Mutex
	now *token // nil: none

	// Of the credential that Vault refused last. Guarded by turn.
	refusedCredential *secret.Buffer
	refusedUntil      time.Time
	refusedFor        time.Duration
	refusedErr        error
}

// startTokens also starts the goroutine that renews the token; close ends it.
func startTokens(c *client) *tokens {
	t := &tokens{c: c, turn: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
	t.life, t.end = context.WithCancel(context.Background())
	t.done.Go(t.renewing)
	return t
}

// close wipes the token. No call is in flight.
func (t *tokens) close() error {
	t.end()
	t.done.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.refusedCredential.Close()
	if t.now != nil {
		err = errors.Join(err, t.now.value.Close())
		t.now = nil
	}
	return err
}

func (t *tokens) current() *token {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != nil && !t.now.expired() {
		return t.now
	}
	return nil
}

// get returns the token, having logged in if there is none.
func (t *tokens) get(ctx context.Context) (*token, error) {
	if now := t.current(); now != nil {
		return now, nil
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for a login to Vault: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	defer func() { <-t.turn }()
	if now := t.current(); now != nil {
		return now, nil
	}
	next, err := t.login(ctx)
	if err != nil {
		return nil, err
	}
	t.set(next)
	return next, nil
}

// set replaces the token.
func (t *tokens) set(next *token) {
	t.mu.Lock()
	old := t.now
	t.now = next
	t.mu.Unlock()
	if old != nil {
		_ = old.value.Close() // a request that still wants it goes out without one, is refused and made again
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// refused reports whether a call that Vault refused with that token is to be made again, with another one. It forgets
// the token, unless that is so new that a login would only give another of the same kind.
func (t *tokens) refused(with *token) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.now != with:
		return true
	case !with.worked.Load() && time.Since(with.issued) < loginPause:
		return false
	}
	t.now = nil
	_ = with.value.Close()
	return true
}

// login gets a token from its source. The caller has the turn.
func (t *tokens) login(ctx context.Context) (*token, error) {
	credential, err := t.c.cfg.Auth.Secret(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLogin, err)
	}
	if t.refusedErr != nil && time.Now().Before(t.refusedUntil) && t.refusedCredential.Equal(credential) {
		return nil, errors.Join(fmt.Errorf("%w: %w", errRefusedBefore, t.refusedErr), credential.Close())
	}
	next, err := t.c.cfg.Auth.login(ctx, t.c, credential)
	if !errors.Is(err, ErrLogin) {
		t.refusedErr = nil
		return next, err
	}
	if !t.refusedCredential.Equal(credential) {
		t.refusedFor = firstRefusal / 2
	}
	t.refusedFor = min(2*t.refusedFor, lastRefusal)
	t.refusedUntil, t.refusedErr = time.Now().Add(t.refusedFor), err
	err = errors.Join(err, t.refusedCredential.Close())
	t.refusedCredential = credential
	return nil, err
}

const (
	firstRenewPause = time.Second // between tries to renew, or to have a first token; doubled each time
	lastRenewPause  = 30 * time.Second
	renewTime       = 10 * time.Second // of one try
)

// renewing renews tokens until close. A token that is not the agent's own login is looked at from the start on: with no
// call for long, nobody else would renew it.
func (t *tokens) renewing() {
	first, pause := t.c.cfg.Auth.Method == "token", firstRenewPause
	for {
		wait := time.Duration(-1)
		if now := t.current(); now != nil && !now.renewAt().IsZero() {
			wait = max(time.Until(now.renewAt()), 0)
		} else if first {
			wait = 0
		}
		if !t.sleep(wait) {
			return
		}
		ctx, cancel := context.WithTimeout(t.life, renewTime)
		now := t.current()
		var err error
		switch {
		case now == nil && first:
			_, err = t.get(ctx)
		case now != nil && !now.renewAt().IsZero() && time.Until(now.renewAt()) <= 0:
			err = t.renew(ctx, now)
		}
		cancel()
		first = first && err != nil
		if err == nil {
			pause = firstRenewPause
			continue
		}
		t.c.log.Warn("the token of Vault is not renewed", "error", err, "again_in", pause)
		if !t.sleep(pause) {
			return
		}
		pause = min(2*pause, lastRenewPause)
	}
}

// sleep waits for that long, or until there is another token; negative: until then. It reports whether the client is
// still open.
func (t *tokens) sleep(d time.Duration) bool {
	var after <-chan time.Time
	if d >= 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		after = timer.C
	}
	select {
	case <-after:
	case <-t.wake:
	case <-t.life.Done():
	}
	return t.life.Err() == nil
}

// renew has Vault lengthen the token's life. A token that Vault refuses is forgotten: the next call logs in.
func (t *tokens) renew(ctx context.Context, now *token) error {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-t.turn }()
	var out struct{ Auth tokenAnswer }
	op := operation{method: http.MethodPost, path: "auth/token/renew-self", capability: "update"}
	if err := t.c.send(ctx, op, now.value, []byte("{}"), &out); err != nil {
		if e := new(answerError); errors.As(err, &e) && (e.status == http.StatusForbidden ||
			e.status == http.StatusBadRequest) {
			t.refused(now)
		}
		return t.c.explain(op, err)
	}
	value, err := now.value.Clone()
	if err != nil {
		return err // it was refused meanwhile
	}
	next := &token{value: value, issued: time.Now(), life: out.Auth.life(), renewable: out.Auth.Renewable}
	next.worked.Store(true)
	if next.life < t.c.cfg.Timeout { // its longest life is nearly over
		next.renewable = false
	}
	t.set(next)
	return nil
}
