package pkcs11

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"sync"

	"github.com/keyward/keyward/backends"
	p11 "github.com/miekg/pkcs11"
)

// object is what the token has under one CKA_ID. It is not changed once it is in an index.
type object struct {
	id      string // CKA_ID
	label   string // CKA_LABEL of the private key
	private []p11.ObjectHandle
	public  []p11.ObjectHandle
	point   []byte // of the public key, 65 bytes; nil: there is none on secp256k1
	several bool   // public keys that differ
}

// index knows the handles of a connection's keys, so that signing never searches: a
// search takes time linear in the number of objects on the token.
type index struct {
	mu   sync.RWMutex
	byID map[string]*object
}

func newIndex() *index { return &index{byID: map[string]*object{}} }

func (x *index) get(id string) *object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.byID[id]
}

// set puts o in the index; nil: takes what has that id out.
func (x *index) set(id string, o *object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o == nil {
		delete(x.byID, id)
		return
	}
	x.byID[id] = o
}

func (x *index) replace(byID map[string]*object) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.byID = byID
}

// all returns the objects that match, ordered by label and id.
func (x *index) all(match func(*object) bool) []*object {
	x.mu.RLock()
	defer x.mu.RUnlock()
	var list []*object
	for _, o := range x.byID {
		if match(o) {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b *object) int {
		return cmp.Or(cmp.Compare(a.label, b.label), cmp.Compare(a.id, b.id))
	})
	return list
}

// load fills the index with all elliptic-curve keys of the token.
func (c *conn) load(s p11Session) error {
	byID, err := c.search(s)
	if err != nil {
		return fmt.Errorf("listing keys: %w", err)
	}
	c.keys.replace(byID)
	return nil
}

// find asks the token what it has under id, and brings the index up to date.
// The error wraps ErrKeyNotFound only if the token is there and has no such key.
func (c *conn) find(s p11Session, id string) (*object, error) {
	byID, err := c.search(s, p11.NewAttribute(p11.CKA_ID, []byte(id)))
	if err != nil {
		return nil, fmt.Errorf("looking for a key: %w", err)
	}
	o := byID[id]
	c.keys.set(id, o)
	if o == nil {
		return nil, c.notFound(s)
	}
	return o, nil
}

// notFound is the error for a key that a search on s did not find. A token that is gone, or
// that logged us out, shows no keys either, and its search reports no error.
func (c *conn) notFound(s p11Session) error {
	if err := c.present(s); err != nil {
		return err
	}
	return fmt.Errorf("%w in %s", backends.ErrKeyNotFound, c.describe())
}

// search reads the elliptic-curve keys that also match the attributes. Public keys without a
// private one are left out, and so are private ones without CKA_ID or on another curve.
func (c *conn) search(s p11Session, match ...*p11.Attribute) (map[string]*object, error) {
	byID := map[string]*object{}
	err := c.each(s, p11.CKO_PRIVATE_KEY, match, []uint{p11.CKA_ID, p11.CKA_LABEL}, func(h p11.ObjectHandle, v [][]byte) {
		id := string(v[0])
		if byID[id] == nil {
			byID[id] = &object{id: id, label: string(v[1])}
		}
		byID[id].private = append(byID[id].private, h)
	})
	if err != nil {
		return nil, err
	}
	delete(byID, "")
	otherCurve := map[string]bool{}
	err = c.each(s, p11.CKO_PUBLIC_KEY, match, []uint{p11.CKA_ID, p11.CKA_EC_PARAMS, p11.CKA_EC_POINT},
		func(h p11.ObjectHandle, v [][]byte) {
			id := string(v[0])
			if byID[id] != nil {
				otherCurve[id] = !byID[id].addPublic(h, v[1], v[2]) || otherCurve[id]
			}
		})
	if err != nil {
		return nil, err
	}
	for id := range otherCurve {
		if otherCurve[id] && byID[id].point == nil {
			delete(byID, id)
		}
	}
	return byID, nil
}

// addPublic adds a public key object to o, and reports whether it is on secp256k1.
func (o *object) addPublic(h p11.ObjectHandle, params, ecPoint []byte) bool {
	o.public = append(o.public, h)
	if !bytes.Equal(params, secp256k1OID) {
		return false
	}
	point := decodePoint(ecPoint)
	o.several = o.several || o.point != nil && !bytes.Equal(o.point, point)
	o.point = point
	return true
}

// one returns o's private key if it is the only one.
func (o *object) one() (p11.ObjectHandle, error) {
	if len(o.private) != 1 || o.several {
		return 0, fmt.Errorf("%w: CKA_ID %x is on %d private and %d public keys", backends.ErrKeyAmbiguous, o.id,
			len(o.private), len(o.public))
	}
	return o.private[0], nil
}

// each calls f with every elliptic-curve key of that class that matches, and the values of
// the attributes that are asked for.
func (c *conn) each(s p11Session, class uint, match []*p11.Attribute, attrs []uint,
	f func(p11.ObjectHandle, [][]byte)) error {
	template := append([]*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, class),
		p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_EC),
		p11.NewAttribute(p11.CKA_TOKEN, true),
	}, match...)
	handles, err := c.handles(s, template)
	if err != nil {
		return err
	}
	for _, h := range handles {
		values, err := c.values(s, h, attrs...)
		if isStale(err) {
			continue // deleted since
		}
		if err != nil {
			return err
		}
		f(h, values)
	}
	return nil
}

// handles finds all objects that match template.
func (c *conn) handles(s p11Session, template []*p11.Attribute) (found []p11.ObjectHandle, err error) {
	if err := c.mod.FindObjectsInit(s, template); err != nil {
		return nil, err
	}
	const batch = 1000
	for {
		some, _, err := c.mod.FindObjects(s, batch)
		if err != nil {
			return nil, err // the p11Session is given up, and the search with it
		}
		if len(some) == 0 {
			return found, c.mod.FindObjectsFinal(s)
		}
		found = append(found, some...)
	}
}

// values reads attributes of an object, in the order asked for.
func (c *conn) values(s p11Session, h p11.ObjectHandle, types ...uint) ([][]byte, error) {
	ask := make([]*p11.Attribute, len(types))
	for i, t := range types {
		ask[i] = p11.NewAttribute(t, nil)
	}
	got, err := c.mod.GetAttributeValue(s, h, ask)
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(got))
	for i, a := range got {
		values[i] = a.Value
	}
	return values, nil
}
