package pkcs11

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// generation is one call of Generate. Its fields outlive a connection that is lost
// half-way.
type generation struct {
	b     *Backend
	id    string      // CKA_ID, 16 random bytes
	label string      // CKA_LABEL
	asked atomic.Bool // C_GenerateKeyPair was called: there may be a key
}

// Generate makes a key pair that signs and does nothing else, sensitive and not
// extractable, and reads back that the token made it so. What it made and can't
// return it destroys.
func (b *Backend) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	id := make([]byte, 16)
	rand.Read(id)
	g := &generation{b: b, id: string(id), label: attrs.Label}
	k, err := do(ctx, b, "generating a key", g.run, g.undo)
	if errors.Is(err, backends.ErrUnavailable) && g.asked.Load() {
		if _, sweepErr := do(ctx, b, "cleaning up", g.sweep, nil); sweepErr != nil {
			err = fmt.Errorf("%w; a key with CKA_ID %x may be left in the token, unused", err, g.id)
		}
	}
	if err != nil && !g.asked.Load() { // no login, no connection
		err = backends.NotMade(err)
	}
	return asKey(k, err)
}

// sweep destroys what C_GenerateKeyPair made before the connection was lost.
func (g *generation) sweep(c *conn, s p11Session) (struct{}, error) {
	o, err := c.find(s, g.id)
	if errors.Is(err, backends.ErrKeyNotFound) {
		return struct{}{}, nil
	}
	if err != nil {
		return struct{}{}, err
	}
	return struct{}{}, g.discard(c, s, o)
}

// run is the operation. After a lost connection it runs a second time, and finds
// what the first left behind.
func (g *generation) run(c *conn, s p11Session) (*key, error) {
	if left := c.keys.get(g.id); left != nil {
		if !g.asked.Load() {
			return nil, fmt.Errorf("CKA_ID %x, just drawn, is in use: the random source is broken", g.id)
		}
		if err := c.destroyAll(s, left); err != nil {
			return nil, fmt.Errorf("destroying what the lost connection left: %w", err)
		}
		c.keys.set(g.id, nil)
	}
	before := g.asked.Swap(true)
	pub, priv, err := c.generate(s, g.publicTemplate(), append(g.privateTemplate(), withoutUses()...))
	if refusesTemplate(err) { // some HSMs take no attribute that makes no sense for an elliptic curve
		pub, priv, err = c.generate(s, g.publicTemplate(), g.privateTemplate())
	}
	if errors.Is(err, p11.Error(p11.CKR_USER_NOT_LOGGED_IN)) {
		g.asked.Store(before) // so this try has made nothing
	}
	if err != nil {
		return nil, err
	}
	made := &object{id: g.id, private: []p11.ObjectHandle{priv}, public: []p11.ObjectHandle{pub}}
	k, err := g.accept(c, s, made)
	if err != nil {
		return nil, errors.Join(err, g.discard(c, s, made))
	}
	return k, nil
}

// undo destroys a key that came too late.
func (g *generation) undo(c *conn, s p11Session, _ *key) {
	o := c.keys.get(g.id)
	if o == nil {
		return
	}
	if err := g.discard(c, s, o); err != nil {
		g.b.log.Error("a key that nobody waited for was not destroyed", "error", err)
	}
}

// discard destroys what was made, or says that it is left.
func (g *generation) discard(c *conn, s p11Session, made *object) error {
	c.keys.set(g.id, nil)
	if err := c.destroyAll(s, made); err != nil {
		return fmt.Errorf("the key with CKA_ID %x is left in the token, unused: %w", g.id, err)
	}
	return nil
}

// accept checks what the token made, and puts it in the index.
func (g *generation) accept(c *conn, s p11Session, made *object) (*key, error) {
	if err := c.checkProtected(s, made.private[0]); err != nil {
		return nil, err
	}
	if err := c.takeUses(s, made.private[0]); err != nil {
		return nil, err
	}
	values, err := c.values(s, made.public[0], p11.CKA_EC_PARAMS, p11.CKA_EC_POINT)
	if err != nil {
		return nil, fmt.Errorf("reading the public key: %w", err)
	}
	made.addPublic(made.public[0], values[0], values[1])
	if values, err = c.values(s, made.private[0], p11.CKA_ID, p11.CKA_LABEL); err != nil {
		return nil, fmt.Errorf("reading the key's name: %w", err)
	}
	if string(values[0]) != g.id {
		return nil, fmt.Errorf("the token did not keep the key's CKA_ID")
	}
	made.label = string(values[1]) // a token may cut it
	k, err := g.b.newKey(c, made)
	if err != nil {
		return nil, err
	}
	if err := c.trySign(s, made.private[0], made.point); err != nil {
		return nil, fmt.Errorf("trying the new key: %w", err)
	}
	c.keys.set(g.id, made)
	return k, nil
}

