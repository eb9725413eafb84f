package pkcs11

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"fmt"
	"strings"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// secp256k1OID is CKA_EC_PARAMS: the object identifier 1.3.132.0.10 in DER (SEC 2, A.2.1).
var secp256k1OID = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a}

// key names a private key by its CKA_ID, not by a handle, so that it outlives connections.
type key struct {
	b      *Backend
	uri    string
	serial string // of its token
	id     string // CKA_ID
	point  []byte // public key, 65 bytes
	public *ecdsa.PublicKey
}

var _ backends.Key = (*key)(nil)

func (k *key) URI() string                     { return k.uri }
func (k *key) Public() *ecdsa.PublicKey        { return k.public }
func (k *key) Protection() backends.Protection { return backends.Resident }

// signing is the kind of operation that Status asks for.
const signing = "signing"

func (k *key) SignDigest(ctx context.Context, digest [32]byte) (backends.Signature, error) {
	var sending backends.Sending
	sig, err := do(ctx, k.b, signing, func(c *conn, s p11Session) (backends.Signature, error) {
		h, err := k.handle(c, s)
		if err != nil {
			return backends.Signature{}, err
		}
		sig, err := c.sign(s, h, digest, &sending)
		if isStale(err) {
			c.keys.set(k.id, nil) // so that the second go asks the token
		}
		return sig, err
	}, nil)
	if err != nil {
		return sig, sending.End(err)
	}
	return sig, nil
}

// handle returns the private key's handle in this connection. Only a key that is not in the
// index is searched for in the token.
func (k *key) handle(c *conn, s p11Session) (p11.ObjectHandle, error) {
	if c.info.SerialNumber != k.serial {
		return 0, elsewhere(c, "", k.serial)
	}
	o := c.keys.get(k.id)
	if o == nil {
		var err error
		if o, err = c.find(s, k.id); err != nil {
			return 0, err
		}
	}
	h, err := o.one()
	if err == nil && !bytes.Equal(o.point, k.point) {
		err = fmt.Errorf("%w: CKA_ID %x is another key's now", backends.ErrKeyNotFound, k.id)
	}
	return h, err
}

// sign makes the signature. CKM_ECDSA signs what it gets, and returns r ‖ s with
// either s (PKCS #11 v2.40 mechanisms, 2.3.1).
func (c *conn) sign(s p11Session, h p11.ObjectHandle, digest [32]byte, sending *backends.Sending) (backends.Signature,
	error) {
	raw, n, err := c.mod.signDigest(s, h, digest, sending)
	if err != nil {
		return backends.Signature{}, err
	}
	if n != len(raw) {
		return backends.Signature{}, fmt.Errorf("%w: %d bytes, want 64", backends.ErrBadSignature, n)
	}
	return backends.Normalize(raw[:32], raw[32:])
}

// Key finds the key that uri names by CKA_ID, by label, or by both. A key of a
// token other than the one that is connected is unavailable.
func (b *Backend) Key(ctx context.Context, uri string) (backends.Key, error) {
	u, err := parseKeyURI(uri)
	if err != nil {
		return nil, b.wrap("finding a key", err)
	}
	return asKey(do(ctx, b, "finding a key", func(c *conn, s p11Session) (*key, error) {
		o, err := c.resolve(s, u)
		if err != nil {
			return nil, err
		}
		return b.newKey(c, o)
	}, nil))
}

// asKey keeps a nil *key from becoming a backends.Key that is not nil.
func asKey(k *key, err error) (backends.Key, error) {
	if err != nil {
		return nil, err
	}
	return k, nil
}

// parseKeyURI reads a URI that can name a private key.
func parseKeyURI(uri string) (URI, error) {
	u, err := ParseURI(uri)
	if err != nil {
		return URI{}, err
	}
	if u.Type != "" && u.Type != "private" {
		return URI{}, fmt.Errorf("%q names no private key", uri)
	}
	if len(u.ID) == 0 && u.Object == "" {
		return URI{}, fmt.Errorf("%q names no key: it has neither id nor object", uri)
	}
	return u, nil
}

