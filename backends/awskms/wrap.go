package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/kms/types"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// SealedConfig is a Config for sealed keys. Host and DeletionDays are not used.
type SealedConfig struct {
	Config
	// Key is the KMS key that seals: symmetric, for encryption. Its ARN, ID, or alias. Keys that
	// were sealed by another one are opened with that one.
	Key      string
	Dir      string        // see [sealed.Config]
	CacheFor time.Duration // see [sealed.Config]
}

// OpenSealed makes a Backend whose keys are sealed by a KMS key. AWS is not called.
func OpenSealed(ctx context.Context, cfg SealedConfig) (*sealed.Backend, error) {
	if cfg.Key == "" {
		return nil, fmt.Errorf("awskms %s: no KMS key to seal with", cfg.Name)
	}
	c, err := newClient(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	return sealed.Open(sealed.Config{
		Name: "awskms " + cfg.Name, Dir: cfg.Dir, Wrapper: &wrapper{c: c, key: cfg.Key}, CacheFor: cfg.CacheFor, Logger: cfg.Logger,
	})
}

// wrapper encrypts file keys with a KMS key. KMS authenticates the encryption context, and writes
// it into CloudTrail.
//
// The file key passes through buffers of the SDK and of TLS, which can't be wiped. It opens
// one file only, and the signing key in there never leaves this process.
type wrapper struct {
	c   *client
	key string // as configured
}

var _ sealed.Wrapper = (*wrapper)(nil)

// contextOf is bind as an encryption context. What is empty is left out, so no two bindings have the same.
func contextOf(bind sealed.Binding) map[string]string {
	context := map[string]string{
		tagSession:       escape(bind.Label),
		tagAccount:       bind.Account,
		tagChain:         fmt.Sprint(bind.ChainID),
		"keyward:signer": bind.Signer.Hex(),
	}
	for name, value := range context {
		if value == "" {
			delete(context, name)
		}
	}
	return context
}

func (w *wrapper) Wrap(ctx context.Context, key *secret.Buffer, bind sealed.Binding) (sealed.Wrapped, error) {
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return sealed.Wrapped{}, err
	}
	defer end()
	in := &kms.EncryptInput{KeyId: &w.key, EncryptionContext: contextOf(bind)}
	_ = key.Use(func(k []byte) error { in.Plaintext = bytes.Clone(k); return nil })
	defer clear(in.Plaintext)
	out, err := call(ctx, w.c, operation{name: "Encrypt", on: w.key, repeatable: true, shared: true}, w.c.api.Encrypt, in)
	if err != nil {
		return sealed.Wrapped{}, err
	}
	if err := w.c.checkRegion(text(out.KeyId)); err != nil {
		return sealed.Wrapped{}, fmt.Errorf("the key that sealed: %w", err)
	}
	return sealed.Wrapped{Key: *out.KeyId, Blob: out.CiphertextBlob}, nil
}

func (w *wrapper) Unwrap(ctx context.Context, wrapped sealed.Wrapped, bind sealed.Binding) (*secret.Buffer, error) {
	ctx, end, err := w.c.begin(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := w.c.checkRegion(wrapped.Key); err != nil {
		return nil, err
	}
	out, err := call(ctx, w.c, operation{name: "Decrypt", on: wrapped.Key, repeatable: true, shared: true}, w.c.api.Decrypt, &kms.DecryptInput{
		KeyId: &wrapped.Key, CiphertextBlob: wrapped.Blob, EncryptionContext: contextOf(bind),
	})
	if err != nil {
		return nil, err
	}
	key, err := secret.Take(out.Plaintext)
	if err != nil {
		return nil, err
	}
	if text(out.KeyId) != wrapped.Key {
		err := fmt.Errorf("%w: KMS decrypted with %q, want %q", sealed.ErrDamaged, text(out.KeyId), wrapped.Key)
		return nil, errors.Join(err, key.Close())
	}
	return key, nil
}

// Status asks, if need be, for the state of the key that seals.
func (w *wrapper) Status(ctx context.Context) backends.Status {
	return w.c.status(ctx, "sealed by "+w.key+", "+w.c.where(), func(ctx context.Context) error {
		op := operation{name: "DescribeKey", on: w.key, repeatable: true}
		out, err := call(ctx, w.c, op, w.c.api.DescribeKey, &kms.DescribeKeyInput{KeyId: &w.key})
		if err != nil {
			return err
		}
		m := out.KeyMetadata
		if m == nil || m.KeyState != types.KeyStateEnabled || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt || m.KeySpec != types.KeySpecSymmetricDefault {
			return fmt.Errorf("%s can't seal: want an enabled symmetric key for encryption", w.key)
		}
		return nil
	})
}

func (w *wrapper) Close() error {
	w.c.close()
	return nil
}
