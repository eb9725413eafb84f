package gcpkms

import (
	"context"
	"crypto/ecdsa"
	"encoding/pem"
	"errors"
	"fmt"
	"hash/crc32"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"github.com/googleapis/gax-go/v2"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/kmscall"
)

// key is a version of a CryptoKey.
type key struct {
	b    *Backend
	name string // of the version
	pub  *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (k *key) URI() string                     { return scheme + k.name }
func (k *key) Public() *ecdsa.PublicKey        { return k.pub }
func (k *key) Protection() backends.Protection { return backends.Resident }

// do makes a call of the service that may be made twice.
func do[T any](ctx context.Context, b *Backend, op operation, resource string,
	call func(context.Context) (T, error)) (T, error) {
	return kmscall.Do(ctx, b.calls, func(ctx context.Context) (T, error) {
		v, err := call(ctx)
		return v, op.explain(resource, err)
	})
}

// wrap gives err the backend's name.
func (b *Backend) wrap(op operation, resource string, err error) error {
	return fmt.Errorf("gcpkms %s: %s: %s: %w", b.cfg.Name, op.what, resource, err)
}

// Key finds a key version. Its public key is read, and checked, each time.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	name, err := b.parseURI(uri)
	if err != nil {
		return nil, err
	}
	k, err := b.find(ctx, name)
	if err != nil {
		return nil, b.wrap(opPublicKey, name, b.explainState(ctx, name, err))
	}
	return k, nil
}

// find reads the public key of a version, whose errState is not explained yet.
func (b *Backend) find(ctx context.Context, name string) (*key, error) {
	return do(ctx, b, opPublicKey, name, func(ctx context.Context) (*key, error) {
		answer, err := b.client.GetPublicKey(ctx, &kmspb.GetPublicKeyRequest{Name: name})
		if err != nil {
			return nil, err
		}
		pub, err := checkPublicKey(answer, name)
		return &key{b, name, pub}, err
	})
}

// checkPublicKey returns the public key in an answer that is intact and about an HSM's secp256k1 key.
func checkPublicKey(answer *kmspb.PublicKey, name string) (*ecdsa.PublicKey, error) {
	switch {
	case !intact([]byte(answer.Pem), answer.PemCrc32C):
		return nil, fmt.Errorf("%w: the public key does not fit its checksum", errCorrupted)
	case !sameVersion(answer.Name, name):
		return nil, fmt.Errorf("%w: it is about %q", errCorrupted, answer.Name)
	case answer.Algorithm != kmspb.CryptoKeyVersion_EC_SIGN_SECP256K1_SHA256:
		return nil, fmt.Errorf("%w: the key is for %v, not for secp256k1", backends.ErrKeyNotFound, answer.Algorithm)
	case !inHSM(answer.ProtectionLevel):
		return nil, fmt.Errorf("%w: the key's protection level is %v, not HSM", backends.ErrRefused, answer.ProtectionLevel)
	}
	block, rest := pem.Decode([]byte(answer.Pem))
	if block == nil || block.Type != "PUBLIC KEY" || len(rest) != 0 {
		return nil, errors.New("the service's public key is not one PEM block PUBLIC KEY")
	}
	return backends.ParseSPKI(block.Bytes)
}

func inHSM(level kmspb.ProtectionLevel) bool {
	return level == kmspb.ProtectionLevel_HSM || level == kmspb.ProtectionLevel_HSM_SINGLE_TENANT
}

// castagnoli is the polynomial of Google's checksums.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(data []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(data, castagnoli)))
}

// intact reports whether data has the checksum that came with it. None is no proof.
func intact(data []byte, sum *wrapperspb.Int64Value) bool {
	return sum != nil && sum.Value == checksum(data).Value
}

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	var sending backends.Sending
	sig, err := do(ctx, k.b, opSign, k.name, func(ctx context.Context) (backends.Signature, error) {
		try := &tryCodec{codec, &sending, false}
		// The service signs the digest as it is; that it is called SHA-256's is the algorithm's name.
		answer, err := k.b.client.AsymmetricSign(ctx, &kmspb.AsymmetricSignRequest{
			Name:         k.name,
			Digest:       &kmspb.Digest{Digest: &kmspb.Digest_Sha256{Sha256: digest[:]}},
			DigestCrc32C: checksum(digest[:]),
		}, gax.WithGRPCOptions(grpc.ForceCodecV2(try)))
		if err != nil {
			if try.begun && notDone(err) {
				sending.Refused()
			}
			return backends.Signature{}, err
		}
		return checkSignature(answer, k.name)
	})
	if err != nil {
		return backends.Signature{}, sending.End(k.b.wrap(opSign, k.name, k.b.explainState(ctx, k.name, err)))
	}
	return sig, nil
}

// checkSignature returns the signature in an answer that is intact and by the key that was asked.
func checkSignature(answer *kmspb.AsymmetricSignResponse, name string) (backends.Signature, error) {
	switch {
	case !answer.VerifiedDigestCrc32C:
		return backends.Signature{}, fmt.Errorf("%w: the service did not check the digest", errCorrupted)
	case !intact(answer.Signature, answer.SignatureCrc32C):
		return backends.Signature{}, fmt.Errorf("%w: the signature does not fit its checksum", errCorrupted)
	case !sameVersion(answer.Name, name):
		return backends.Signature{}, fmt.Errorf("%w: it is about %q", errCorrupted, answer.Name)
	case !inHSM(answer.ProtectionLevel):
		return backends.Signature{}, fmt.Errorf("%w: the key's protection level is %v, not HSM", backends.ErrRefused,
			answer.ProtectionLevel)
	}
	r, s, err := backends.ParseDERSignature(answer.Signature)
	if err != nil {
		return backends.Signature{}, err
	}
	return backends.Normalize(r, s)
}

// explainState asks for the version's state if err is errState, and says what that means.
func (b *Backend) explainState(ctx context.Context, name string, err error) error {
	if !errors.Is(err, errState) {
		return err
	}
	state, stateErr := b.state(ctx, name)
	if stateErr != nil {
		return fmt.Errorf("%w: %w", err, stateErr)
	}
	switch state {
	case kmspb.CryptoKeyVersion_DESTROY_SCHEDULED, kmspb.CryptoKeyVersion_DESTROYED:
		return fmt.Errorf("%w: the version is %v: %w", backends.ErrKeyNotFound, state, err)
	case kmspb.CryptoKeyVersion_DISABLED:
		return fmt.Errorf("%w: the version is disabled; enable it (gcloud kms keys versions enable): %w", backends.ErrRefused,
			err)
	case kmspb.CryptoKeyVersion_PENDING_GENERATION:
		return fmt.Errorf("%w: the version is still being generated: %w", backends.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: the version is %v: %w", backends.ErrRefused, state, err)
}

func (b *Backend) state(ctx context.Context, name string) (kmspb.CryptoKeyVersion_CryptoKeyVersionState, error) {
	return do(ctx, b, opState, name, func(ctx context.Context) (kmspb.CryptoKeyVersion_CryptoKeyVersionState, error) {
		v, err := b.client.GetCryptoKeyVersion(ctx, &kmspb.GetCryptoKeyVersionRequest{Name: name})
		return v.GetState(), err
	})
}
