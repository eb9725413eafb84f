package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/tpm"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
)

func (a *agent) openTPM(_ context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.TPM)
	key, err := tpm.ParseKey(c.Handle, c.Key)
	if err != nil {
		return nil, err
	}
	pcrs, err := tpm.ParsePCRs(c.PCRs)
	if err != nil {
		return nil, err
	}
	cfg := tpm.Config{
		Name: name, Device: a.dirs.Path(c.Device), Key: key, PCRs: pcrs,
		Dir: a.dirs.Keys(name), CacheFor: c.KeyHold, Timeout: b.Timeout, Logger: a.log,
	}
	if c.PIN != (config.PIN{}) { // else the interface would not be nil
		hold := c.PINHold
		if hold == 0 {
			hold = secret.UntilLock
		}
		cfg.PINs = a.asLocked(tpm.Explained(secret.NewKeeper(pinSource(a.dirs, name, "", &c.PIN),
			hold)).MarkIn(a.dirs.PINTries()))
	}
	return tpm.Open(cfg)
}
