package socket

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// adminLock stops signing and has the devices log out. When it returns, no signature that was
// not out before can come out.
func adminLock(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.Lock
	if err := c.object(&params); err != nil {
		return nil, err
	}
	lockErr := s.Lock()
	_, round := s.lastLock()
	patience := lockPatience
	if params.Wait {
		patience = s.limits.RequestTimeout
		if err := s.signing.Close(ctx); err != nil {
			lockErr = errors.Join(lockErr, fmt.Errorf("locked, but what was being signed is not finished: %w", err))
		}
	}
	states, err := round.wait(ctx, patience)
	_, recErr := s.done(ctx, c, audit.AgentLocked, states)
	if err := errors.Join(lockErr, err, recErr); err != nil {
		return nil, err
	}
	return api.Locked{OK: true, Backends: states}, nil
}

// lockPatience is how long a lock that need not wait gives the devices to log out.
const lockPatience = time.Second

// logout is a lock's log-out from every device that takes a PIN. Devices that are busy go on after the lock has been
// answered.
type logout struct {
	devices []*deviceLogout // by name
}

type deviceLogout struct {
	name string
	done chan struct{} // closed when err is final
	err  error
}

// Lock locks the agent until admin_unlock: no signature is released any more, and the devices log out as soon as their
// calls have ended, which it does not wait for. It takes effect even if the error says that the lock is not durable.
func (s *Server) Lock() error {
	s.signing.Shut()
	s.lockMu.Lock()
	defer s.lockMu.Unlock()
	err := s.Signer.Lock()
	s.Now().beginLogoutLocked()
	return err
}

// beginLogoutLocked has every device forget its PIN and log out. The caller holds lockMu.
func (s *Server) beginLogoutLocked() {
	round := &logout{}
	unlockers := s.unlockers()
	for _, name := range slices.Sorted(maps.Keys(unlockers)) {
		d := &deviceLogout{name: name, done: make(chan struct{})}
		round.devices = append(round.devices, d)
		go func() {
			defer close(d.done)
			if d.err = unlockers[name].Lock(s.base); d.err != nil {
				s.log.Error("the agent is locked, but a backend may not be logged out", "backend", name, "error", d.err)
			}
		}()
	}
	s.logout = round
}

// lastLock returns the version of the last lock, for [session.Signer.Unlock], and its log-out; nil if there was no
// lock.
func (s *Server) lastLock() (version uint64, round *logout) {
	s.lockMu.Lock()
	defer s.lockMu.Unlock()
	return s.Signer.LockVersion(), s.logout
}

// wait says within the time given how each device is: [api.LoggedOut], or [api.Busy] if it logs out
// when its call ends. The error names the devices whose log-out failed.
func (r *logout) wait(ctx context.Context, patience time.Duration) (states map[string]string, failed error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	states = make(map[string]string)
	for _, d := range r.devices {
		select {
		case <-d.done:
		case <-ctx.Done():
		}
		select {
		case <-d.done:
			states[d.name] = api.LoggedOut
			if d.err != nil {
				states[d.name] = d.err.Error()
				failed = errors.Join(failed, fmt.Errorf("locked, but backend %q may not be: %w", d.name, d.err))
			}
		default:
			states[d.name] = api.Busy
		}
	}
	return states, failed
}

// over waits until the log-out has ended on each device. A nil logout has.
func (r *logout) over(ctx context.Context) error {
	if r == nil {
		return nil
	}
	for _, d := range r.devices {
		select {
		case <-d.done:
		case <-ctx.Done():
			return fmt.Errorf("%w: backend %q still logs out; unlock it when its call has ended", backends.ErrBusy, d.name)
		}
	}
	return nil
}

// adminUnlock gives devices their PINs. The agent's own lock ends only if the request is not about one of several
// devices. It ends even if a device fails, which the error names.
func adminUnlock(s *Server, ctx context.Context, c *call) (any, error) {
	defer clear(c.param(0)) // it may hold a PIN
	var params api.Unlock
	if err := c.object(&params); err != nil {
		return nil, err
	}
	defer clear(params.PIN)
	pin, err := decodePIN(params.PIN)
	if err != nil {
		return nil, err
	}
	defer clear(pin)
	if params.AdminPIN {
		return s.keepAdminPIN(ctx, c, params.Backend, pin)
	}
	unlockers, err := s.unlockersFor(&params)
	if err != nil {
		return nil, err
	}
	if params.Agent {
		unlockers = nil // the operator has given each device its PIN before
	}
	version, round := s.lastLock()
	if err := round.over(ctx); err != nil { // else it would log out a device after its unlock
		return nil, err
	}
	unlocked, failed := unlockAll(ctx, unlockers, pin)
	if s.Signer.LockVersion() != version {
		return nil, s.lockedAgain()
	}
	all := params.Backend == "" || len(s.Backends) == 1
	if failed != nil && (params.Backend != "" || pin != nil) {
		return nil, failed // which names the backend; a wrong PIN ends no lock
	}
	record := func() error {
		_, err := s.done(ctx, c, audit.AgentUnlocked, map[string]any{"backends": unlocked, "agent": all})
		return err
	}
	if !all {
		return api.Done{OK: true}, record()
	}
	if err := s.Signer.Unlock(version, record); err != nil {
		return nil, errors.Join(err, failed)
	}
	s.signing.Open()
	if failed != nil {
		return nil, fmt.Errorf("the agent is unlocked, but not every backend: %w", failed)
	}
	return api.Done{OK: true}, nil
}

