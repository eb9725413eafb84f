package command

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/socket"
)

// openers open a backend of each type that config knows.
var openers = map[string]func(a *agent, ctx context.Context, name string, b *config.Backend) (backends.Backend, error){
	"openpgp": (*agent).openOpenPGP,
	"pkcs11":  (*agent).openPKCS11,
	"awskms":  (*agent).openAWSKMS,
	"azurekv": (*agent).openAzureKV,
	"gcpkms":  (*agent).openGCPKMS,
	"piv":     (*agent).openPIV,
	"tpm":     (*agent).openTPM,
	"transit": (*agent).openTransit,
}

// openBackends opens every configured backend that is not open yet. A device that is absent or locked is no
// error: its state says so, and it may come later.
func (a *agent) openBackends(ctx context.Context) error {
	if a.backends == nil {
		a.backends = map[string]socket.Backend{}
	}
	for _, name := range slices.Sorted(maps.Keys(a.conf.Backends)) {
		if a.backends[name].Backend != nil { // it is that of the configuration before
			continue
		}
		if err := a.openBackend(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// asLocked locks a device's PIN if the agent starts locked: none is fetched until unlock. k may be nil.
func (a *agent) asLocked(k *secret.Keeper) *secret.Keeper {
	if k != nil && a.locked {
		k.Lock()
	}
	return k
}

// openBackend opens one configured backend.
func (a *agent) openBackend(ctx context.Context, name string) error {
	b := a.conf.Backends[name]
	backend, err := openers[b.Type](a, ctx, name, b)
	if err != nil {
		return fmt.Errorf("backend %q: %w", name, err)
	}
	a.backends[name] = socket.Backend{Backend: backend, Type: b.Type, Protection: protection(b)}
	return nil
}

// protection is that of the keys that the backend makes. No type has one by default: a new one must not
// be shown as better than it is.
func protection(b *config.Backend) backends.Protection {
	switch c := b.Settings.(type) {
	case *config.PKCS11:
		return backends.Protection(c.Class)
	case *config.OpenPGP, *config.GCPKMS, *config.AzureKV:
		return backends.Resident
	case *config.PIV, *config.TPM, *config.Transit:
		return backends.Sealed
	case *config.AWSKMS:
		return backends.Protection(c.Class)
	}
	return ""
}

// pinSource is where a PIN comes from; nil if only the operator has it.
func pinSource(dirs config.Dirs, pin *config.PIN) secret.Source {
	switch {
	case pin.File != "":
		return secret.FromFile(dirs.Path(pin.File))
	case pin.Credential != "":
		return secret.FromCredential(pin.Credential)
	case pin.Env != "":
		return secret.FromEnv(pin.Env)
	}
	return nil
}
