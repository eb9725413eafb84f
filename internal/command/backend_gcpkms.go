//go:build !nogcp

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/gcpkms"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openGCPKMS(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.GCPKMS)
	return gcpkms.Open(ctx, gcpkms.Config{
		Name: name, KeyRing: c.KeyRing, DestroyAfter: c.DestroyAfter, Endpoint: c.Endpoint,
		InFlight: c.InFlight, OpTimeout: b.Timeout, Logger: a.log,
	})
}
