package azurekv

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/keyward/keyward/backends"
)

// Generate makes a key.
//
// Its name is chosen here and random, so that the call can be repeated when its answer is lost: the key
// then has one version more, which nobody uses and which goes with the key.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	name := keyName(attrs.Label)
	all, err := tags(attrs)
	if err != nil {
		return nil, b.wrap(opCreate, name, err)
	}
	kty, curve, sign, enabled := azkeys.KeyType(b.cfg.KeyType), azkeys.CurveNameP256K, azkeys.KeyOperationSign, true
	params := azkeys.CreateKeyParameters{
		Kty: &kty, Curve: &curve, KeyOps: []*azkeys.KeyOperation{&sign}, Tags: all,
		KeyAttributes: &azkeys.KeyAttributes{Enabled: &enabled},
	}
	var sent, made atomic.Bool
	k, err := do(ctx, b, opCreate, func(ctx context.Context) (*key, error) {
		sent.Store(true)
		answer, err := b.client.CreateKey(ctx, name, params, nil)
		if err != nil {
			return nil, err
		}
		made.Store(true)
		return b.checkKey(answer.KeyBundle, keyID{name: name})
	})
	if err == nil {
		return k, nil
	}
	err = b.wrap(opCreate, name, err)
	if made.Load() || sent.Load() && (errors.Is(err, backends.ErrUnavailable) || errors.Is(err, context.Canceled)) {
		return nil, b.undoGenerate(ctx, name, err)
	}
	return nil, backends.NotMade(err)
}

const undoTimeout = 5 * time.Second

// undoGenerate deletes what Generate may have left when it failed with err, whose caller may be gone.
func (b *Backend) undoGenerate(ctx context.Context, name string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	undoErr := b.delete(ctx, name)
	if undoErr == nil || errors.Is(undoErr, backends.ErrKeyNotFound) {
		return err
	}
	b.log.Warn("a key may be left behind", "key", name, "error", undoErr)
	return fmt.Errorf("%w; the key may be left behind as %s/keys/%s: %w", err, b.vault.url, name, undoErr)
}

// Destroy deletes the key with all its versions. It signs nothing any more; unless it is purged, it can be
// recovered by hand for as long as the vault retains deleted keys. That purging failed
// is logged and no error: the key is gone, and goes for good when it is no longer retained.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	id, err := b.parseURI(uri)
	if err != nil {
		return err
	}
	// The vault deletes keys by name alone, and the version named may be none of it.
	if _, err := b.find(ctx, id); errors.Is(err, backends.ErrKeyNotFound) {
		return b.wrap(opDelete, id.name, err)
	}
	if err := b.delete(ctx, id.name); err != nil {
		return b.wrap(opDelete, id.name, err)
	}
	if !b.cfg.Purge {
		return nil
	}
	if err := b.purge(ctx, id.name); err != nil {
		b.log.Warn("a deleted key could not be purged", "key", id.name, "error", err)
	}
	return nil
}

func (b *Backend) delete(ctx context.Context, name string) error {
	var tries atomic.Int64
	_, err := do(ctx, b, opDelete, func(ctx context.Context) (azkeys.DeleteKeyResponse, error) {
		tries.Add(1)
		return b.client.DeleteKey(ctx, name, nil)
	})
	if errors.Is(err, errDeleting) {
		err = fmt.Errorf("%w: %w", backends.ErrKeyNotFound, err)
	}
	if errors.Is(err, backends.ErrKeyNotFound) && tries.Load() > 1 {
		return nil // the try whose answer was lost did it
	}
	return err
}

// purge waits until the key is deleted, which takes some seconds, and purges it.
func (b *Backend) purge(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		_, err := do(ctx, b, opPurge, func(ctx context.Context) (azkeys.PurgeDeletedKeyResponse, error) {
			return b.client.PurgeDeletedKey(ctx, name, nil)
		})
		if !errors.Is(err, errDeleting) && !errors.Is(err, backends.ErrKeyNotFound) {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("it is still being deleted: %w", context.Cause(ctx))
		}
	}
}

const purgeTimeout = 30 * time.Second
