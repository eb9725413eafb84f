package sealed

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto/secp256k1"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
)

// key is a key whose file is read again for each signature.
type key struct {
	b      *Backend
	signer common.Address
	public *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (b *Backend) newKey(f *file) *key { return &key{b: b, signer: f.signer(), public: f.public} }

func (k *key) URI() string                     { return uriOf(k.signer) }
func (k *key) Public() *ecdsa.PublicKey        { return k.public }
func (k *key) Protection() backends.Protection { return backends.Sealed }

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	end, err := k.b.begin(ctx)
	if err != nil {
		return backends.Signature{}, backends.NotSigned(k.b.wrap("signing", err))
	}
	defer end()
	var sending backends.Sending
	sig, err := k.sign(ctx, digest, &sending)
	if err != nil {
		return backends.Signature{}, sending.End(k.b.wrap("signing", err))
	}
	return sig, nil
}

// sign signs with the key in the file, opened before or now. To open it is no signature, whatever the device
// answers; only signWith signs.
func (k *key) sign(ctx context.Context, digest [32]byte, sending *backends.Sending) (sig backends.Signature,
	err error) {
	f, err := k.b.read(k.signer)
	if err != nil {
		return sig, err
	}
	if scalar := k.b.kept(f); scalar != nil {
		sig, err := signWith(scalar, f, digest, sending)
		if !errors.Is(err, errWiped) {
			return sig, err
		}
	}
	scalar, err := k.b.unseal(ctx, f)
	if err != nil {
		return sig, err
	}
	if ctx.Err() != nil { // nobody waits for the signature any more
		err = fmt.Errorf("%w: %w", backends.ErrUnavailable, context.Cause(ctx))
	} else {
		sig, err = signWith(scalar, f, digest, sending)
	}
	if err != nil || !k.b.keep(f, scalar) {
		err = errors.Join(err, scalar.Close())
	}
	return sig, err
}

// errWiped: a key that was kept open has been wiped meanwhile.
var errWiped = errors.New("the key is not open any more")

// signWith signs with scalar, which has to be f's key. errWiped comes before sending begins.
func signWith(scalar *secret.Buffer, f *file, digest [32]byte, sending *backends.Sending) (sig backends.Signature,
	err error) {
	err = scalar.Use(func(d []byte) error {
		if d == nil {
			return errWiped
		}
		sending.Begin()
		// Straight from locked memory to libsecp256k1, which wipes its own copies. A low S.
		raw, err := secp256k1.Sign(digest[:], d)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		point, err := secp256k1.RecoverPubkey(digest[:], raw)
		if err != nil || !bytes.Equal(point, f.point) {
			return fmt.Errorf("%w: what is sealed in the file is not the key of %s", ErrDamaged, f.signer())
		}
		sig = backends.Signature(raw[:64])
		return nil
	})
	return sig, err
}

// seal makes a key and the file of it.
func (b *Backend) seal(ctx context.Context, attrs backends.KeyAttributes) (*file, error) {
	scalar, point, err := newScalar()
	if err != nil {
		return nil, err
	}
	defer scalar.Close()
	f := &file{label: attrs.Label, account: attrs.Account, chainID: attrs.ChainID, point: point}
	if f.public, err = backends.ParsePublicKey(point); err != nil {
		return nil, err
	}
	return f, b.sealScalar(ctx, f, scalar)
}

// sealScalar encrypts scalar, f's key, with a new file key, and has the device open it again.
func (b *Backend) sealScalar(ctx context.Context, f *file, scalar *secret.Buffer) error {
	fileKey, err := random32()
	if err != nil {
		return err
	}
	defer fileKey.Close()
	if f.wrapped, err = b.cfg.Wrapper.Wrap(ctx, fileKey, f.binding()); err != nil {
		return err
	}
	err = withAEAD(fileKey, func(aead cipher.AEAD) error {
		return scalar.Use(func(d []byte) error {
			f.sealed = aead.Seal(nil, zeroNonce, d, f.header())
			return nil
		})
	})
	if err != nil {
		return err
	}
	if err := f.checkSize(); err != nil {
		return err
	}
	again, err := b.unseal(ctx, f)
	if err != nil {
		return fmt.Errorf("opening it again: %w", err)
	}
	defer again.Close()
	if !again.Equal(scalar) {
		return fmt.Errorf("opening it again: %w: another key came out", ErrDamaged)
	}
	return nil
}

