package gcpkms

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/keyward/keyward/backends"
)

// Generate makes a CryptoKey and waits until its first version is generated.
//
// The key's ID is chosen here and random, so that the call can be repeated when its answer
// is lost: that the key exists then means that it was made.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	all, err := labels(attrs)
	if err != nil {
		return nil, b.wrap(opCreate, b.cfg.KeyRing, err)
	}
	req := &kmspb.CreateCryptoKeyRequest{
		Parent:      b.cfg.KeyRing,
		CryptoKeyId: keyID(attrs.Label),
		CryptoKey: &kmspb.CryptoKey{
			Purpose: kmspb.CryptoKey_ASYMMETRIC_SIGN,
			VersionTemplate: &kmspb.CryptoKeyVersionTemplate{
				ProtectionLevel: kmspb.ProtectionLevel_HSM,
				Algorithm:       kmspb.CryptoKeyVersion_EC_SIGN_SECP256K1_SHA256,
			},
			Labels: all,
		},
	}
	if b.cfg.DestroyAfter != 0 {
		req.CryptoKey.DestroyScheduledDuration = durationpb.New(b.cfg.DestroyAfter)
	}
	sent, err := b.create(ctx, req)
	name := b.version(req.CryptoKeyId)
	if err == nil {
		var k *key
		if k, err = b.awaitGenerated(ctx, name); err == nil {
			return k, nil
		}
	}
	err = b.wrap(opCreate, req.CryptoKeyId, err)
	if sent && mayExist(err) {
		return nil, b.undoGenerate(ctx, name, err)
	}
	return nil, backends.NotMade(err)
}

// create makes the CryptoKey. sent tells whether the service was asked at all.
func (b *Backend) create(ctx context.Context, req *kmspb.CreateCryptoKeyRequest) (sent bool, err error) {
	var tries atomic.Int64
	_, err = do(ctx, b, opCreate, b.cfg.KeyRing, func(ctx context.Context) (*kmspb.CryptoKey, error) {
		again := tries.Add(1) > 1
		made, err := b.client.CreateCryptoKey(ctx, req)
		if again && status.Code(err) == codes.AlreadyExists {
			return nil, nil // by the try whose answer was lost
		}
		return made, err
	})
	return tries.Load() > 0, err
}

// mayExist reports whether a key may have been made though making it failed with err. A refusal to
// make it says that it was not; one to show it does not.
func mayExist(err error) bool {
	return errors.Is(err, errMade) || errors.Is(err, backends.ErrUnavailable) || errors.Is(err, context.Canceled)
}

// errMade: the key was made, and then could not be used.
var errMade = errors.New("the key was made, but is not usable")

// awaitGenerated waits until a new version can be used, which takes an HSM a few seconds.
func (b *Backend) awaitGenerated(ctx context.Context, name string) (*key, error) {
	ctx, cancel := context.WithTimeout(ctx, generationTimeout)
	defer cancel()
	for pause := 250 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		state, err := b.state(ctx, name)
		if err == nil && state != kmspb.CryptoKeyVersion_PENDING_GENERATION {
			k, err := b.find(ctx, name)
			if err != nil {
				return nil, fmt.Errorf("%w: it is %v: %w", errMade, state, err)
			}
			return k, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errMade, err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w: its generation goes on: %w", errMade, backends.ErrUnavailable, context.Cause(ctx))
		}
	}
}

const (
	generationTimeout = 30 * time.Second
	undoTimeout       = 5 * time.Second
)

// undoGenerate destroys what Generate may have left when it failed with err, whose caller may be gone.
func (b *Backend) undoGenerate(ctx context.Context, name string, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	undoErr := b.destroy(ctx, name)
	if undoErr == nil || errors.Is(undoErr, backends.ErrKeyNotFound) {
		return err
	}
	b.log.Warn("a key may be left behind", "key", name, "error", undoErr)
	return fmt.Errorf("%w; the key may be left behind as %s: %w", err, name, undoErr)
}

// Destroy schedules the version's destruction. From then on it signs nothing and counts as not
// found; until the time set when it was made is over, it can be restored by hand.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	name, err := b.parseURI(uri)
	if err != nil {
		return err
	}
	return b.destroy(ctx, name)
}

func (b *Backend) destroy(ctx context.Context, name string) error {
	var tries atomic.Int64
	_, err := do(ctx, b, opDestroy, name, func(ctx context.Context) (*kmspb.CryptoKeyVersion, error) {
		tries.Add(1)
		return b.client.DestroyCryptoKeyVersion(ctx, &kmspb.DestroyCryptoKeyVersionRequest{Name: name})
	})
	if errors.Is(err, errState) {
		err = b.explainState(ctx, name, err)
		if errors.Is(err, backends.ErrKeyNotFound) && tries.Load() > 1 {
			err = nil // the try whose answer was lost did it
		}
	}
	if err != nil {
		return b.wrap(opDestroy, name, err)
	}
	b.markGone(name)
	return nil
}
