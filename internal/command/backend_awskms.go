//go:build !noaws

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/awskms"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openAWSKMS(ctx context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.AWSKMS)
	kms := awskms.Config{
		Name:         name,
		Region:       c.Region,
		Profile:      c.Profile,
		Endpoint:     c.Endpoint,
		InFlight:     c.InFlight,
		Timeout:      b.Timeout,
		Logger:       a.log,
		Host:         c.Host,
		DeletionDays: c.DeletionDays,
	}
	if c.Class == "sealed" {
		return awskms.OpenSealed(ctx, awskms.SealedConfig{Config: kms, Key: c.Key, Dir: a.dirs.Keys(name),
			CacheFor: c.CacheFor})
	}
	return awskms.Open(ctx, kms)
}
