package pkcs11

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"strings"

	"github.com/ethereum/go-ethereum/common"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/keyfile"
	p11 "github.com/miekg/pkcs11"
)

// WrappedConfig is a Config for keys of class wrapped: generated in the token, encrypted by a key-encryption key in
// it, and stored in files. The token has a key while it is in use.
type WrappedConfig struct {
	Config
	// CKA_LABEL of the key-encryption key for new keys. Keys that another one wrapped are unwrapped with that one.
	KEK     string
	Dir     string // of the files; absolute; made if it is not there. One agent uses it at a time.
	Objects int    // unwrapped keys that the token has at a time; 0: 1,000
}

const defaultObjects = 1000

// Wrapped is a token and a directory of keys that it encrypted. A key is unwrapped to an object of a p11Session when
// it first signs, and its handle is kept. Beyond [WrappedConfig.Objects], and when the token has no room, the least
// recently used are destroyed.
type Wrapped struct {
	*Backend
	cfg WrappedConfig
	dir *keyfile.Dir
}

var (
	_ backends.Backend   = (*Wrapped)(nil)
	_ backends.Lister    = (*Wrapped)(nil)
	_ backends.Limited   = (*Wrapped)(nil)
	_ backends.Unlocker  = (*Wrapped)(nil)
	_ backends.Prober    = (*Wrapped)(nil)
	_ backends.Rewrapper = (*Wrapped)(nil)
)

// OpenWrapped is [Open] for wrapped keys. The key-encryption key need not be there.
func OpenWrapped(ctx context.Context, cfg WrappedConfig) (*Wrapped, error) {
	if cfg.KEK == "" || cfg.Objects < 0 {
		return nil, fmt.Errorf("pkcs11 %s: no key-encryption key to wrap with, or fewer than 0 objects", cfg.Name)
	}
	cfg.Objects = orDefault(cfg.Objects, defaultObjects)
	b, err := Open(ctx, cfg.Config)
	if err != nil {
		return nil, err
	}
	w := &Wrapped{Backend: b, cfg: cfg}
	if w.dir, err = keyfile.Open(cfg.Dir, b.log); err != nil {
		return nil, errors.Join(b.wrap("opening", err), b.Close())
	}
	return w, nil
}

// wrappedKey is a key whose file is read each time it is unwrapped.
type wrappedKey struct {
	w      *Wrapped
	signer common.Address
	public *ecdsa.PublicKey
}

var _ backends.Key = (*wrappedKey)(nil)

// wrappedScheme starts the URI of a wrapped key.
const wrappedScheme = "wrapped:"

func (k *wrappedKey) URI() string                     { return keyfile.URI(wrappedScheme, k.signer) }
func (k *wrappedKey) Public() *ecdsa.PublicKey        { return k.public }
func (k *wrappedKey) Protection() backends.Protection { return backends.Wrapped }

// SignDigest implements [backends.Key]. To unwrap the key is no signature; only what comes after is in doubt.
func (k *wrappedKey) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	var sending backends.Sending
	sig, err := do(ctx, k.w.Backend, signing, func(c *conn, s p11Session) (backends.Signature, error) {
		h, err := k.w.use(c, s, k.signer)
		if err != nil {
			return backends.Signature{}, err
		}
		sig, err := c.sign(s, h.handle, digest, &sending)
		if isStale(err) {
			k.w.destroyObjects(c, s, c.held.forget(k.signer)) // so that the second go unwraps it again
		}
		if c.held.done(h) {
			k.w.destroyObjects(c, s, []p11.ObjectHandle{h.handle})
		}
		return sig, err
	}, nil)
	if err != nil {
		return sig, sending.End(err)
	}
	return sig, nil
}

// use returns a key for use, unwrapped before or now; held.done ends the use.
func (w *Wrapped) use(c *conn, s p11Session, signer common.Address) (*heldKey, error) {
	if k := c.held.get(signer); k != nil {
		return k, nil
	}
	f, err := w.readWrapped(signer)
	if err != nil {
		return nil, err
	}
	handle, err := w.unwrap(c, s, f)
	if err != nil {
		return nil, err
	}
	k, destroy := c.held.put(signer, handle, w.cfg.Objects)
	w.destroyObjects(c, s, destroy)
	// Destroy removes the file and then drops the key. If it did so before the key was held, the file is gone now.
	if !w.dir.Has(signer) {
		c.held.forget(signer)
	}
	return k, nil
}

