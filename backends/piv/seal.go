package piv

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/sealed"
	"github.com/keyward/keyward/internal/secret"
)

// Secrets are encrypted by HPKE (RFC 9180) in base mode with DHKEM(P-256, HKDF-SHA256), HKDF-SHA256
// and AES-256-GCM. The card does the Diffie-Hellman of Decap. What comes out of it and of the key
// schedule is left to the garbage collector: it opens this one secret.
var (
	kdf  = hpke.HKDFSHA256()
	aead = hpke.AES256GCM()
)

// info binds a secret to the card, the slot and whose key it is. The card's public key is part of
// HPKE's own context (RFC 9180, 4.1).
func (d *device) info(bind sealed.Binding) []byte {
	info := []byte("keyward piv 1\n")
	info = binary.BigEndian.AppendUint32(info, d.key.Serial)
	info = append(info, byte(d.key.Slot))
	return append(info, bind.Bytes()...)
}

// Wrap implements [sealed.Wrapper]. The card is not needed.
func (d *device) Wrap(ctx context.Context, key *secret.Buffer, bind sealed.Binding) (sealed.Wrapped, error) {
	if ctx.Err() != nil {
		return sealed.Wrapped{}, fmt.Errorf("%w: not begun: %w", backends.ErrUnavailable, context.Cause(ctx))
	}
	var blob []byte
	err := key.Use(func(plain []byte) (err error) {
		blob, err = d.seal(d.info(bind), plain)
		return err
	})
	return sealed.Wrapped{Key: d.key.name(), Blob: blob}, err
}

func (d *device) seal(info, plain []byte) ([]byte, error) {
	public, err := hpke.NewDHKEMPublicKey(d.key.Public)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(public, kdf, aead, info, plain)
}

// Unwrap implements [sealed.Wrapper].
func (d *device) Unwrap(ctx context.Context, w sealed.Wrapped, bind sealed.Binding) (*secret.Buffer, error) {
	if w.Key != d.key.name() {
		return nil, fmt.Errorf("%w: the key is sealed to %s, and this backend has %s", backends.ErrUnavailable, w.Key,
			d.key.name())
	}
	var plain []byte
	err := d.withCard(ctx, func(s *session) (err error) {
		plain, err = d.open(ctx, s, d.info(bind), w.Blob)
		if errors.Is(err, errNotOpened) {
			err = d.blame(ctx, s)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return secret.Take(plain)
}

// errNotOpened: the blob is damaged, or the card answered garbage.
var errNotOpened = errors.New("it does not open")

// open shows the PIN and has the card open blob.
func (d *device) open(ctx context.Context, s *session, info, blob []byte) ([]byte, error) {
	x := &exchanger{public: d.key.Public, ecdh: func(peer *ecdh.PublicKey) ([]byte, error) {
		if d.key.TouchPolicy != TouchNever {
			if err := backends.TimeForTouch(ctx); err != nil {
				return nil, err
			}
		}
		if err := d.showPIN(ctx, s); err != nil { // at the last moment: policy "always" asks for that
			return nil, err
		}
		var shared []byte
		err := d.duringTouch(func() (err error) {
			shared, err = s.ecdh(d.key.Slot, peer)
			return err
		})
		if errors.Is(err, errSecurityStatus) && d.key.TouchPolicy != TouchNever {
			return nil, fmt.Errorf("%w; try again, and touch its metal contact when it blinks", backends.ErrNotTouched)
		}
		return shared, err
	}}
	private, err := hpke.NewDHKEMPrivateKey(x)
	if err != nil {
		return nil, err
	}
	plain, err := hpke.Open(private, kdf, aead, info, blob)
	switch {
	case x.err != nil:
		return nil, x.err
	case err != nil:
		return nil, errNotOpened
	}
	return plain, nil
}

// blame finds out why a blob did not open: a card that opens a fresh one is sound. Where that would
// need another touch or PIN, the blob is blamed, if the slot has the key.
func (d *device) blame(ctx context.Context, s *session) error {
	if err := s.checkAttested(d.key); err != nil {
		return err
	}
	damaged := fmt.Errorf("%w: the card does not open what is sealed for this session", sealed.ErrDamaged)
	if d.key.TouchPolicy != TouchNever || d.key.PINPolicy == PINAlways {
		return damaged
	}
	const probe = "keyward piv probe"
	blob, err := d.seal([]byte(probe), []byte(probe))
	if err != nil {
		return err
	}
	plain, err := d.open(ctx, s, []byte(probe), blob)
	switch {
	case errors.Is(err, errNotOpened):
		return fmt.Errorf("%w: its answers make no sense", backends.ErrUnavailable)
	case err != nil:
		return err
	case string(plain) != probe:
		return fmt.Errorf("%w: its answers make no sense", backends.ErrUnavailable)
	}
	return damaged
}

// exchanger is the private key in the card, for HPKE.
type exchanger struct {
	public *ecdh.PublicKey
	ecdh   func(peer *ecdh.PublicKey) ([]byte, error)
	err    error // of ecdh, as HPKE does not promise to return it
}

var _ ecdh.KeyExchanger = (*exchanger)(nil)

func (x *exchanger) PublicKey() *ecdh.PublicKey { return x.public }
func (x *exchanger) Curve() ecdh.Curve          { return x.public.Curve() }

func (x *exchanger) ECDH(peer *ecdh.PublicKey) (shared []byte, err error) {
	shared, x.err = x.ecdh(peer)
	return shared, x.err
}
