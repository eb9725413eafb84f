package command

import (
	"context"
	"errors"
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
		return a.placed(fmt.Errorf("backend %q: %w", name, err), "backends", name)
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

// placed adds the line of the configuration to an error, unless it has one: that of the setting path, see [config.At].
func (a *agent) placed(err error, path ...string) error { return placed(a.dirs, err, path...) }

func placed(dirs config.Dirs, err error, path ...string) error {
	if place := new(config.Error); err == nil || errors.As(err, &place) {
		return err
	}
	return config.At(dirs.ConfigFile(), err, path...)
}

// pinSource is where the PIN of a backend comes from, by the settings whose names begin with prefix; nil if only the
// operator has it.
func pinSource(dirs config.Dirs, backend, prefix string, pin *config.PIN) secret.Source {
	var source secret.Source
	var setting string
	switch {
	case pin.File != "":
		source, setting = secret.FromFile(dirs.Path(pin.File)), "pin_file"
	case pin.Credential != "":
		source, setting = secret.FromCredential(pin.Credential), "pin_credential"
	case pin.Env != "":
		source, setting = secret.FromEnv(pin.Env), "pin_env"
	default:
		return nil
	}
	return func(ctx context.Context) (*secret.Buffer, error) {
		b, err := source(ctx)
		return b, placed(dirs, err, "backends", backend, prefix+setting)
	}
}
