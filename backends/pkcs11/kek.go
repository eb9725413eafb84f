package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"unsafe"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/secret"
	p11 "github.com/miekg/pkcs11"
)

// ErrUnsafeKEK: a key-encryption key does not protect what it wraps. It stays so until there is another one.
var ErrUnsafeKEK = fmt.Errorf("%w: the key-encryption key is not fit to wrap with", backends.ErrRefused)

// kek is a key-encryption key in the token.
type kek struct {
	handle   p11.ObjectHandle
	id       string           // CKA_ID
	template []*p11.Attribute // CKA_UNWRAP_TEMPLATE
	movable  bool             // a key that it unwraps can be wrapped by another trusted key
}

// findKEK finds the one key-encryption key with that attribute, and refuses one that is not fit to wrap with.
func (c *conn) findKEK(s p11Session, what string, match *p11.Attribute) (*kek, error) {
	found, err := c.handles(s, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_TOKEN, true), match,
	})
	if err != nil {
		return nil, fmt.Errorf("looking for the key-encryption key: %w", err)
	}
	switch len(found) {
	case 0:
		if err := c.present(s); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s has no key-encryption key %s; make one with: keyward pkcs11 wrap-key",
			backends.ErrRefused, c.describe(), what)
	case 1:
		k, err := c.checkKEK(s, found[0])
		if errors.Is(err, ErrUnsafeKEK) {
			err = fmt.Errorf("%s: %w", what, err)
		}
		return k, err
	}
	return nil, fmt.Errorf("%w: %d key-encryption keys are %s", backends.ErrKeyAmbiguous, len(found), what)
}

// kekRules are what a key-encryption key has to be, and what follows if it is not.
var kekRules = []struct {
	attr   uint
	name   string
	want   bool
	reason string
}{
	{p11.CKA_WRAP, "CKA_WRAP", true, "it can't wrap"},
	{p11.CKA_UNWRAP, "CKA_UNWRAP", true, "it can't unwrap"},
	{p11.CKA_SENSITIVE, "CKA_SENSITIVE", true, "its value can be read"},
	{p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", false, "it can be taken out of the token"},
	{p11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", true, "its value could be read once"},
	{p11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", true, "it could be taken out of the token once"},
	{p11.CKA_LOCAL, "CKA_LOCAL", true, "it was not made in the token, so others may have it"},
	{p11.CKA_TRUSTED, "CKA_TRUSTED", true, "the security officer does not vouch for it (CKA_TRUSTED), so a new key, " +
		"which only trusted keys wrap, can't be wrapped by it"},
	{p11.CKA_MODIFIABLE, "CKA_MODIFIABLE", false, "anyone with the PIN can change what it may do"},
	{p11.CKA_DECRYPT, "CKA_DECRYPT", false, "it decrypts what it wrapped"},
	{p11.CKA_ENCRYPT, "CKA_ENCRYPT", false, "it encrypts, so what it unwraps can be forged"},
	{p11.CKA_DERIVE, "CKA_DERIVE", false, "other keys can be derived from it"},
}

// checkKEK reads what makes a key-encryption key fit to wrap with.
func (c *conn) checkKEK(s p11Session, h p11.ObjectHandle) (*kek, error) {
	for _, rule := range kekRules {
		is, err := c.may(s, h, rule.attr)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", rule.name, err)
		}
		if is != rule.want {
			return nil, fmt.Errorf("%w: %s (%s is %v): make another with: keyward pkcs11 wrap-key", ErrUnsafeKEK, rule.reason,
				rule.name, is)
		}
	}
	values, err := c.values(s, h, p11.CKA_ID)
	if err != nil {
		return nil, fmt.Errorf("reading CKA_ID: %w", err)
	}
	k := &kek{handle: h, id: string(values[0])}
	if k.id == "" {
		return nil, fmt.Errorf("%w: it has no CKA_ID to know it by", ErrUnsafeKEK)
	}
	if c.mod.instances {
		return nil, errInstances
	}
	if k.template, err = c.mod.unwrapTemplate(s, h); err != nil &&
		!errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)) {
		return nil, fmt.Errorf("reading CKA_UNWRAP_TEMPLATE: %w", err)
	}
	return k, k.checkTemplate()
}

// checkTemplate refuses a key-encryption key with which anyone with the PIN unwraps a key as one that can be read.
func (k *kek) checkTemplate() error {
	has := func(attr uint, want byte) bool {
		for _, a := range k.template {
			if a.Type == attr {
				return len(a.Value) == 1 && (a.Value[0] != 0) == (want != 0)
			}
		}
		return false
	}
	k.movable = !has(p11.CKA_EXTRACTABLE, 0)
	switch {
	case len(k.template) == 0:
		return fmt.Errorf("%w: it has no CKA_UNWRAP_TEMPLATE, so anyone with the PIN unwraps a key as one that can be read",
			ErrUnsafeKEK)
	case !has(p11.CKA_SENSITIVE, 1):
		return fmt.Errorf("%w: its CKA_UNWRAP_TEMPLATE does not have CKA_SENSITIVE true, so anyone with the PIN unwraps a "+
			"key as one that can be read", ErrUnsafeKEK)
	case k.movable && !has(p11.CKA_WRAP_WITH_TRUSTED, 1):
		return fmt.Errorf("%w: its CKA_UNWRAP_TEMPLATE has neither CKA_EXTRACTABLE false nor CKA_WRAP_WITH_TRUSTED true, "+
			"so anyone with the PIN unwraps a key and wraps it again with a key that they know", ErrUnsafeKEK)
	}
	return nil
}

