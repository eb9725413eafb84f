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
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// probeTimeout is how long a backend may take to say how it is.
const probeTimeout = 5 * time.Second

// deviceMethods concern keys and the devices that hold them.
func deviceMethods() []Method {
	return []Method{{
		Name: "admin_keys", Summary: "Keys in the devices, and the sessions they belong to",
		Params: []Param{{"request", false, "KeysRequest", "backend: of this one only"}},
		Result: Result{"keys", "Keys", "also those of sessions whose device can't list its keys"},
		Errors: []int{api.CodeUnavailable}, do: adminKeys,
	}, {
		Name: "admin_attest", Summary: "What a device states on how a session's key came about",
		Params: []Param{{"request", true, "Attest", "key: a session's ID or signer, or its key's URI"}},
		Result: Result{"attestation", "Attestation", "a sealed key's is that of the device key that it is sealed to"},
		Errors: []int{api.CodeUnavailable}, do: adminAttest,
	}, {
		Name: "admin_backends", Summary: "The configured backends and how they are",
		Result: Result{"backends", "Backends", ""}, do: adminBackends,
	}, {
		Name: "admin_checkBackend", Summary: "Have a backend make a throw-away key, find it, sign and destroy it",
		Params: []Param{{"request", true, "CheckBackend", "backend: its name in the configuration"}},
		Result: Result{"test", "BackendCheck", "what failed is in the steps"}, Errors: []int{api.CodeUnavailable}, signs: true, do: adminCheckBackend,
	}, {
		Name: "admin_lock", Summary: "Stop signing, and have the devices forget their PINs",
		Result: Result{"done", "Done", "once the last signature is out"}, Errors: []int{api.CodeUnavailable}, do: adminLock,
	}, {
		Name: "admin_unlock", Summary: "Sign again; give devices their PINs",
		Params: []Param{{"request", false, "Unlock", "pin is tried once; without it the configured source is asked. With adminPin it waits for the next key that is made or destroyed, and nothing is unlocked"}},
		Result: Result{"done", "Done", ""}, Errors: []int{api.CodeUnavailable}, do: adminUnlock,
	}}
}

func adminBackends(s *Server, ctx context.Context, _ *call) (any, error) {
	return s.backendStates(ctx), nil
}

// backendStates asks all backends at once how they are, so that a dead one does not add its time-out
// to that of another. They are in order of their names.
func (s *Server) backendStates(ctx context.Context) []api.Backend {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	names := slices.Sorted(maps.Keys(s.Backends))
	states := make([]api.Backend, len(names))
	var probes sync.WaitGroup
	for i, name := range names {
		backend := s.Backends[name]
		states[i] = api.Backend{Name: name, Type: backend.Type, State: "ready", Protection: string(backend.Protection), Can: abilities(backend.Backend)}
		if prober, ok := backend.Backend.(backends.Prober); ok {
			probes.Go(func() {
				status := prober.Status(ctx)
				states[i].State, states[i].Detail = status.State, status.Detail
			})
		}
	}
	probes.Wait()
	return states
}

// abilities are what only some backends can.
func abilities(b backends.Backend) (can []string) {
	if _, ok := b.(backends.Lister); ok {
		can = append(can, "list")
	}
	if _, ok := b.(backends.Unlocker); ok {
		can = append(can, "pin")
	}
	if _, ok := b.(backends.Attester); ok {
		can = append(can, "attest")
	}
	if _, ok := b.(backends.Waiter); ok {
		can = append(can, "touch")
	}
	return can
}

// adminCheckBackend is refused while the agent is locked: it would have the device sign.
func adminCheckBackend(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.CheckBackend
	if err := c.object(&params); err != nil {
		return nil, err
	}
	if s.Signer.Locked() {
		return nil, session.ErrLocked
	}
	test, err := s.Signer.Sessions.SelfTest(ctx, c.peer, params.Backend)
	if err != nil {
		return nil, err
	}
	shown := &api.BackendCheck{Backend: test.Backend, OK: test.OK(), Protection: string(test.Protection), KeyURI: test.KeyURI}
	for _, step := range test.Steps {
		shown.Steps = append(shown.Steps, api.BackendCheckStep{Name: step.Name, Millis: float64(step.Took.Microseconds()) / 1000, Error: step.Error})
	}
	return shown, nil
}

