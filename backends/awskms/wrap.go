package awskms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
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
		Name: "awskms " + cfg.Name, Dir: cfg.Dir, Wrapper: &wrapper{c: c, key: cfg.Key}, CacheFor: cfg.CacheFor,
		Logger: cfg.Logger,
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

	trouble atomic.Pointer[error] // of the last call that used a key to seal; nil: none
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

// note remembers what a call said about the key that seals, for Status.
func (w *wrapper) note(err error) {
	if errors.Is(err, ErrDisabled) || errors.Is(err, backends.ErrKeyNotFound) {
		w.trouble.Store(&err)
	} else {
		w.trouble.Store(nil)
	}
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
	out, err := call(ctx, w.c, operation{name: "Encrypt", on: w.key}, w.c.api.Encrypt, in)
	w.note(err)
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
	out, err := call(ctx, w.c, operation{name: "Decrypt", on: wrapped.Key}, w.c.api.Decrypt, &kms.DecryptInput{
		KeyId: &wrapped.Key, CiphertextBlob: wrapped.Blob, EncryptionContext: contextOf(bind),
	})
	w.note(err)
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

// Status is what the last calls said of KMS and of the key that seals. If that is a while
// ago, it asks for the key.
func (w *wrapper) Status(ctx context.Context) backends.Status {
	st := w.c.status(ctx, "sealed by "+w.key+", "+w.c.where(), w.probe)
	if err := w.trouble.Load(); st.State == "ready" && err != nil {
		return backends.Status{State: "unavailable", Detail: w.c.wrap("asking AWS", *err).Error()}
	}
	return st
}

func (w *wrapper) probe(ctx context.Context) error {
	out, err := call(ctx, w.c, operation{name: "DescribeKey", on: w.key}, w.c.api.DescribeKey,
		&kms.DescribeKeyInput{KeyId: &w.key})
	if err != nil {
		return err
	}
	m := out.KeyMetadata
	w.trouble.Store(nil)
	if m == nil || m.KeyState != types.KeyStateEnabled || m.KeyUsage != types.KeyUsageTypeEncryptDecrypt ||
		m.KeySpec != types.KeySpecSymmetricDefault {
		err := fmt.Errorf("%w: %s can't seal: want an enabled symmetric key for encryption", backends.ErrRefused, w.key)
		w.trouble.Store(&err)
	}
	return nil
}

func (w *wrapper) Close() error { return w.c.close() }
