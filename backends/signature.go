package backends

import (
	"bytes"
	"crypto/ecdsa"
	"errors"
	"fmt"

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

// Recoverable returns R ‖ S ‖ V, V being 27 or 28, so that the signature recovers to pub,
// a point in its 65-byte uncompressed form. Recovering to pub is verification: the
// error, which wraps [ErrBadSignature], comes for every sig that is not by pub over digest.
//
// V 29 and 30, for an r above the field's order, are not looked for: contracts
// refuse them, and they occur once in 2^127 signatures.
func Recoverable(pub []byte, digest [32]byte, sig Signature) ([65]byte, error) {
	var out [65]byte
	copy(out[:], sig[:])
	if s := new(uint256.Int).SetBytes32(sig[32:]); s.Gt(halfCurveOrder) {
		return [65]byte{}, fmt.Errorf("%w: s is high", ErrBadSignature)
	}
	for v := range byte(2) {
		out[64] = v
		got, err := crypto.Ecrecover(digest[:], out[:])
		if err == nil && bytes.Equal(got, pub) {
			out[64] = 27 + v
			return out, nil
		}
	}
	return [65]byte{}, fmt.Errorf("%w: it does not verify", ErrBadSignature)
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
