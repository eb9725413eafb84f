package azurekv

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// key is a version of a key.
type key struct {
	b   *Backend
	id  keyID
	pub *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (k *key) URI() string                     { return scheme + k.b.vault.id(k.id) }
func (k *key) Public() *ecdsa.PublicKey        { return k.pub }
func (k *key) Protection() backends.Protection { return backends.Resident }

// do makes a call of the vault that may be made twice.
func do[T any](ctx context.Context, b *Backend, op operation, call func(context.Context) (T, error)) (T, error) {
	return kmscall.Do(ctx, b.calls, func(ctx context.Context) (T, error) {
		v, err := call(ctx)
		if refusal(err) && !b.foreignRoots {
			kmscall.Refused(ctx)
		}
		return v, op.explain(b.vault, err)
	})
}

// wrap gives err the backend's name.
func (b *Backend) wrap(op operation, about string, err error) error {
	return fmt.Errorf("azurekv %s: %s: %s: %w", b.cfg.Name, op.what, about, err)
}

// Key finds a key version. Its public key is read, and checked, each time.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	id, err := b.parseURI(uri)
	if err != nil {
		return nil, err
	}
	k, err := b.find(ctx, id)
	if err != nil {
		return nil, b.wrap(opGet, id.name, err)
	}
	return k, nil
}

// find reads a key. The version "" is the latest.
func (b *Backend) find(ctx context.Context, id keyID) (*key, error) {
	return do(ctx, b, opGet, func(ctx context.Context) (*key, error) {
		answer, err := b.client.GetKey(ctx, id.name, id.version, nil)
		if err != nil {
			return nil, err
		}
		return b.checkKey(answer.KeyBundle, id)
	})
}

// checkKey returns the key in an answer about id, of which the version may be unknown. It must
// be of the configured type, on secp256k1 and enabled.
func (b *Backend) checkKey(answer azkeys.KeyBundle, id keyID) (*key, error) {
	jwk := answer.Key
	if jwk == nil || jwk.KID == nil || jwk.Kty == nil || jwk.Crv == nil || answer.Attributes == nil ||
		answer.Attributes.Enabled == nil {
		return nil, fmt.Errorf("%w: it lacks what a key has", errGarbled)
	}
	got, ok := b.vault.parseID(string(*jwk.KID))
	switch {
	case !ok || got.name != id.name || id.version != "" && got.version != id.version:
		return nil, fmt.Errorf("%w: it is about %q", errGarbled, *jwk.KID)
	case !*answer.Attributes.Enabled:
		return nil, errDisabled
	case string(*jwk.Kty) != b.cfg.KeyType:
		return nil, fmt.Errorf("%w: its type is %s, and the configuration wants %s", errKey, *jwk.Kty, b.cfg.KeyType)
	case *jwk.Crv != azkeys.CurveNameP256K:
		return nil, fmt.Errorf("%w: it is on curve %s, not on secp256k1", errKey, *jwk.Crv)
	case len(jwk.D) != 0:
		return nil, fmt.Errorf("%w: the vault gives its private key away", errKey)
	case len(jwk.X) != 32 || len(jwk.Y) != 32: // RFC 7518, section 6.2.1.2
		return nil, fmt.Errorf("%w: its coordinates have %d and %d bytes", errKey, len(jwk.X), len(jwk.Y))
	}
	point := append(append([]byte{4}, jwk.X...), jwk.Y...)
	pub, err := backends.ParsePublicKey(point)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	return &key{b, got, pub}, nil
}

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	algorithm := azkeys.SignatureAlgorithmES256K
	var sending backends.Sending
	sig, err := do(kmscall.WithSending(ctx, &sending), k.b, opSign, func(ctx context.Context) (backends.Signature, error) {
		answer, err := k.b.client.Sign(ctx, k.id.name, k.id.version,
			azkeys.SignParameters{Algorithm: &algorithm, Value: digest[:]}, nil)
		if err != nil {
			return backends.Signature{}, err
		}
		return k.checkSignature(answer.KeyOperationResult)
	})
	if err != nil {
		return backends.Signature{}, sending.End(k.b.wrap(opSign, k.id.name, err))
	}
	return sig, nil
}

// checkSignature returns the signature, R ‖ S, in an answer that is about the key.
func (k *key) checkSignature(answer azkeys.KeyOperationResult) (backends.Signature, error) {
	switch {
	case answer.KID == nil:
		return backends.Signature{}, fmt.Errorf("%w: it names no key", errGarbled)
	case string(*answer.KID) != k.b.vault.id(k.id):
		return backends.Signature{}, fmt.Errorf("%w: it is about %q", errGarbled, *answer.KID)
	case len(answer.Result) != 64:
		return backends.Signature{}, fmt.Errorf("%w: it has %d bytes, not 64", backends.ErrBadSignature, len(answer.Result))
	}
	return backends.Normalize(answer.Result[:32], answer.Result[32:])
}
