//go:build !noazure

package command

import (
	"context"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/azurekv"
	"github.com/keyward/keyward/internal/config"
)

func (a *agent) openAzureKV(_ context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.AzureKV)
	return azurekv.Open(azurekv.Config{
		Name: name, Vault: c.Vault, KeyType: c.KeyType, Purge: c.Purge,
		InFlight: c.InFlight, OpTimeout: b.Timeout, Logger: a.log,
	})
}
