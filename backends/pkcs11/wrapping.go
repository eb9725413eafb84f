package pkcs11

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/internal/keyfile"
	p11 "github.com/miekg/pkcs11"
)

// wrapMechanisms wrap keys, the first that a token has being taken. Each detects what was altered.
var wrapMechanisms = []struct {
	name string // in key files
	id   uint
}{
	{"aes-key-wrap-pad", p11.CKM_AES_KEY_WRAP_PAD}, // RFC 5649, or what the token's maker took for it
	{"aes-key-wrap-kwp", ckmAESKeyWrapKWP},         // RFC 5649 (PKCS #11 v3.0)
	{"aes-key-wrap", p11.CKM_AES_KEY_WRAP},         // RFC 3394
}

const ckmAESKeyWrapKWP = 0x210b

func wrapMechanism(name string) (*p11.Mechanism, error) {
	for _, m := range wrapMechanisms {
		if m.name == name {
			return p11.NewMechanism(m.id, nil), nil
		}
	}
	return nil, fmt.Errorf("mechanism %q is not known", name)
}

// kek is the key-encryption key of the configuration.
func (w *Wrapped) kek(c *conn, s p11Session) (*kek, error) {
	return c.held.kek("label "+w.cfg.KEK, func() (*kek, error) {
		return c.findKEK(s, fmt.Sprintf("with the label %q", w.cfg.KEK), p11.NewAttribute(p11.CKA_LABEL, w.cfg.KEK))
	})
}

// kekOf is the key-encryption key that wrapped f's key.
func (c *conn) kekOf(s p11Session, f *wrappedFile) (*kek, error) {
	if c.info.SerialNumber != f.serial {
		return nil, elsewhere(c, "", f.serial)
	}
	return c.held.kek("id "+f.kekID, func() (*kek, error) {
		return c.findKEK(s, fmt.Sprintf("with CKA_ID %x", f.kekID), p11.NewAttribute(p11.CKA_ID, []byte(f.kekID)))
	})
}

// unwrap has the token open f's key, in a p11Session that holds keys, and checks that it is f's.
func (w *Wrapped) unwrap(c *conn, s p11Session, f *wrappedFile) (p11.ObjectHandle, error) {
	k, err := c.kekOf(s, f)
	if err != nil {
		return 0, err
	}
	holder, err := c.held.takeSession(func() (p11Session, error) { return c.mod.OpenSession(c.slotID, sessionFlags) })
	if err != nil {
		return 0, fmt.Errorf("opening a p11Session: %w", err)
	}
	defer c.held.giveSession(holder)
	h, err := c.unwrapWith(holder, k, f, false)
	if hasNoRoom(err) {
		w.destroyObjects(c, s, c.held.shrink(c.held.len()/2))
		h, err = c.unwrapWith(holder, k, f, false)
	}
	switch {
	case hasNoRoom(err):
		return 0, fmt.Errorf("%w: the token has no room for another unwrapped key: set objects to less than %d: %v",
			backends.ErrFull, w.cfg.Objects, err)
	case isWrong(err), isVague(err) && w.unwrapsOthers(c, holder, k, f):
		return 0, fmt.Errorf("%w: the token does not unwrap the key of %s: %v", backends.ErrKeyDamaged, f.signer(), err)
	case err != nil:
		return 0, fmt.Errorf("unwrapping the key of %s: %w", f.signer(), err)
	}
	c.held.setGood(f)
	if err := c.trySign(s, h, f.point); err != nil {
		w.destroyObjects(c, s, []p11.ObjectHandle{h})
		if errors.Is(err, backends.ErrBadSignature) {
			err = fmt.Errorf("%w: what is wrapped in the file is not the key of %s: %w", backends.ErrKeyDamaged, f.signer(), err)
		}
		return 0, err
	}
	return h, nil
}

// unwrapWith is C_UnwrapKey, for an object of s.
func (c *conn) unwrapWith(s p11Session, k *kek, f *wrappedFile, extractable bool) (p11.ObjectHandle, error) {
	m, err := wrapMechanism(f.mechanism)
	if err != nil {
		return 0, err
	}
	h, err := c.mod.UnwrapKey(s, []*p11.Mechanism{m}, k.handle, f.blob, k.forUnwrapping(extractable))
	return h, c.checkKEKHandle(err)
}

