package backends_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
)

// spkiPrefix is all of a secp256k1 SubjectPublicKeyInfo before the 65-byte point: 23 bytes, so that it
// has 88, as AWS KMS gives it.
const spkiPrefix = "3056301006072a8648ce3d020106052b8104000a034200"

func spki(t testing.TB) (der, point []byte) {
	t.Helper()
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	prefix, err := hex.DecodeString(spkiPrefix)
	if err != nil {
		t.Fatal(err)
	}
	point = crypto.FromECDSAPub(&k.PublicKey)
	return append(prefix, point...), point
}

func TestParseSPKI(t *testing.T) {
	der, point := spki(t)
	pub, err := backends.ParseSPKI(der)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(crypto.FromECDSAPub(pub), point) {
		t.Errorf("ParseSPKI = %x, want %x", crypto.FromECDSAPub(pub), point)
	}
}

func TestParseSPKIRefuses(t *testing.T) {
	der, point := spki(t)
	edit := func(at int, to ...byte) []byte {
		out := bytes.Clone(der)
		copy(out[at:], to)
		return out
	}
	// The generator of P-256 is not on secp256k1.
	p256 := elliptic.P256().Params()
	other := append([]byte{4}, append(p256.Gx.FillBytes(make([]byte, 32)), p256.Gy.FillBytes(make([]byte, 32))...)...)
	compressed := crypto.CompressPubkey(mustPub(t, point))
	for _, tt := range []struct {
		name string
		der  []byte
		want string
	}{
		{"empty", nil, "not a DER SubjectPublicKeyInfo"},
		{"cut", der[:len(der)-1], "not a DER SubjectPublicKeyInfo"},
		{"bytes at the end", append(bytes.Clone(der), 0), "followed by other bytes"},
		{"a null after the curve", insertNull(der), "followed by other bytes"},
		{"Ed25519's algorithm", edit(6, 0x2b, 0x65, 0x70, 0, 0, 0, 0), "want elliptic curves"},
		{"curve P-384", edit(15, 0x2b, 0x81, 0x04, 0x00, 0x22), "on curve 1.3.132.0.34, want secp256k1"},
		{"unused bits", edit(22, 1), "no point"},
		{"another curve's point", edit(23, other...), "not a point of secp256k1"},
		{"off the curve", edit(23+64, der[23+64]^1), "not a point of secp256k1"},
		{"compressed", slices.Concat(mustHex(t, "3036301006072a8648ce3d020106052b8104000a032200"), compressed),
			"not a 65-byte uncompressed point"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := backends.ParseSPKI(tt.der)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseSPKI(%x) = %v, want an error with %q", tt.der, err, tt.want)
			}
		})
	}
}

func mustPub(t *testing.T, point []byte) *ecdsa.PublicKey {
	t.Helper()
	pub, err := backends.ParsePublicKey(point)
	if err != nil {
		t.Fatal(err)
	}
	return pub
}

func mustHex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// insertNull puts a NULL after the curve's name, which is one parameter too many.
func insertNull(der []byte) []byte {
	out := slices.Insert(bytes.Clone(der), 20, 5, 0)
	out[1] += 2
	out[3] += 2
	return out
}

func TestParseDERSignature(t *testing.T) {
	for _, tt := range []struct {
		name string
		der  []byte
		want string // "": accepted
	}{
		{"short integers", []byte{0x30, 6, 2, 1, 1, 2, 1, 0x7f}, ""},
		{"leading zero that is needed", []byte{0x30, 7, 2, 2, 0, 0x80, 2, 1, 1}, ""},
		{"empty", nil, "not one DER sequence"},
		{"bytes at the end", []byte{0x30, 6, 2, 1, 1, 2, 1, 1, 0}, "not one DER sequence"},
		{"cut", []byte{0x30, 6, 2, 1, 1, 2, 1}, "not one DER sequence"},
		{"long form of a length", []byte{0x30, 0x81, 6, 2, 1, 1, 2, 1, 1}, "not one DER sequence"},
		{"one integer", []byte{0x30, 3, 2, 1, 1}, "not two DER integers"},
		{"three integers", []byte{0x30, 9, 2, 1, 1, 2, 1, 1, 2, 1, 1}, "not two DER integers"},
		{"negative", []byte{0x30, 6, 2, 1, 0x80, 2, 1, 1}, "not two DER integers"},
		{"padded", []byte{0x30, 7, 2, 2, 0, 1, 2, 1, 1}, "not two DER integers"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := backends.ParseDERSignature(tt.der)
			if tt.want == "" && err != nil {
				t.Errorf("ParseDERSignature(%x) = %v", tt.der, err)
			}
			if tt.want != "" && (!errors.Is(err, backends.ErrBadSignature) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("ParseDERSignature(%x) = %v, want ErrBadSignature with %q", tt.der, err, tt.want)
			}
		})
	}
}

// What is accepted is what encoding/asn1 would write.
func FuzzParseDERSignature(f *testing.F) {
	f.Add([]byte{0x30, 6, 2, 1, 1, 2, 1, 0x7f})
	f.Add([]byte{0x30, 7, 2, 2, 0, 0x80, 2, 1, 1})
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		r, s, err := backends.ParseDERSignature(der)
		if err != nil {
			return
		}
		again, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(r), new(big.Int).SetBytes(s)})
		if err != nil || !bytes.Equal(again, der) {
			t.Errorf("ParseDERSignature accepts %x, whose DER is %x (%v)", der, again, err)
		}
	})
}

func FuzzParseSPKI(f *testing.F) {
	der, _ := spki(f)
	f.Add(der)
	f.Add(der[:23])
	f.Fuzz(func(t *testing.T, in []byte) {
		pub, err := backends.ParseSPKI(in)
		if err != nil {
			return
		}
		prefix, _ := hex.DecodeString(spkiPrefix)
		if want := append(prefix, crypto.FromECDSAPub(pub)...); !bytes.Equal(want, in) {
			t.Errorf("ParseSPKI accepts %x, whose DER is %x", in, want)
		}
	})
}

func TestDERSignatureNormalizes(t *testing.T) {
	k, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	var digest [32]byte
	rand.Read(digest[:])
	raw, err := crypto.Sign(digest[:], k)
	if err != nil {
		t.Fatal(err)
	}
	high := new(big.Int).Sub(crypto.S256().Params().N, new(big.Int).SetBytes(raw[32:64]))
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:32]), high})
	if err != nil {
		t.Fatal(err)
	}
	r, s, err := backends.ParseDERSignature(der)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := backends.Normalize(r, s)
	if err != nil || !bytes.Equal(sig[:], raw[:64]) {
		t.Errorf("Normalize(%x) = %x, %v, want %x", der, sig, err, raw[:64])
	}
}
