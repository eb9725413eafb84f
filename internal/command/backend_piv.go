package command

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/internal/secret"
)

// pivSettings cross to the child. There is no secret among them.
type pivSettings struct {
	Attestation, Roots []byte
	Serial             uint32
	Slot               piv.Slot
	PINPolicy          piv.PINPolicy
	TouchPolicy        piv.TouchPolicy
	Dir, Locks         string
	KeyHold            time.Duration
}

func (a *agent) openPIV(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.PIV)
	s := pivSettings{
		Serial: uint32(c.Serial), PINPolicy: piv.PINPolicy(c.PINPolicy), TouchPolicy: piv.TouchPolicy(c.TouchPolicy),
		Dir: filepath.Join(a.dirs.State, "keys", name), KeyHold: c.KeyHold,
	}
	if err := durable.MkdirAll(s.Dir, 0o700); err != nil { // its process may write there, and not above
		return nil, err
	}
	var err error
	if s.Locks, err = a.cardLocks(); err != nil {
		return nil, err
	}
	if s.Attestation, err = os.ReadFile(a.dirs.Path(c.Attestation)); err != nil {
		return nil, a.placed(fmt.Errorf("attestation: %w", err), "backends", name, "attestation")
	}
	if c.Roots != "" {
		if s.Roots, err = os.ReadFile(a.dirs.Path(c.Roots)); err != nil {
			return nil, a.placed(fmt.Errorf("attestation roots: %w", err), "backends", name, "attestation_roots")
		}
	}
	if c.Slot != "" {
		if s.Slot, err = piv.ParseSlot(c.Slot); err != nil {
			return nil, err
		}
	}
	key, err := piv.ParseAttestation(s.Attestation, s.Roots)
	if err != nil {
		return nil, err
	}
	timeout := b.Timeout
	if key.TouchPolicy != piv.TouchNever {
		timeout = max(timeout, config.TouchTimeout)
	}
	return isolated.Open(ctx, isolated.Config{
		Name: name, Type: "piv", Settings: s,
		PINs:    a.asLocked(pivPINs(a.dirs, name, c)),
		Timeout: timeout,
		HideEnv: pinEnv(a.conf),
		Confine: a.cardRules(s.Dir, s.Locks),
		Logger:  a.log,
	})
}

// cardLocks makes the directory of the cards' locks, which backends in processes of their own have in common.
func (a *agent) cardLocks() (string, error) {
	dir := a.dirs.CardLocks()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("the locks of cards: %w", err)
	}
	return dir, nil
}

// pinEnv are the variables that PINs are in: the process of one backend gets none, not those of others either.
func pinEnv(conf *config.Config) (names []string) {
	for _, b := range conf.Backends {
		if pin := b.PIN(); pin != nil && pin.Env != "" {
			names = append(names, pin.Env)
		}
	}
	return names
}

// pivPINs is nil if the key is said to need no PIN; that the attestation says so too is checked by piv.Open.
func pivPINs(dirs config.Dirs, name string, c *config.PIV) *secret.Keeper {
	if piv.PINPolicy(c.PINPolicy) == piv.PINNever {
		return nil
	}
	hold := c.PINHold
	if c.PIN.Prompt && hold == 0 {
		hold = secret.UntilLock
	}
	return secret.NewKeeper(pinSource(dirs, name, "", &c.PIN), hold)
}

// openPIVHere opens it in the child.
func openPIVHere(_ context.Context, name string, settings json.RawMessage, env *isolated.Env) (backends.Backend,
	error) {
	var s pivSettings
	if err := isolated.Decode(settings, &s); err != nil {
		return nil, err
	}
	return piv.Open(piv.Config{
		Name: name, Attestation: s.Attestation, Roots: s.Roots,
		Serial: s.Serial, Slot: s.Slot, PINPolicy: s.PINPolicy, TouchPolicy: s.TouchPolicy,
		PINs: env.PINs, Dir: s.Dir, Locks: s.Locks, CacheFor: s.KeyHold, Waiting: env.Waiting, Logger: env.Logger,
	})
}
