package backends

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"
	"math/big"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"
)

// ErrBadSignature: what the device returned is no signature by the key over the digest.
// It must not be released; signing again may help, a device that repeats it is broken.
var ErrBadSignature = errors.New("device returned a bad signature")

var (
	curveOrder     = uint256.MustFromBig(crypto.S256().Params().N)
	halfCurveOrder = new(uint256.Int).Rsh(curveOrder, 1)
)

// Normalize makes a Signature of the big-endian integers r and s that a device
// returned, replacing a high s by its negative (EIP-2). The error, for integers that are
// not in [1, n-1], wraps [ErrBadSignature].
func Normalize(r, s []byte) (Signature, error) {
	ri, rok := scalar(r)
	si, sok := scalar(s)
	if !rok || !sok {
		return Signature{}, fmt.Errorf("%w: r or s is out of range", ErrBadSignature)
	}
	if si.Gt(halfCurveOrder) {
		si.Sub(curveOrder, &si)
	}
	var sig Signature
	ri.PutUint256(sig[:32])
	si.PutUint256(sig[32:])
	return sig, nil
}

// scalar reads a big-endian integer, of any length, and reports whether it is in [1, n-1].
func scalar(b []byte) (x uint256.Int, ok bool) {
	if b = bytes.TrimLeft(b, "\x00"); len(b) > 32 {
		return x, false
	}
	x.SetBytes(b)
	return x, !x.IsZero() && x.Lt(curveOrder)
}

// Recoverable returns R ‖ S ‖ V, V being 27 or 28, so that the signature recovers to pub, a point of the curve in its
// 65-byte uncompressed form. It verifies the signature: the error, which wraps [ErrBadSignature], comes for every sig
// that is not by pub over digest.
//
// V 29 and 30, for an r above the field's order, are not looked for: contracts
// refuse them, and they occur once in 2^127 signatures.
func Recoverable(pub []byte, digest [32]byte, sig Signature) ([65]byte, error) {
	r, rok := scalar(sig[:32])
	s, sok := scalar(sig[32:])
	if !rok || !sok {
		return [65]byte{}, fmt.Errorf("%w: r or s is out of range", ErrBadSignature)
	}
	if s.Gt(halfCurveOrder) {
		return [65]byte{}, fmt.Errorf("%w: s is high", ErrBadSignature)
	}
	point, err := signaturePoint(pub, digest, &r, &s)
	if err != nil || !bytes.Equal(point[1:33], sig[:32]) {
		return [65]byte{}, fmt.Errorf("%w: it does not verify", ErrBadSignature)
	}
	var out [65]byte
	copy(out[:], sig[:])
	out[64] = 27 + point[64]&1
	return out, nil
}

// signaturePoint returns R = z/s·G + r/s·P, uncompressed, where z is the digest and P the public key. A signature is
// valid if r is the x coordinate of R; V is the parity of R's y (SEC 1, 4.1.4 and 4.1.6).
//
// The library has no function for that sum. It has recovery, which finds P from R as s/r·R - z/r·G, where r is the x
// coordinate of R. Here recovery is asked for R from P: with x, the x coordinate of P, in the place of r, with r·x/s in
// the place of s, and with -z·x/s in the place of z. So one operation verifies and finds V. Recovery as it is meant
// would have to try both V.
func signaturePoint(pub []byte, digest [32]byte, r, s *uint256.Int) ([]byte, error) {
	if len(pub) != 65 {
		return nil, fmt.Errorf("a public key of %d bytes, want 65", len(pub))
	}
	inverse := new(big.Int).ModInverse(s.ToBig(), crypto.S256().Params().N)
	var x, xOverS, z, sum uint256.Int
	x.SetBytes32(pub[1:33])
	xOverS.SetFromBig(inverse)
	xOverS.MulMod(&xOverS, &x, curveOrder)
	z.SetBytes32(digest[:])
	z.MulMod(&z, &xOverS, curveOrder)
	if !z.IsZero() {
		z.Sub(curveOrder, &z)
	}
	sum.MulMod(r, &xOverS, curveOrder)

	var query [65]byte // x ‖ r·x/s ‖ parity of P's y
	copy(query[:32], pub[1:33])
	sum.PutUint256(query[32:])
	query[64] = pub[64] & 1
	return crypto.Ecrecover(z.PaddedBytes(32), query[:])
}

// ParsePublicKey reads a secp256k1 public key, 0x04 ‖ X ‖ Y (SEC 1, 2.3.4), and checks
// that it is on the curve.
func ParsePublicKey(point []byte) (*ecdsa.PublicKey, error) {
	if len(point) != 65 || point[0] != 4 {
		return nil, fmt.Errorf("public key is not a 65-byte uncompressed point")
	}
	pub, err := crypto.UnmarshalPubkey(point)
	if err != nil {
		return nil, fmt.Errorf("public key is not a point of secp256k1: %w", err)
	}
	return pub, nil
}