func adminKeys(s *Server, ctx context.Context, c *call) (any, error) {
	var params api.Keys
	if err := c.object(&params); err != nil {
		return nil, err
	}
	names, err := s.backendNames(params.Backend)
	if err != nil {
		return nil, err
	}
	keys := []api.Key{}
	for _, name := range names {
		listed, err := s.keysOf(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("listing the keys of backend %q: %w", name, err)
		}
		keys = append(keys, listed...)
	}
	return keys, nil
}

// backendNames is the one that was asked for, or all, in order.
func (s *Server) backendNames(name string) ([]string, error) {
	if name == "" {
		return slices.Sorted(maps.Keys(s.Backends)), nil
	}
	if _, ok := s.Backends[name]; !ok {
		return nil, badParam("backend", "no backend %q in the configuration%s", shorten(name), suggest.DidYouMean(shorten(name), slices.Sorted(maps.Keys(s.Backends))))
	}
	return []string{name}, nil
}

// keysOf lists a backend's keys: those of sessions, then those that no session has.
func (s *Server) keysOf(ctx context.Context, backend string) ([]api.Key, error) {
	var keys []api.Key
	known := make(map[string]bool) // by URI
	for _, sess := range s.Signer.Sessions.List() {
		if sess.Backend != backend || !sess.KeyDestroyedAt.IsZero() {
			continue
		}
		known[sess.KeyURI] = true
		keys = append(keys, api.Key{
			Backend: backend, URI: sess.KeyURI, Signer: sess.Signer(), Protection: string(sess.Protection),
			Session: string(sess.ID), Status: string(sess.Status),
		})
	}
	lister, ok := s.Backends[backend].Backend.(backends.Lister)
	if !ok {
		return keys, nil
	}
	listed, err := lister.Keys(ctx, session.KeyLabelPrefix)
	if err != nil {
		return nil, err
	}
	for _, l := range listed {
		if !known[l.Key.URI()] {
			keys = append(keys, api.Key{
				Backend: backend, URI: l.Key.URI(), Protection: string(l.Key.Protection()),
				Signer: policy.Address(crypto.PubkeyToAddress(*l.Key.Public())),
			})
		}
	}
	return keys, nil
}

// adminLock stops signing at once, then waits for what is under way, then has the devices
// log out. When it returns, no signature that was not out before can come out.
func adminLock(s *Server, ctx context.Context, c *call) (any, error) {
	s.Signer.SetLocked(true)
	if err := s.signing.Close(ctx); err != nil {
		return nil, fmt.Errorf("locked, but what was being signed is not finished: %w", err)
	}
	var failed error
	for name, unlocker := range s.unlockers() {
		if err := unlocker.Lock(ctx); err != nil {
			failed = errors.Join(failed, fmt.Errorf("locked, but backend %q may not be: %w", name, err))
		}
	}
	result, err := s.done(ctx, c, audit.AgentLocked, nil)
	if err := errors.Join(failed, err); err != nil {
		return nil, err
	}
	return result, nil
}

// adminUnlock unlocks the devices first: as long as one of them refuses, nothing changes.
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
	for _, unlocker := range unlockers {
		if err := unlocker.Unlock(ctx, pin); err != nil {
			return nil, err // which names the backend
		}
	}
	detail := map[string]any{"backends": slices.Sorted(maps.Keys(unlockers))}
	result, err := s.done(ctx, c, audit.AgentUnlocked, detail)
	if err != nil {
		return nil, err
	}
	s.Signer.SetLocked(false)
	s.signing.Open()
	return result, nil
}

// ifNewer says why a backend may be missing that is in the configuration.
const ifNewer = "; if it was configured since the agent started, start the agent anew"

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
	if params.Backend == "" {
		if params.PIN != nil && len(all) != 1 {
			return nil, badParam("backend", "%d backends have a PIN, %s: say which one this is for", len(all), strings.Join(namesOf[backends.Unlocker](s.Backends), " and "))
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
	switch {
	case value == nil:
		return nil, nil
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