// resolve finds the one object that u names.
func (c *conn) resolve(s p11Session, u URI) (*object, error) {
	if !u.matches(c.info) {
		return nil, elsewhere(c, u.Token, u.Serial)
	}
	if len(u.ID) > 0 {
		return c.resolveID(s, u)
	}
	// Labels are given by people and other programs, so what the index has may not be all.
	if err := c.load(s); err != nil {
		return nil, err
	}
	found := c.keys.all(u.names)
	switch len(found) {
	case 0:
		return nil, c.notFound(s)
	case 1:
		_, err := found[0].one()
		return found[0], err
	}
	return nil, fmt.Errorf("%w: label %q is on %d keys; name one by its id", backends.ErrKeyAmbiguous, u.Object,
		len(found))
}

// resolveID is resolve for a URI with an id.
func (c *conn) resolveID(s p11Session, u URI) (o *object, err error) {
	if o = c.keys.get(string(u.ID)); o == nil {
		if o, err = c.find(s, string(u.ID)); err != nil {
			return nil, err
		}
	}
	if !u.names(o) {
		return nil, c.notFound(s)
	}
	_, err = o.one()
	return o, err
}

// matches reports whether u can mean a key in the token that info describes.
func (u URI) matches(info p11.TokenInfo) bool {
	same := func(want, have string) bool { return want == "" || want == have }
	return same(u.Token, info.Label) && same(u.Serial, info.SerialNumber) &&
		same(u.Manufacturer, info.ManufacturerID) && same(u.Model, info.Model)
}

// names reports whether u can mean o.
func (u URI) names(o *object) bool {
	return (len(u.ID) == 0 || string(u.ID) == o.id) && (u.Object == "" || u.Object == o.label)
}

// elsewhere is the error for a key whose token is not the one that is connected. The
// key may well exist, so it is not ErrKeyNotFound.
func elsewhere(c *conn, label, serial string) error {
	return fmt.Errorf("%w: the key is in the token %s, and %s is connected", backends.ErrUnavailable,
		choice{label: label, serial: serial}, c.describe())
}

// newKey makes a key of what is in the token.
func (b *Backend) newKey(c *conn, o *object) (*key, error) {
	if o.point == nil {
		return nil, fmt.Errorf("CKA_ID %x has no public key object on secp256k1 beside the private one", o.id)
	}
	public, err := backends.ParsePublicKey(o.point)
	if err != nil {
		return nil, fmt.Errorf("CKA_ID %x: %w", o.id, err)
	}
	u := URI{Token: c.info.Label, Serial: c.info.SerialNumber, ID: []byte(o.id), Object: o.label, Type: "private"}
	return &key{b: b, uri: u.String(), serial: c.info.SerialNumber, id: o.id, point: o.point, public: public}, nil
}

// Keys lists the keys whose label starts with prefix, as the token has them now. What is no
// usable key, for want of a public key object or because its CKA_ID is not
// its own, is logged and left out.
func (b *Backend) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	return do(ctx, b, "listing keys", func(c *conn, s p11Session) ([]backends.ListedKey, error) {
		if err := c.load(s); err != nil {
			return nil, err
		}
		found := c.keys.all(func(o *object) bool { return strings.HasPrefix(o.label, prefix) })
		if len(found) == 0 {
			return nil, c.present(s) // a token that is gone has no keys either
		}
		var list []backends.ListedKey
		for _, o := range found {
			k, err := b.newKey(c, o)
			if err == nil {
				_, err = o.one()
			}
			if err != nil {
				b.log.Warn("key is not usable", "label", o.label, "error", err)
				continue
			}
			list = append(list, backends.ListedKey{Key: k, Label: o.label})
		}
		return list, nil
	}, nil)
}

// decodePoint reads CKA_EC_POINT: the DER encoding of an OCTET STRING of the
// uncompressed point (PKCS #11 v2.40 mechanisms, 2.3.3), or, as some tokens have it, the
// point alone. Nil if it is neither.
func decodePoint(b []byte) []byte {
	if len(b) == 67 && b[0] == 0x04 && b[1] == 65 {
		b = b[2:]
	}
	if len(b) != 65 || b[0] != 4 {
		return nil
	}
	return b
}