// checkProtected reads back what makes a key resident.
func (c *conn) checkProtected(s p11Session, h p11.ObjectHandle) error {
	want := []struct {
		attr  uint
		name  string
		value byte
	}{
		{p11.CKA_SENSITIVE, "CKA_SENSITIVE", 1},
		{p11.CKA_EXTRACTABLE, "CKA_EXTRACTABLE", 0},
		{p11.CKA_ALWAYS_SENSITIVE, "CKA_ALWAYS_SENSITIVE", 1},
		{p11.CKA_NEVER_EXTRACTABLE, "CKA_NEVER_EXTRACTABLE", 1},
		{p11.CKA_LOCAL, "CKA_LOCAL", 1},
	}
	for _, w := range want {
		got, err := c.values(s, h, w.attr)
		if err != nil {
			return fmt.Errorf("reading %s: %w", w.name, err)
		}
		if len(got[0]) != 1 || got[0][0] != w.value {
			return fmt.Errorf("the token made a key with %s %x, want %02x: it would not be protected", w.name, got[0], w.value)
		}
	}
	return nil
}

// takeUses sees to it that the key does not do what it is not for. A token that has no such attribute has no such use.
func (c *conn) takeUses(s p11Session, h p11.ObjectHandle) error {
	for _, use := range uses {
		on, err := c.may(s, h, use.attr)
		if err != nil {
			return fmt.Errorf("reading %s: %w", use.name, err)
		}
		if !on {
			continue
		}
		if err := c.mod.SetAttributeValue(s, h, []*p11.Attribute{p11.NewAttribute(use.attr, false)}); err != nil {
			return fmt.Errorf("the token made a key with %s, and does not take that away: %w", use.name, err)
		}
		if on, err = c.may(s, h, use.attr); on || err != nil {
			return errors.Join(fmt.Errorf("the token made a key with %s, and keeps it", use.name), err)
		}
	}
	return nil
}

// may reads an attribute that is true or false. One that the token does not have is false.
func (c *conn) may(s p11Session, h p11.ObjectHandle, attr uint) (bool, error) {
	got, err := c.values(s, h, attr)
	if errors.Is(err, p11.Error(p11.CKR_ATTRIBUTE_TYPE_INVALID)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return len(got[0]) != 0 && got[0][0] != 0, nil
}

// trySign signs a random digest and verifies it.
func (c *conn) trySign(s p11Session, h p11.ObjectHandle, point []byte) error {
	var digest [32]byte
	rand.Read(digest[:])
	sig, err := c.sign(s, h, digest, new(backends.Sending))
	if err != nil {
		return err
	}
	_, err = backends.Recoverable(point, digest, sig)
	return err
}

// generate is C_GenerateKeyPair.
func (c *conn) generate(s p11Session, public, private []*p11.Attribute) (pub, priv p11.ObjectHandle, err error) {
	return c.mod.GenerateKeyPair(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
}

// refusesTemplate reports whether err says that an attribute is not taken, and so nothing was made.
func refusesTemplate(err error) bool {
	var rv p11.Error
	if !errors.As(err, &rv) {
		return false
	}
	switch rv {
	case p11.CKR_ATTRIBUTE_TYPE_INVALID, p11.CKR_ATTRIBUTE_VALUE_INVALID, p11.CKR_ATTRIBUTE_READ_ONLY,
		p11.CKR_TEMPLATE_INCONSISTENT:
		return true
	}
	return false
}

// uses are what a session key is not for. Defaults differ between tokens, and SoftHSM's let a key do all of it.
var uses = []struct {
	attr uint
	name string
}{
	{p11.CKA_DECRYPT, "CKA_DECRYPT"},
	{p11.CKA_UNWRAP, "CKA_UNWRAP"},
	{p11.CKA_DERIVE, "CKA_DERIVE"},
	{p11.CKA_SIGN_RECOVER, "CKA_SIGN_RECOVER"},
}

// withoutUses is the part of the private key's template that not every token takes.
func withoutUses() (template []*p11.Attribute) {
	for _, use := range uses {
		template = append(template, p11.NewAttribute(use.attr, false))
	}
	return template
}

// privateTemplate is what every token has to take for a safe key.
func (g *generation) privateTemplate() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_ID, []byte(g.id)),
		p11.NewAttribute(p11.CKA_LABEL, g.label),
	}
}

func (g *generation) publicTemplate() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_EC_PARAMS, secp256k1OID),
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, false),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_ID, []byte(g.id)),
		p11.NewAttribute(p11.CKA_LABEL, g.label),
	}
}

// Destroy deletes the key pair.
func (b *Backend) Destroy(ctx context.Context, uri string) error {
	u, err := parseKeyURI(uri)
	if err != nil {
		return b.wrap("destroying a key", err)
	}
	asked := new(atomic.Bool) // C_DestroyObject was called, and its answer may have been lost
	_, err = do(ctx, b, "destroying a key", func(c *conn, s p11Session) (struct{}, error) {
		o, err := c.resolve(s, u)
		if errors.Is(err, backends.ErrKeyNotFound) && asked.Load() {
			return struct{}{}, nil
		}
		if err != nil {
			return struct{}{}, err
		}
		c.keys.set(o.id, nil)
		err = c.destroyAll(s, o)
		asked.Store(isLost(err))
		return struct{}{}, err
	}, nil)
	return err
}

// destroyAll deletes o's private keys, and then what is left of its public ones: alone
// they are of no use.
func (c *conn) destroyAll(s p11Session, o *object) error {
	for _, h := range o.private {
		if err := c.mod.DestroyObject(s, h); err != nil {
			return err
		}
	}
	for _, h := range o.public {
		if err := c.mod.DestroyObject(s, h); err != nil && !isStale(err) {
			return fmt.Errorf("the private key is destroyed, its public key object is not: %w", err)
		}
	}
	return nil
}