// forUnwrapping is the template of a key that k unwraps: what a session key is, and what k's template has beyond
// that. Some tokens want each attribute of that template named.
func (k *kek) forUnwrapping(extractable bool) []*p11.Attribute {
	template := append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, extractable),
		p11.NewAttribute(p11.CKA_SIGN, true),
	}, withoutUses()...)
	for _, a := range k.template {
		if !has(template, a.Type) {
			template = append(template, a)
		}
	}
	return template
}

func has(template []*p11.Attribute, attr uint) bool {
	for _, a := range template {
		if a.Type == attr {
			return true
		}
	}
	return false
}

// KEK is a key-encryption key to make.
type KEK struct {
	Module string            // absolute path of the shared library
	Env    map[string]string // as in [Config]
	Label  string            // CKA_LABEL, which no other secret key has
	Token  string            // the token's label; "": any
	Serial string            // the token's serial; "": any
	// Movable lets keys that it wrapped be wrapped again by another such key (CKA_WRAP_WITH_TRUSTED). Without it they
	// never leave it.
	Movable bool
	SOPIN   secret.Source // of the security officer, who alone can vouch for a key
}

// Make makes an AES-256 key in the token, with the templates that make it fit to wrap with, and reads back that the
// token made it so. It logs in as security officer once. The module must not be in use in this process.
func (k KEK) Make(ctx context.Context) (err error) {
	mod, err := acquireModule(k.Module, k.Env)
	if err != nil {
		return err
	}
	defer mod.release()
	if err := mod.initialize(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mod.finalize()) }()
	c, err := findToken(mod, choice{label: k.Token, serial: k.Serial})
	if err != nil {
		return err
	}
	s, err := mod.OpenSession(c.slotID, sessionFlags)
	if err != nil {
		return fmt.Errorf("opening a p11Session: %w", err)
	}
	mod.base = &s
	pin, err := k.SOPIN(ctx)
	if err != nil {
		return err
	}
	defer pin.Close()
	err = pin.Use(func(pin []byte) error {
		return mod.Login(s, p11.CKU_SO, unsafe.String(unsafe.SliceData(pin), len(pin)))
	})
	if err != nil {
		return fmt.Errorf("logging in to %s as security officer: %w", c.describe(), err)
	}
	return k.make(c, s)
}

func (k KEK) make(c *conn, s p11Session) error {
	same, err := c.handles(s, []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_LABEL, k.Label)})
	if err != nil || len(same) > 0 {
		return errors.Join(fmt.Errorf("%s has %d secret keys with the label %q; choose another", c.describe(), len(same),
			k.Label), err)
	}
	if c.mod.instances {
		return errInstances
	}
	id := make([]byte, 16)
	rand.Read(id)
	h, err := c.mod.generateKEK(s, k.attributes(id), k.unwrapTemplate())
	if err != nil {
		return fmt.Errorf("making the key: %w; a token that knows no CKA_UNWRAP_TEMPLATE or CKA_TRUSTED can't keep "+
			"wrapped keys safe", err)
	}
	made, err := c.checkKEK(s, h)
	if err == nil && !bytes.Equal([]byte(made.id), id) {
		err = errors.New("the token did not keep the key's CKA_ID")
	}
	if err != nil {
		return errors.Join(fmt.Errorf("what the token made: %w", err), c.mod.DestroyObject(s, h))
	}
	return nil
}

// attributes are those of the key. The security officer's are public objects: without a login they wrap and unwrap,
// but what they unwrap is private, and needs one.
func (k KEK) attributes(id []byte) []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_VALUE_LEN, 32),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_TRUSTED, true),
		p11.NewAttribute(p11.CKA_MODIFIABLE, false),
		p11.NewAttribute(p11.CKA_WRAP, true),
		p11.NewAttribute(p11.CKA_UNWRAP, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_SIGN, false),
		p11.NewAttribute(p11.CKA_VERIFY, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
		p11.NewAttribute(p11.CKA_ID, id),
		p11.NewAttribute(p11.CKA_LABEL, k.Label),
	}
}

// unwrapTemplate is what every key that the key unwraps has.
func (k KEK) unwrapTemplate() []*p11.Attribute {
	template := append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
	}, withoutUses()...)
	if k.Movable {
		return append(template, p11.NewAttribute(p11.CKA_WRAP_WITH_TRUSTED, true))
	}
	return append(template, p11.NewAttribute(p11.CKA_EXTRACTABLE, false))
}