// checkSize refuses what read would not take back.
func (f *file) checkSize() error {
	switch {
	case len(f.wrapped.Blob) == 0 || len(f.wrapped.Blob) > 8<<10 || len(f.wrapped.Key) > 512:
		return fmt.Errorf("the device returned %d bytes for a file key, and a name of %d bytes", len(f.wrapped.Blob),
			len(f.wrapped.Key))
	case len(f.marshal()) > maxFile:
		return fmt.Errorf("the key's label or account is too long")
	}
	return nil
}

// unseal opens the key in f with the device. The caller closes it.
func (b *Backend) unseal(ctx context.Context, f *file) (*secret.Buffer, error) {
	fileKey, err := b.cfg.Wrapper.Unwrap(ctx, f.wrapped, f.binding())
	if err != nil {
		return nil, err
	}
	defer fileKey.Close()
	scalar, err := secret.New(32)
	if err != nil {
		return nil, err
	}
	err = withAEAD(fileKey, func(aead cipher.AEAD) error {
		if len(f.sealed) != 32+aead.Overhead() {
			return fmt.Errorf("%w: the key of %s has a wrong length", ErrDamaged, f.signer())
		}
		return scalar.Use(func(d []byte) error {
			if _, err := aead.Open(d[:0], zeroNonce, f.sealed, f.header()); err != nil {
				return fmt.Errorf("%w: the file of %s does not open with the key that is wrapped in it", ErrDamaged, f.signer())
			}
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(err, scalar.Close())
	}
	return scalar, nil
}

// zeroNonce is safe because a file key encrypts once.
var zeroNonce = make([]byte, 12)

// withAEAD calls f with AES-256-GCM under key. The cipher's key schedule is left to the garbage
// collector: it opens only that file.
func withAEAD(key *secret.Buffer, f func(cipher.AEAD) error) error {
	return key.Use(func(k []byte) error {
		if len(k) != 32 {
			return fmt.Errorf("%w: the file key has %d bytes, want 32", ErrDamaged, len(k))
		}
		block, err := aes.NewCipher(k)
		if err != nil {
			return err
		}
		aead, err := cipher.NewGCM(block)
		if err != nil {
			return err
		}
		return f(aead)
	})
}

// newScalar makes a private key, in locked memory, and its public key.
func newScalar() (_ *secret.Buffer, point []byte, err error) {
	for {
		scalar, err := random32()
		if err != nil {
			return nil, nil, err
		}
		err = scalar.Use(func(d []byte) (err error) { point, err = publicKey(d); return })
		if err == nil {
			return scalar, point, nil
		}
		if err := errors.Join(err, scalar.Close()); !errors.Is(err, secp256k1.ErrInvalidKey) {
			return nil, nil, err
		}
		// Zero or not below the curve's order, which occurs once in 2^127 times.
	}
}

// publicKey is the public key of d, 65 bytes. It is recovered from a signature, because
// that keeps d out of big integers, which can't be wiped.
func publicKey(d []byte) ([]byte, error) {
	digest := make([]byte, 32)
	sig, err := secp256k1.Sign(digest, d)
	if err != nil {
		return nil, err
	}
	return secp256k1.RecoverPubkey(digest, sig)
}

// random32 is 32 random bytes in locked memory.
func random32() (*secret.Buffer, error) {
	b, err := secret.New(32)
	if err != nil {
		return nil, err
	}
	err = b.Use(func(p []byte) error { _, err := rand.Read(p); return err })
	return b, err
}
