package sealed

import (
	"context"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/backends"
)

// Rotating is a Wrapper whose key has versions, or is replaced by another one in the configuration.
type Rotating interface {
	// Current returns a function that reports whether what was wrapped is wrapped by the newest version of the
	// configured key.
	Current(ctx context.Context) (func(Wrapped) bool, error)
}

var _ backends.Rewrapper = (*Backend)(nil)

// Rewrap opens the key in each file with the device key that sealed it, and seals it with the device key of now,
// under a new file key. Keys that are sealed so already stay as they are, if the Wrapper is [Rotating]. A crash
// leaves the old file or the new one, and both open.
func (b *Backend) Rewrap(ctx context.Context, uri string) (bool, error) {
	end, err := b.begin(ctx)
	if err != nil {
		return false, b.wrap("sealing a key again", err)
	}
	defer end()
	signer, err := parseURI(uri)
	if err != nil {
		return false, b.wrap("sealing a key again", err)
	}
	done, err := b.rewrap(ctx, signer)
	if err != nil {
		return false, b.wrap("sealing a key again", err)
	}
	return done, nil
}

func (b *Backend) rewrap(ctx context.Context, signer common.Address) (bool, error) {
	old, err := b.read(signer)
	if err != nil {
		return false, err
	}
	if r, ok := b.cfg.Wrapper.(Rotating); ok {
		current, err := r.Current(ctx)
		if err != nil {
			return false, err
		}
		if current(old.wrapped) {
			return false, nil
		}
	}
	scalar, err := b.unseal(ctx, old)
	if err != nil {
		return false, err
	}
	defer scalar.Close()
	again := &file{label: old.label, account: old.account, chainID: old.chainID, point: old.point, public: old.public}
	if err := b.sealScalar(ctx, again, scalar); err != nil {
		return false, err
	}
	if err := b.dir.Replace(signer, again.marshal()); err != nil {
		return false, err
	}
	return true, nil
}