// lockedAgain is for an unlock during which the agent was locked. The lock wins: what the unlock logged in after the
// lock's own log-out is logged out.
func (s *Server) lockedAgain() error {
	s.lockMu.Lock()
	defer s.lockMu.Unlock()
	s.Now().beginLogoutLocked()
	return session.ErrLockedAgain
}

// unlockAll unlocks each backend, and goes on after one that fails.
func unlockAll(ctx context.Context, all map[string]backends.Unlocker, pin []byte) (unlocked []string, failed error) {
	unlocked = []string{}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if err := all[name].Unlock(ctx, pin); err != nil {
			failed = errors.Join(failed, err) // which names the backend
			continue
		}
		unlocked = append(unlocked, name)
	}
	return unlocked, failed
}

// ifNewer says why a backend may be missing that is in the configuration.
const ifNewer = "; if it was configured since the agent read its configuration, type keyward reload"

// keepAdminPIN gives a backend its admin PIN. No device is shown it yet, and nothing is unlocked.
func (s *Server) keepAdminPIN(ctx context.Context, c *call, backend string, pin []byte) (any, error) {
	unlocker, ok := s.Backends[backend].Backend.(backends.AdminUnlocker)
	if !ok {
		return nil, badParam("backend", "the agent has no backend %q with an admin PIN%s%s", shorten(backend), ifNewer,
			suggest.DidYouMean(shorten(backend), namesOf[backends.AdminUnlocker](s.Backends)))
	}
	if pin == nil {
		return nil, badParam("pin", "the admin PIN is missing")
	}
	if err := unlocker.UnlockAdmin(ctx, pin); err != nil {
		return nil, err // which names the backend
	}
	return s.done(ctx, c, audit.AdminPINGiven, map[string]any{"backend": backend})
}

// namesOf are the names of those backends that are a T, in order.
func namesOf[T any](all map[string]Backend) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if _, ok := all[name].Backend.(T); ok {
			names = append(names, name)
		}
	}
	return names
}

// unlockers are the backends that have a PIN.
func (s *Server) unlockers() map[string]backends.Unlocker {
	found := make(map[string]backends.Unlocker)
	for name, backend := range s.Backends {
		if unlocker, ok := backend.Backend.(backends.Unlocker); ok {
			found[name] = unlocker
		}
	}
	return found
}

// unlockersFor are those that the request means. A PIN is for one: tried on several, it
// would cost the others a try.
func (s *Server) unlockersFor(params *api.Unlock) (map[string]backends.Unlocker, error) {
	all := s.unlockers()
	if params.Agent && (params.Backend != "" || params.PIN != nil) {
		return nil, badParam("agent", "it ends the agent's own lock: give it without backend and pin")
	}
	if params.Backend == "" {
		if params.PIN != nil && len(all) != 1 {
			return nil, badParam("backend", "%d backends have a PIN, %s: say which one this is for", len(all),
				strings.Join(namesOf[backends.Unlocker](s.Backends), " and "))
		}
		return all, nil
	}
	unlocker, ok := all[params.Backend]
	if !ok {
		return nil, badParam("backend", "the agent has no backend %q with a PIN%s%s", shorten(params.Backend), ifNewer,
			suggest.DidYouMean(shorten(params.Backend), namesOf[backends.Unlocker](s.Backends)))
	}
	return map[string]backends.Unlocker{params.Backend: unlocker}, nil
}

// decodePIN reads a JSON string into bytes that can be wiped, nil for none. The usual PIN, which needs
// no escapes, never becomes a Go string.
func decodePIN(value json.RawMessage) ([]byte, error) {
	if value == nil {
		return nil, nil
	}
	value = bytes.TrimRight(value, " \t\r\n") // a space would become a part of the PIN, and cost a try
	switch {
	case len(value) < 3 || value[0] != '"':
		return nil, badParam("pin", "want a string that is not empty")
	case bytes.IndexByte(value, '\\') < 0:
		return bytes.Clone(value[1 : len(value)-1]), nil
	}
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return nil, badParam("pin", "want a string")
	}
	return []byte(text), nil
}