// destroyObjects destroys unwrapped keys. One that stays takes room until the connection ends.
func (w *Wrapped) destroyObjects(c *conn, s p11Session, handles []p11.ObjectHandle) {
	for _, h := range handles {
		if err := c.mod.DestroyObject(s, h); err != nil && !isStale(err) {
			w.log.Warn("an unwrapped key that is not in use stays in the token", "error", err)
		}
	}
}

// check says why no operation is begun that does not ask the token.
func (w *Wrapped) check(ctx context.Context) error {
	if ctx.Err() != nil {
		return gaveUp(ctx, "not begun")
	}
	if w.life.Err() != nil {
		return errClosed
	}
	return nil
}

// Key finds a key by its whole URI. The token is not asked.
func (w *Wrapped) Key(ctx context.Context, uri string) (backends.Key, error) {
	if err := w.check(ctx); err != nil {
		return nil, w.wrap("finding a key", err)
	}
	signer, err := keyfile.ParseURI(wrappedScheme, uri)
	if err != nil {
		return nil, w.wrap("finding a key", err)
	}
	f, err := w.readWrapped(signer)
	if err != nil {
		return nil, w.wrap("finding a key", err)
	}
	return &wrappedKey{w, signer, f.public}, nil
}

// Keys lists keys by address. The token is not asked. A damaged file is logged and left out.
func (w *Wrapped) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	if err := w.check(ctx); err != nil {
		return nil, w.wrap("listing keys", err)
	}
	signers, err := w.dir.Signers()
	if err != nil {
		return nil, w.wrap("listing keys", err)
	}
	var list []backends.ListedKey
	for _, signer := range signers {
		f, err := w.readWrapped(signer)
		switch {
		case errors.Is(err, backends.ErrKeyNotFound): // destroyed since
		case err != nil:
			w.log.Warn("key is not usable", "error", err)
		case strings.HasPrefix(f.label, prefix):
			list = append(list, backends.ListedKey{Key: &wrappedKey{w, signer, f.public}, Label: f.label})
		}
	}
	return list, nil
}

// Destroy overwrites the key's file and removes it, a damaged one too, and has the token drop the key. If the token
// is not there, it drops the key with the p11Session.
func (w *Wrapped) Destroy(ctx context.Context, uri string) error {
	if err := w.check(ctx); err != nil {
		return w.wrap("destroying a key", err)
	}
	signer, err := keyfile.ParseURI(wrappedScheme, uri)
	if err != nil {
		return w.wrap("destroying a key", err)
	}
	if err := w.dir.Remove(signer); err != nil {
		return w.wrap("destroying a key", err)
	}
	if c := w.current(); c == nil || !c.held.has(signer) {
		return nil
	}
	_, err = do(ctx, w.Backend, "destroying a key", func(c *conn, s p11Session) (struct{}, error) {
		w.destroyObjects(c, s, c.held.forget(signer))
		return struct{}{}, nil
	}, nil)
	if err != nil {
		w.log.Warn("the file of a destroyed key is gone; the token drops the key with its p11Session", "error", err)
	}
	return nil
}

// Status is that of [Backend], and says which key-encryption key wraps.
func (w *Wrapped) Status(ctx context.Context) backends.Status {
	st := w.Backend.Status(ctx)
	if st.State != "ready" {
		return st
	}
	if c := w.current(); c != nil {
		_, err := run(ctx, w.Backend, "asking for the key-encryption key",
			func(c *conn, s p11Session) (*kek, error) { return w.kek(c, s) }, nil)
		if err != nil {
			return backends.Status{State: "unavailable", Detail: w.wrap("asking for the key-encryption key", err).Error()}
		}
		st.Detail += fmt.Sprintf("; %d of %d keys unwrapped", c.held.len(), w.cfg.Objects)
	}
	return st
}