// checkKEKHandle has key-encryption keys looked for again if err says that the handle of one names nothing any more.
// The call is then made once more.
func (c *conn) checkKEKHandle(err error) error {
	if !errors.Is(err, p11.Error(p11.CKR_UNWRAPPING_KEY_HANDLE_INVALID)) &&
		!errors.Is(err, p11.Error(p11.CKR_WRAPPING_KEY_HANDLE_INVALID)) && !isStale(err) {
		return err
	}
	c.held.forgetKEKs()
	return fmt.Errorf("%w: the key-encryption key: %v", p11.Error(p11.CKR_KEY_HANDLE_INVALID), err)
}

// hasNoRoom reports whether err says that the token has no room for another object.
func hasNoRoom(err error) bool {
	return errors.Is(err, p11.Error(p11.CKR_DEVICE_MEMORY)) || errors.Is(err, p11.Error(p11.CKR_HOST_MEMORY))
}

// isWrong reports whether err says that what is to be unwrapped was altered, or wrapped by another key.
func isWrong(err error) bool {
	for _, rv := range []p11.Error{p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_WRAPPED_KEY_LEN_RANGE,
		p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE} {
		if errors.Is(err, rv) {
			return true
		}
	}
	return false
}

// isVague reports whether err may say that what is to be unwrapped was altered (SoftHSM) or that the device does not
// work.
func isVague(err error) bool {
	return errors.Is(err, p11.Error(p11.CKR_GENERAL_ERROR)) || errors.Is(err, p11.Error(p11.CKR_FUNCTION_FAILED))
}

// unwrapsOthers reports whether k unwraps a key that it unwrapped before: then the device works, and f is damaged.
// Without that, a damaged file would have the connection dropped each time.
func (w *Wrapped) unwrapsOthers(c *conn, s p11Session, k *kek, f *wrappedFile) bool {
	good := c.held.getGood()
	if good == nil || good.kekID != f.kekID || bytes.Equal(good.blob, f.blob) {
		return false
	}
	h, err := c.unwrapWith(s, k, good, false)
	if err != nil {
		return false
	}
	w.destroyObjects(c, s, []p11.ObjectHandle{h})
	return true
}

// Generate makes a key pair in the token, wraps it, destroys it there, and unwraps it again: what can't be unwrapped
// must not become a session's key. Until it is wrapped the key is extractable, by a trusted key alone
// (CKA_WRAP_WITH_TRUSTED).
func (w *Wrapped) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	k, err := do(ctx, w.Backend, "generating a key", func(c *conn, s p11Session) (*wrappedKey, error) {
		f := &wrappedFile{label: attrs.Label, account: attrs.Account, chainID: attrs.ChainID, serial: c.info.SerialNumber}
		if err := w.fill(c, s, f); err != nil {
			return nil, err
		}
		handle, err := w.unwrap(c, s, f)
		if err != nil {
			return nil, fmt.Errorf("unwrapping it again: %w", err)
		}
		held, destroy := c.held.put(f.signer(), handle, w.cfg.Objects)
		if c.held.done(held) {
			destroy = append(destroy, held.handle)
		}
		w.destroyObjects(c, s, destroy)
		if len(f.marshal()) > keyfile.Max {
			return nil, errors.New("the key's label or account is too long")
		}
		if err := w.dir.Write(f.signer(), f.marshal()); err != nil {
			c.held.forget(f.signer())
			return nil, err
		}
		return &wrappedKey{w, f.signer(), f.public}, nil
	}, func(c *conn, s p11Session, k *wrappedKey) { // nobody waits for it
		if err := w.dir.Remove(k.signer); err != nil {
			w.log.Error("a key that nobody waited for was not destroyed", "error", err)
		}
		w.destroyObjects(c, s, c.held.forget(k.signer))
	})
	if err != nil {
		return nil, err
	}
	return k, nil
}

// fill makes a key pair, of which f gets the public key and what is wrapped. Nothing of it stays in the token.
func (w *Wrapped) fill(c *conn, s p11Session, f *wrappedFile) (err error) {
	k, err := w.kek(c, s)
	if err != nil {
		return err
	}
	pub, priv, err := c.generate(s, wrappedPublicTemplate(), append(wrappedPrivateTemplate(), withoutUses()...))
	if refusesTemplate(err) {
		pub, priv, err = c.generate(s, wrappedPublicTemplate(), wrappedPrivateTemplate())
	}
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, c.destroyAll(s, &object{private: []p11.ObjectHandle{priv}, public: []p11.ObjectHandle{pub}}))
	}()
	if err := c.checkWrappable(s, priv); err != nil {
		return err
	}
	values, err := c.values(s, pub, p11.CKA_EC_POINT)
	if err != nil {
		return fmt.Errorf("reading the public key: %w", err)
	}
	f.point = decodePoint(values[0])
	if f.public, err = backends.ParsePublicKey(f.point); err != nil {
		return err
	}
	return c.wrapWith(s, k, f, priv)
}

