package cardsim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"time"

	ethcrypto "github.com/ethereum/go-ethereum/crypto"
)

// openpgpKey is one of the three keys: for signatures, decryption and authentication.
type openpgpKey struct {
	crt    byte // control reference template: B6, B8, A4
	number byte // 1, 2, 3

	attributes  []byte
	fingerprint []byte // nil: never set
	time        []byte // of generation; nil: never set
	uif         []byte // user interaction flag
	touched     time.Time
	private     crypto.PrivateKey // nil: there is none
	imported    bool
}

// tag is a key's data object, among three in a row of which first is the signature key's.
func (k *openpgpKey) tag(first uint16) uint16 { return first + uint16(k.number) - 1 }

// ordered are the keys by number.
func (o *OpenPGP) ordered() []*openpgpKey {
	return []*openpgpKey{o.keys[0xB6], o.keys[0xB8], o.keys[0xA4]}
}

// keyWithUIF is the key whose touch policy is in D6, D7 or D8.
func (o *OpenPGP) keyWithUIF(tag uint16) *openpgpKey { return o.ordered()[tag-0xD6] }

// Touch policies: 4.4.3.6, and the last two Yubico's.
const (
	uifOff = iota
	uifOn
	uifFixed
	uifCached
	uifCachedFixed
)

// cacheTime is how long a touch holds under the cached policies.
const cacheTime = 15 * time.Second

// Algorithm attributes: 4.4.3.10.
var (
	rsa2048   = []byte{0x01, 0x08, 0x00, 0x00, 0x11, 0x00}
	rsa4096   = []byte{0x01, 0x10, 0x00, 0x00, 0x11, 0x00}
	ecdsaP256 = append([]byte{0x13}, oidP256...)
	ecdsaK256 = append([]byte{0x13}, oidK256...)
	eddsa     = append([]byte{0x16}, oidEd25519...)
	ecdhP256  = append([]byte{0x12}, oidP256...)
	ecdhK256  = append([]byte{0x12}, oidK256...)

	oidP256    = []byte{0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07}
	oidK256    = []byte{0x2B, 0x81, 0x04, 0x00, 0x0A}
	oidEd25519 = []byte{0x2B, 0x06, 0x01, 0x04, 0x01, 0xDA, 0x47, 0x0F, 0x01}
)

// supported are the attributes that a key can have.
func (o *OpenPGP) supported(k *openpgpKey) [][]byte {
	list := [][]byte{rsa2048, rsa4096, ecdsaP256, eddsa, ecdsaK256}
	if k.crt == 0xB8 {
		list = [][]byte{rsa2048, rsa4096, ecdhP256, ecdhK256}
	}
	if o.cfg.NoK256 {
		list = list[:len(list)-1]
	}
	return list
}

// setAttributes changes a key's algorithm. On YubiKeys that deletes the key.
func (o *OpenPGP) setAttributes(k *openpgpKey, data []byte) uint16 {
	for _, a := range o.supported(k) {
		if !bytes.Equal(a, data) {
			continue
		}
		if !bytes.Equal(k.attributes, data) && !o.cfg.Sticky {
			k.private = nil
		}
		k.attributes = a
		return SWOK
	}
	return SWWrongData
}

// generate is GENERATE ASYMMETRIC KEY PAIR, 7.2.14: P1 80 makes a key, 81 reads it.
func (o *OpenPGP) generate(cmd *Command) ([]byte, uint16) {
	if len(cmd.Data) < 2 || o.keys[cmd.Data[0]] == nil {
		return nil, SWWrongData
	}
	k := o.keys[cmd.Data[0]]
	switch {
	case cmd.P1P2() == 0x8000 && !o.verified[pw3]:
		return nil, SWNotSatisfied
	case cmd.P1P2() == 0x8000:
		private, err := newPrivate(k.attributes)
		if err != nil {
			return nil, SWInternal
		}
		k.private, k.imported = private, false
		if k.crt == 0xB6 {
			o.signatures = 0
		}
	case cmd.P1P2() != 0x8100:
		return nil, SWWrongP1P2
	case k.private == nil:
		return nil, SWReferenceNotFound
	}
	return dataObject(0x7F49, public(k.private)), SWOK
}

func newPrivate(attributes []byte) (crypto.PrivateKey, error) {
	switch attributes[0] {
	case 0x01:
		return rsa.GenerateKey(rand.Reader, int(attributes[1])<<8|int(attributes[2]))
	case 0x16:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return private, err
	}
	return ecdsa.GenerateKey(curve(attributes), rand.Reader)
}

// curve is the one that attributes name by its OID.
func curve(attributes []byte) elliptic.Curve {
	if bytes.Equal(attributes[1:], oidK256) {
		return ethcrypto.S256()
	}
	return elliptic.P256()
}

