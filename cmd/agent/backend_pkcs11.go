package main

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openPKCS11(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.PKCS11)
	return pkcs11.Open(ctx, pkcs11.Config{
		Name:        name,
		Module:      a.dirs.Path(c.Module),
		Env:         c.Env,
		TokenLabel:  c.Token,
		TokenSerial: c.Serial,
		PIN:         pinSource(a.dirs, &c.PIN),
		Sessions:    c.Sessions,
		OpTimeout:   b.Timeout,
		Locked:      a.locked,
		Logger:      a.log,
	})
}
