package command

import (
	"context"
	"path/filepath"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/transit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
)

func (a *agent) openTransit(_ context.Context, name string, b *config.Backend) (backends.Backend, error) {
	c := b.Settings.(*config.Transit)
	cfg := transit.Config{
		Name: name, Address: c.Address, Namespace: c.Namespace, Mount: c.Mount, Key: c.Key,
		Auth:     transit.Auth{Method: c.Auth, Mount: c.AuthMount, Role: c.Role, Secret: transitSecret(a.dirs, c)},
		InFlight: c.InFlight, Timeout: b.Timeout, Dir: a.dirs.Keys(name), CacheFor: c.CacheFor, Logger: a.log,
	}
	if c.CAFile != "" {
		cfg.CAFile = a.dirs.Path(c.CAFile)
	}
	return transit.Open(cfg)
}

// transitSecret is where the token, the secret ID, or the service account's token comes from.
func transitSecret(dirs config.Dirs, c *config.Transit) secret.Source {
	switch {
	case c.SecretCredential != "":
		return secret.TokenFromCredential(c.SecretCredential)
	case c.Auth == "kubernetes":
		return secret.ServiceAccountToken(serviceAccountToken(dirs, c))
	}
	return secret.TokenFromFile(dirs.Path(c.SecretFile))
}

func serviceAccountToken(dirs config.Dirs, c *config.Transit) string {
	if c.SecretFile != "" {
		return dirs.Path(c.SecretFile)
	}
	return filepath.Join(secret.ServiceAccountDir, "token")
}