// public is the content of DO 7F49.
func public(private crypto.PrivateKey) []byte {
	switch p := private.(type) {
	case *rsa.PrivateKey:
		return append(dataObject(0x81, p.N.Bytes()), dataObject(0x82, big.NewInt(int64(p.E)).Bytes())...)
	case ed25519.PrivateKey:
		return dataObject(0x86, p.Public().(ed25519.PublicKey))
	}
	p := private.(*ecdsa.PrivateKey)
	return dataObject(0x86, []byte{4}, p.X.FillBytes(make([]byte, 32)), p.Y.FillBytes(make([]byte, 32)))
}

// importKey is PUT DATA with an extended header list, 4.4.3.12, for keys of ECDSA: 4D { CRT, 7F48 { 92 }, 5F48 }.
func (o *OpenPGP) importKey(cmd *Command) uint16 {
	d := cmd.Data
	const scalar = 32
	if !o.verified[pw3] {
		return SWNotSatisfied
	}
	if cmd.P1P2() != 0x3FFF || len(d) < 4+scalar || d[0] != 0x4D || o.keys[d[2]] == nil {
		return SWWrongData
	}
	k := o.keys[d[2]]
	want := dataObject(0x4D, []byte{d[2], 0}, dataObject(0x7F48, []byte{0x92, scalar}),
		dataObject(0x5F48, d[len(d)-scalar:]))
	if k.attributes[0] != 0x13 || !bytes.Equal(d, want) {
		return SWWrongData
	}
	parse := ethcrypto.ToECDSA // secp256k1
	if curve(k.attributes) == elliptic.P256() {
		parse = func(raw []byte) (*ecdsa.PrivateKey, error) { return ecdsa.ParseRawPrivateKey(elliptic.P256(), raw) }
	}
	private, err := parse(d[len(d)-scalar:])
	if err != nil {
		return SWWrongData
	}
	k.private, k.imported = private, true
	return SWOK
}

// computeSignature is PSO:COMPUTE DIGITAL SIGNATURE, 7.2.10.
func (o *OpenPGP) computeSignature(cmd *Command) ([]byte, uint16) {
	if cmd.P1P2() != 0x9E9A {
		return nil, SWWrongP1P2
	}
	if !o.verified[pw1Sign] {
		return nil, SWNotSatisfied
	}
	if o.do[0xC4][0] == 0 {
		delete(o.verified, pw1Sign) // good for one signature
	}
	sig, sw := o.sign(o.keys[0xB6], cmd)
	if sw == SWOK {
		o.signatures++
	}
	return sig, sw
}

// authenticate is INTERNAL AUTHENTICATE, 7.2.13.
func (o *OpenPGP) authenticate(cmd *Command) ([]byte, uint16) {
	if cmd.P1P2() != 0 {
		return nil, SWWrongP1P2
	}
	if !o.verified[pw1Other] {
		return nil, SWNotSatisfied
	}
	return o.sign(o.keys[0xA4], cmd)
}

// sign signs data as it is, if there is a key and, where it has to be, a finger.
func (o *OpenPGP) sign(k *openpgpKey, cmd *Command) ([]byte, uint16) {
	if k.private == nil {
		return nil, SWReferenceNotFound
	}
	if !o.touch(k, cmd) {
		if o.cfg.Generic {
			return nil, swSecurity
		}
		return nil, SWNotSatisfied
	}
	switch p := k.private.(type) {
	case *rsa.PrivateKey:
		sig, err := rsa.SignPKCS1v15(nil, p, crypto.Hash(0), cmd.Data) // the caller made the DigestInfo
		if err != nil {
			return nil, SWWrongData
		}
		return sig, SWOK
	case ed25519.PrivateKey:
		return ed25519.Sign(p, cmd.Data), SWOK
	case *ecdsa.PrivateKey:
		if len(cmd.Data) < 20 || len(cmd.Data) > 64 {
			return nil, SWWrongLength
		}
		r, s, err := ecdsa.Sign(rand.Reader, p, cmd.Data) // s is high half of the time
		if err != nil {
			return nil, SWInternal
		}
		return append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...), SWOK
	}
	return nil, SWInternal
}

// touch waits for a finger, if the policy says so. o.mu is not held meanwhile: a reset may come.
func (o *OpenPGP) touch(k *openpgpKey, cmd *Command) bool {
	cached := k.uif[0] == uifCached || k.uif[0] == uifCachedFixed
	if k.uif[0] == uifOff || cached && time.Since(k.touched) < cacheTime {
		return true
	}
	o.mu.Unlock()
	touched := cmd.WaitTouch()
	o.mu.Lock()
	if touched {
		k.touched = time.Now()
	}
	return touched
}
