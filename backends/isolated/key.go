package isolated

import (
	"context"
	"crypto/ecdsa"
	"fmt"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
)

// keyInfo is a key on the wire.
type keyInfo struct {
	URI        string              `json:"uri"`
	Public     []byte              `json:"public"` // 04 ‖ X ‖ Y
	Protection backends.Protection `json:"protection"`
	Label      string              `json:"label,omitempty"`
}

// key is a key of the child's backend. It outlives the child.
type key struct {
	b      *Backend
	info   keyInfo
	public *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (b *Backend) newKey(info keyInfo) (*key, error) {
	public, err := crypto.UnmarshalPubkey(info.Public)
	if err != nil {
		return nil, unavailable(fmt.Errorf("%w: public key of %s: %w", errMalformed, info.URI, err))
	}
	return &key{b: b, info: info, public: public}, nil
}

func (k *key) URI() string                     { return k.info.URI }
func (k *key) Public() *ecdsa.PublicKey        { return k.public }
func (k *key) Protection() backends.Protection { return k.info.Protection }

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (sig backends.Signature, err error) {
	var raw []byte
	if err := k.b.do(ctx, opSign, append(digest[:], k.info.URI...), &raw); err != nil {
		return sig, k.b.wrap("signing", err)
	}
	if len(raw) != len(sig) {
		return sig, k.b.wrap("signing", unavailable(fmt.Errorf("%w: a signature of %d bytes", errMalformed, len(raw))))
	}
	return backends.Signature(raw), nil
}
