package socket

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

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
		Name: "admin_rewrapKey", Summary: "Encrypt a key that is stored outside of its device with the device key of now",
		Params: []Param{{"request", true, "RewrapKey", "key: a session's ID or signer, or its key's URI"}},
		Result: Result{"key", "RewrappedKey", "rewrapped is false if that device key encrypts it already; after an error " +
			"the key is usable as before"},
		Errors: []int{api.CodeUnavailable}, do: adminRewrapKey,
	}, {
		Name: "admin_backends", Summary: "The configured backends and how they are",
		Result: Result{"backends", "Backends", ""}, do: adminBackends,
	}, {
		Name: "admin_checkBackend", Summary: "Have a backend make a throw-away key, find it, sign and destroy it",
		Params: []Param{{"request", true, "CheckBackend", "backend: its name in the configuration"}},
		Result: Result{"test", "BackendCheck", "what failed is in the steps"}, Errors: []int{api.CodeUnavailable},
		signs: true, do: adminCheckBackend,
	}, {
		Name: "admin_lock", Summary: "Stop signing until admin_unlock, also over a restart, and have the devices forget " +
			"their PINs",
		Params: []Param{{"request", false, "Lock", "wait: until the devices have logged out; else the answer comes within 2 s"}},
		Result: Result{"locked", "Locked", "no signature is released any more; backends: loggedOut, busy (logs out when " +
			"its call ends) or an error, by name"},
		Errors: []int{api.CodeUnavailable}, do: adminLock,
	}, {
		Name: "admin_unlock", Summary: "Sign again; give devices their PINs",
		Params: []Param{{"request", false, "Unlock", "pin is tried once; without it the configured source is asked. With " +
			"adminPin it waits for the next key that is made or destroyed, and nothing is unlocked. The agent's own lock " +
			"ends without backend, or with its only one, even if a device fails; agent: ends it and touches no device"}},
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
	counts := s.Signer.Sessions.DeviceCounts()
	var probes sync.WaitGroup
	for i, name := range names {
		backend := s.Backends[name]
		states[i] = api.Backend{Name: name, Type: backend.Type, State: "ready", Protection: string(backend.Protection),
			Can: abilities(backend.Backend), Foreign: counts[name].Foreign, WentBack: counts[name].WentBack}
		if prober, ok := backend.Backend.(backends.Prober); ok {
			probes.Go(func() {
				status := prober.Status(ctx)
				states[i].State, states[i].Detail = status.State, status.Detail
				if backend.Type == cardType && status.State == "ready" {
					s.stateLost(ctx, &states[i])
				}
			})
		}
	}
	probes.Wait()
	return states
}

// A card has slots for two keys, which other programs can overwrite. So each key of a session is looked for, as a
// signature would.
const (
	cardType     = "openpgp"
	lostPatience = 2 * time.Second // with a card that is in use
)

// stateLost makes the state of a card that is ready unavailable if a session's key is not on it any more.
func (s *Server) stateLost(ctx context.Context, state *api.Backend) {
	ctx, cancel := context.WithTimeout(ctx, lostPatience)
	defer cancel()
	for _, sess := range s.Signer.Sessions.List() {
		if sess.Backend != state.Name || sess.Status.Ended() {
			continue
		}
		if _, err := s.Backends[state.Name].Backend.Key(ctx, sess.KeyURI); errors.Is(err, backends.ErrKeyNotFound) {
			state.State = "unavailable"
			state.Detail = fmt.Sprintf("the key of session %s is lost: the card does not have it any more; revoke the "+
				"session on chain; %s", sess.ID, state.Detail)
		}
	}
}

// abilities are what only some backends can.
func abilities(b backends.Backend) (can []string) {
	if _, ok := b.(backends.Lister); ok {
		can = append(can, "list")
	}
	if _, ok := b.(backends.Unlocker); ok {
		can = append(can, "pin")
	}
	if _, ok := b.(backends.Rewrapper); ok {
		can = append(can, "rewrap")
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
	shown := &api.BackendCheck{Backend: test.Backend, OK: test.OK(), Protection: string(test.Protection),
		KeyURI: test.KeyURI}
	for _, step := range test.Steps {
		shown.Steps = append(shown.Steps, api.BackendCheckStep{Name: step.Name,
			Millis: float64(step.Took.Microseconds()) / 1000, Error: step.Error})
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
		return nil, badParam("backend", "no backend %q in the configuration%s", shorten(name),
			suggest.DidYouMean(shorten(name), slices.Sorted(maps.Keys(s.Backends))))
	}
	return []string{name}, nil
}

// findLost asks the device for each key of a session that it did not list: a key without a label, or none any more.
func (s *Server) findLost(ctx context.Context, backend string, keys []api.Key, listed []backends.ListedKey) error {
	has := make(map[string]bool, len(listed))
	for _, l := range listed {
		has[l.Key.URI()] = true
	}
	for i := range keys {
		if has[keys[i].URI] {
			continue
		}
		_, err := s.Backends[backend].Backend.Key(ctx, keys[i].URI)
		switch {
		case errors.Is(err, backends.ErrKeyNotFound):
			keys[i].Lost = true
		case errors.Is(err, backends.ErrUnavailable):
			return err
		}
	}
	return nil
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
	if err := s.findLost(ctx, backend, keys, listed); err != nil {
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
