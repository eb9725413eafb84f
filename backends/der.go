package backends

import (
	"crypto/ecdsa"
	"encoding/asn1"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

var (
	oidECPublicKey = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1} // RFC 5480, section 2.1.1
	oidSecp256k1   = asn1.ObjectIdentifier{1, 3, 132, 0, 10}       // SEC 2, A.2.1
)

// ParseSPKI reads a secp256k1 public key from a DER SubjectPublicKeyInfo (RFC 5480, section 2),
// which crypto/x509 does not, as it does not know the curve. Another algorithm or curve, explicit curve
// parameters, a compressed point, a point off the curve and bytes at the end are errors.
func ParseSPKI(der []byte) (*ecdsa.PublicKey, error) {
	var algorithm, curve asn1.ObjectIdentifier
	var spki, id cryptobyte.String
	var point []byte
	in := cryptobyte.String(der)
	switch {
	case !in.ReadASN1(&spki, cbasn1.SEQUENCE) || !spki.ReadASN1(&id, cbasn1.SEQUENCE) ||
		!id.ReadASN1ObjectIdentifier(&algorithm):
		return nil, errors.New("public key is not a DER SubjectPublicKeyInfo")
	case !algorithm.Equal(oidECPublicKey):
		return nil, fmt.Errorf("public key is for algorithm %v, want elliptic curves (%v)", algorithm, oidECPublicKey)
	case !id.ReadASN1ObjectIdentifier(&curve):
		return nil, errors.New("public key does not name its curve")
	case !curve.Equal(oidSecp256k1):
		return nil, fmt.Errorf("public key is on curve %v, want secp256k1 (%v)", curve, oidSecp256k1)
	case !spki.ReadASN1BitStringAsBytes(&point):
		return nil, errors.New("public key has no point")
	case !id.Empty() || !spki.Empty() || !in.Empty():
		return nil, errors.New("public key is followed by other bytes")
	}
	return ParsePublicKey(point)
}

// ParseDERSignature reads the integers r and s of a DER ECDSA-Sig-Value (RFC 5480, appendix A),
// big-endian. It is strict: negative and padded integers and bytes at the end are errors, which wrap
// [ErrBadSignature]. [Normalize] checks their range.
func ParseDERSignature(der []byte) (r, s []byte, err error) {
	var sequence cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&sequence, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, nil, fmt.Errorf("%w: it is not one DER sequence", ErrBadSignature)
	}
	// Reading into a []byte takes what is not negative and minimally encoded only.
	if !sequence.ReadASN1Integer(&r) || !sequence.ReadASN1Integer(&s) || !sequence.Empty() {
		return nil, nil, fmt.Errorf("%w: it is not two DER integers", ErrBadSignature)
	}
	return r, s, nil
}
