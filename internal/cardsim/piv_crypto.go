package cardsim

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"math/big"
	"slices"
	"time"
)

// Algorithms: SP 800-78-4, table 6-2; from firmware 5.7 also the last four.
const (
	algRSA1024 = 0x06
	algRSA2048 = 0x07
	algP256    = 0x11
	algP384    = 0x14
	algRSA3072 = 0x05
	algRSA4096 = 0x16
	algEd25519 = 0xe0
	algX25519  = 0xe1
)

var rsaBits = map[byte]int{algRSA1024: 1024, algRSA2048: 2048, algRSA3072: 3072, algRSA4096: 4096}

func (f Firmware) supports(alg byte) bool {
	switch alg {
	case algRSA1024, algRSA2048, algP256, algP384:
		return true
	case algRSA3072, algRSA4096, algEd25519, algX25519:
		return f.atLeast(5, 7)
	}
	return false
}

// privateKey is a key of one algorithm. sign and agree return nil if the algorithm can't do
// it, or not with this input.
type privateKey interface {
	algorithm() byte
	public() []byte              // as GENERATE ASYMMETRIC KEY PAIR returns it
	publicKey() crypto.PublicKey // as a certificate has it
	sign(input []byte) []byte
	agree(peer []byte) []byte
}

// touchCache is how long a touch counts with touch policy "cached".
const touchCache = 15 * time.Second

// authenticate is GENERAL AUTHENTICATE: SP 800-73-4, part 2, 3.2.4.
func (p *PIV) authenticate(cmd *Command) ([]byte, uint16) {
	template, err := parseTemplate(cmd.Data, tagAuthenticate)
	if err != nil {
		return nil, SWWrongData
	}
	if cmd.P2 == slotManagement {
		return p.authenticateAdmin(cmd, template)
	}
	k := p.keys[cmd.P2]
	switch {
	case k == nil:
		return nil, SWReferenceNotFound
	case cmd.P2 == slotAttestation || cmd.P1 != k.private.algorithm():
		return nil, SWWrongData
	}
	if sw := p.mayUse(cmd, k); sw != SWOK {
		return nil, sw
	}
	var out []byte
	if input := value(template, 0x81); input != nil {
		out = k.private.sign(input)
	} else if peer := value(template, 0x85); peer != nil {
		out = k.private.agree(peer)
	}
	if out == nil {
		return nil, SWWrongData
	}
	return authTemplate(0x82, out), SWOK
}

// mayUse checks the PIN and waits for a touch, as the key's policies say.
func (p *PIV) mayUse(cmd *Command, k *pivKey) uint16 {
	fresh := p.pinFresh
	p.pinFresh = false
	if k.pin == pinOnce && !p.pinVerified || k.pin == pinAlways && !fresh {
		return SWNotSatisfied
	}
	if k.touch == policyNever || k.touch == touchCached && time.Since(p.touched) < touchCache {
		return SWOK
	}
	if !cmd.WaitTouch() {
		return SWNotSatisfied
	}
	p.touched = time.Now()
	return SWOK
}

// generateKey returns nil if the firmware can't do the algorithm.
func generateKey(firmware Firmware, alg byte) privateKey {
	if !firmware.supports(alg) {
		return nil
	}
	switch alg {
	case algP256, algP384:
		k, err := ecdsa.GenerateKey(curves[alg], rand.Reader)
		return keyOrNil(&ecKey{alg, k}, err)
	case algEd25519:
		_, k, err := ed25519.GenerateKey(rand.Reader)
		return keyOrNil(&edKey{k}, err)
	case algX25519:
		k, err := ecdh.X25519().GenerateKey(rand.Reader)
		return keyOrNil(&xKey{k}, err)
	}
	// A program that wants 1024 bits needs GODEBUG=rsa1024min=0.
	k, err := rsa.GenerateKey(rand.Reader, rsaBits[alg])
	return keyOrNil(&rsaKey{alg, k}, err)
}

// readPrivateKey reads the parts of an imported key. It returns nil if they are no key, or if the firmware
// can't do the algorithm.
func readPrivateKey(firmware Firmware, alg byte, parts []tlv) privateKey {
	if !firmware.supports(alg) {
		return nil
	}
	switch alg {
	case algP256, algP384:
		k, err := ecdsa.ParseRawPrivateKey(curves[alg], value(parts, 0x06))
		return keyOrNil(&ecKey{alg, k}, err)
	case algEd25519:
		seed := value(parts, 0x07)
		if len(seed) != ed25519.SeedSize {
			return nil
		}
		return &edKey{ed25519.NewKeyFromSeed(seed)}
	case algX25519:
		k, err := ecdh.X25519().NewPrivateKey(value(parts, 0x08))
		return keyOrNil(&xKey{k}, err)
	}
	k := rsaFromPrimes(new(big.Int).SetBytes(value(parts, 0x01)), new(big.Int).SetBytes(value(parts, 0x02)))
	if k == nil || k.N.BitLen() != rsaBits[alg] {
		return nil
	}
	return &rsaKey{alg, k}
}

