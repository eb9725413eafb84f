package command

import (
	"context"
	"encoding/json"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/backends/openpgp"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
)

// openpgpSettings go to the child process that has the card. The PINs stay with the parent.
type openpgpSettings struct {
	Serial    string        `json:"serial"`
	Slots     []string      `json:"slots"`
	Touch     string        `json:"touch"`
	Overwrite []string      `json:"overwrite"`
	Locks     string        `json:"locks"`
	Timeout   time.Duration `json:"timeout"`
}

// openOpenPGP opens a card in a child process: a call into the smart card stack can't be interrupted.
func (a *agent) openOpenPGP(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.OpenPGP)
	locks, err := a.cardLocks()
	if err != nil {
		return nil, err
	}
	s := openpgpSettings{c.Serial, c.Slots, c.Touch, c.Overwrite, locks, b.Timeout}
	hold := c.PINHold
	if hold == 0 {
		hold = secret.UntilLock
	}
	return isolated.Open(ctx, isolated.Config{
		Name:      name,
		Type:      b.Type,
		Settings:  s,
		PINs:      a.asLocked(secret.NewKeeper(pinSource(a.dirs, name, "", &c.PIN), hold).MarkIn(a.dirs.PINTries())),
		AdminPINs: a.asLocked(adminPINs(a.dirs, name, &c.AdminPIN)),
		Timeout:   b.Timeout,
		HideEnv:   pinEnv(a.conf),
		Confine:   a.cardRules(locks),
		Logger:    a.log,
	})
}

// adminPINs has the admin PIN; nil if keys are neither generated nor destroyed.
func adminPINs(dirs config.Dirs, backend string, pin *config.AdminPIN) *secret.Keeper {
	if *pin == (config.AdminPIN{}) {
		return nil
	}
	return secret.NewAdminKeeper(backend, pinSource(dirs, backend, "admin_",
		&config.PIN{File: pin.File, Credential: pin.Credential})).MarkIn(dirs.PINTries())
}

// serveOpenPGP opens it in the child.
func serveOpenPGP(_ context.Context, name string, settings json.RawMessage, env *isolated.Env) (backends.Backend,
	error) {
	var s openpgpSettings
	if err := isolated.Decode(settings, &s); err != nil {
		return nil, err
	}
	cfg := openpgp.Config{
		Name: name, Serial: s.Serial, Slots: s.Slots, Touch: s.Touch, Overwrite: s.Overwrite,
		PIN: env.PINs, AdminPIN: env.AdminPINs, OnWait: env.Waiting, OnHang: env.Hung, Locks: s.Locks, Timeout: s.Timeout,
		Logger: env.Logger,
	}
	return openpgp.Open(cfg)
}