// checkWrappable reads back what protects a key until it is wrapped.
func (c *conn) checkWrappable(s p11Session, h p11.ObjectHandle) error {
	for _, rule := range []struct {
		attr uint
		name string
	}{
		{p11.CKA_SENSITIVE, "CKA_SENSITIVE"}, {p11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE"},
		{p11.CKA_LOCAL, "CKA_LOCAL"},
		{p11.CKA_WRAP_WITH_TRUSTED, "CKA_WRAP_WITH_TRUSTED"},
	} {
		is, err := c.may(s, h, rule.attr)
		if err != nil {
			return fmt.Errorf("reading %s: %w", rule.name, err)
		}
		if !is {
			return fmt.Errorf("%w: the token made a key without %s: it would not be protected until it is wrapped",
				backends.ErrRefused, rule.name)
		}
	}
	return nil
}

// wrapWith is C_WrapKey with the first mechanism that the token has. f gets what is wrapped.
func (c *conn) wrapWith(s p11Session, k *kek, f *wrappedFile, h p11.ObjectHandle) (err error) {
	for _, m := range wrapMechanisms {
		f.mechanism, f.kekID = m.name, k.id
		f.blob, err = c.mod.WrapKey(s, []*p11.Mechanism{p11.NewMechanism(m.id, nil)}, k.handle, h)
		if !errors.Is(err, p11.Error(p11.CKR_MECHANISM_INVALID)) && !errors.Is(err, p11.Error(p11.CKR_KEY_SIZE_RANGE)) {
			break
		}
	}
	err = c.checkKEKHandle(err)
	if err == nil && (len(f.blob) == 0 || len(f.blob) > 8<<10) {
		err = fmt.Errorf("%d bytes", len(f.blob))
	}
	if err != nil {
		return fmt.Errorf("wrapping the key: %w", err)
	}
	return nil
}

func wrappedPrivateTemplate() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
		p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, true),
		p11.NewAttribute(p11.CKA_SIGN, true),
	}
}

func wrappedPublicTemplate() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_EC_PARAMS, secp256k1OID),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_VERIFY, true),
	}
}

// Rewrap implements [backends.Rewrapper]. The key passes from one key-encryption key to the other inside the token,
// where it is extractable meanwhile, by a trusted key alone. A key-encryption key that is not movable gives no key to
// another.
func (w *Wrapped) Rewrap(ctx context.Context, uri string) (bool, error) {
	signer, err := keyfile.ParseURI(wrappedScheme, uri)
	if err != nil {
		return false, w.wrap("wrapping a key again", err)
	}
	return do(ctx, w.Backend, "wrapping a key again",
		func(c *conn, s p11Session) (bool, error) { return w.rewrap(c, s, signer) }, nil)
}

func (w *Wrapped) rewrap(c *conn, s p11Session, signer common.Address) (bool, error) {
	old, err := w.readWrapped(signer)
	if err != nil {
		return false, err
	}
	from, err := c.kekOf(s, old)
	if err != nil {
		return false, err
	}
	to, err := w.kek(c, s)
	if err != nil || from.id == to.id {
		return false, err
	}
	if !from.movable {
		return false, fmt.Errorf("%w: the key-encryption key with CKA_ID %x gives no key to another: its "+
			"CKA_UNWRAP_TEMPLATE has CKA_EXTRACTABLE false; "+
			"end the session and make another", backends.ErrRefused, from.id)
	}
	again := *old
	if err := w.move(c, s, from, to, old, &again); err != nil {
		return false, err
	}
	h, err := w.unwrap(c, s, &again)
	if err != nil {
		return false, fmt.Errorf("unwrapping it again: %w", err)
	}
	w.destroyObjects(c, s, []p11.ObjectHandle{h})
	if err := w.dir.Replace(signer, again.marshal()); err != nil {
		return false, err
	}
	return true, nil
}

// move unwraps old's key with from and wraps it with to, for again.
func (w *Wrapped) move(c *conn, s p11Session, from, to *kek, old, again *wrappedFile) (err error) {
	h, err := c.unwrapWith(s, from, old, true)
	switch {
	case isWrong(err):
		return fmt.Errorf("%w: the token does not unwrap the key of %s: %v", backends.ErrKeyDamaged,
			crypto.PubkeyToAddress(*old.public), err)
	case err != nil:
		return fmt.Errorf("unwrapping the key: %w", err)
	}
	defer func() { err = errors.Join(err, c.mod.DestroyObject(s, h)) }()
	return c.wrapWith(s, to, again, h)
}