func keyOrNil(k privateKey, err error) privateKey {
	if err != nil {
		return nil
	}
	return k
}

// rsaFromPrimes is the key with the exponent 65537, the only one that a YubiKey takes.
func rsaFromPrimes(p, q *big.Int) *rsa.PrivateKey {
	const exponent = 65537
	one := big.NewInt(1)
	if p.Cmp(one) <= 0 || q.Cmp(one) <= 0 {
		return nil
	}
	phi := new(big.Int).Mul(new(big.Int).Sub(p, one), new(big.Int).Sub(q, one))
	d := new(big.Int).ModInverse(big.NewInt(exponent), phi)
	if d == nil {
		return nil
	}
	return &rsa.PrivateKey{
		PublicKey: rsa.PublicKey{N: new(big.Int).Mul(p, q), E: exponent},
		D:         d,
		Primes:    []*big.Int{p, q},
	}
}

type rsaKey struct {
	alg byte
	key *rsa.PrivateKey
}

func (k *rsaKey) algorithm() byte             { return k.alg }
func (k *rsaKey) publicKey() crypto.PublicKey { return &k.key.PublicKey }
func (k *rsaKey) agree([]byte) []byte         { return nil }

func (k *rsaKey) public() []byte {
	e := big.NewInt(int64(k.key.E)).Bytes()
	return appendTLV(appendTLV(nil, 0x81, k.key.N.Bytes()), 0x82, e)
}

// sign is the bare RSA operation, which also decrypts. The host pads.
func (k *rsaKey) sign(input []byte) []byte {
	m := new(big.Int).SetBytes(input)
	if len(input) != k.key.Size() || m.Cmp(k.key.N) >= 0 {
		return nil
	}
	return m.Exp(m, k.key.D, k.key.N).FillBytes(make([]byte, k.key.Size()))
}

var curves = map[byte]elliptic.Curve{algP256: elliptic.P256(), algP384: elliptic.P384()}

type ecKey struct {
	alg byte
	key *ecdsa.PrivateKey
}

func (k *ecKey) algorithm() byte             { return k.alg }
func (k *ecKey) publicKey() crypto.PublicKey { return &k.key.PublicKey }

func (k *ecKey) public() []byte {
	point, err := k.key.PublicKey.Bytes()
	if err != nil {
		panic(err) // a key that was made here is on its curve
	}
	return appendTLV(nil, 0x86, point)
}

// sign takes a digest that is no longer than the curve's order.
func (k *ecKey) sign(digest []byte) []byte {
	if len(digest) == 0 || len(digest) > k.key.Params().BitSize/8 {
		return nil
	}
	sig, err := ecdsa.SignASN1(rand.Reader, k.key, digest)
	if err != nil {
		return nil
	}
	return sig
}

func (k *ecKey) agree(peer []byte) []byte {
	private, err := k.key.ECDH()
	if err != nil {
		return nil
	}
	return agree(private, peer)
}

type edKey struct{ key ed25519.PrivateKey }

func (k *edKey) algorithm() byte             { return algEd25519 }
func (k *edKey) publicKey() crypto.PublicKey { return k.key.Public() }
func (k *edKey) public() []byte              { return appendTLV(nil, 0x86, slices.Clone(k.key[32:])) }
func (k *edKey) sign(message []byte) []byte  { return ed25519.Sign(k.key, message) }
func (k *edKey) agree([]byte) []byte         { return nil }

type xKey struct{ key *ecdh.PrivateKey }

func (k *xKey) algorithm() byte             { return algX25519 }
func (k *xKey) publicKey() crypto.PublicKey { return k.key.PublicKey() }
func (k *xKey) public() []byte              { return appendTLV(nil, 0x86, k.key.PublicKey().Bytes()) }
func (k *xKey) sign([]byte) []byte          { return nil }
func (k *xKey) agree(peer []byte) []byte    { return agree(k.key, peer) }

func agree(private *ecdh.PrivateKey, peer []byte) []byte {
	public, err := private.Curve().NewPublicKey(peer)
	if err != nil {
		return nil
	}
	secret, err := private.ECDH(public)
	if err != nil {
		return nil
	}
	return secret
}
