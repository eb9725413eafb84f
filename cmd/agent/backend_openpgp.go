package main

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

// openpgpSettings go to the child process that has the card. The user PIN stays with the parent; the
// admin PIN's source is read by the child, when a key is generated or destroyed.
type openpgpSettings struct {
	Serial    string          `json:"serial"`
	Slots     []string        `json:"slots"`
	Touch     string          `json:"touch"`
	Overwrite []string        `json:"overwrite"`
	AdminPIN  config.AdminPIN `json:"adminPIN"` // with an absolute path
	Timeout   time.Duration   `json:"timeout"`
}

// openOpenPGP opens a card in a child process: a call into the smart card stack can't be interrupted.
func (a *agent) openOpenPGP(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.OpenPGP)
	s := openpgpSettings{c.Serial, c.Slots, c.Touch, c.Overwrite, c.AdminPIN, b.Timeout}
	if s.AdminPIN.File != "" {
		s.AdminPIN.File = a.dirs.Path(s.AdminPIN.File)
	}
	hold := c.PINHold
	if hold == 0 {
		hold = secret.UntilLock
	}
	return isolated.Open(ctx, isolated.Config{
		Name:     name,
		Type:     b.Type,
		Settings: s,
		PINs:     secret.NewKeeper(pinSource(a.dirs, &c.PIN), hold),
		Timeout:  b.Timeout,
		Logger:   a.log,
	})
}

// serveOpenPGP opens it in the child.
func serveOpenPGP(_ context.Context, name string, settings json.RawMessage, env *isolated.Env) (backends.Backend, error) {
	var s openpgpSettings
	if err := isolated.Decode(settings, &s); err != nil {
		return nil, err
	}
	cfg := openpgp.Config{
		Name: name, Serial: s.Serial, Slots: s.Slots, Touch: s.Touch, Overwrite: s.Overwrite,
		PIN: env.PINs, OnWait: env.Waiting, Timeout: s.Timeout, Logger: env.Logger,
	}
	// Each use reads the source again: it is rare, and then nothing is held.
	switch {
	case s.AdminPIN.File != "":
		cfg.AdminPIN = secret.NewKeeper(secret.FromFile(s.AdminPIN.File), 0)
	case s.AdminPIN.Credential != "":
		cfg.AdminPIN = secret.NewKeeper(secret.FromCredential(s.AdminPIN.Credential), 0)
	}
	return openpgp.Open(cfg)
}
