package backends_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math/big"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/keyward/keyward/backends"
)

var order = crypto.S256().Params().N

func TestNormalizeRange(t *testing.T) {
	one := []byte{1}
	half := new(big.Int).Rsh(order, 1)
	minus := func(n int64) []byte { return new(big.Int).Sub(order, big.NewInt(n)).Bytes() }
	tests := []struct {
		name  string
		r, s  []byte
		wantS []byte // nil: refused
	}{
		{"smallest", one, one, one},
		{"s just low", one, half.Bytes(), half.Bytes()},
		{"s just high", one, new(big.Int).Add(half, big.NewInt(1)).Bytes(), half.Bytes()},
		{"s highest", one, minus(1), one},
		{"leading zeros", append(make([]byte, 40), 1), one, one},
		{"r highest", minus(1), one, one},
		{"r is the order", order.Bytes(), one, nil},
		{"s is the order", one, order.Bytes(), nil},
		{"r zero", make([]byte, 32), one, nil},
		{"s zero", one, make([]byte, 32), nil},
		{"empty", nil, nil, nil},
		{"r all ones", bytes.Repeat([]byte{0xff}, 32), one, nil},
		{"s too long", one, bytes.Repeat([]byte{0xff}, 64), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			sig, err := backends.Normalize(tt.r, tt.s)
			if tt.wantS == nil {
				if !errors.Is(err, backends.ErrBadSignature) {
					t.Fatalf("Normalize(%x, %x) = %x, %v, want ErrBadSignature", tt.r, tt.s, sig, err)
				}
				return
			}
			want := new(big.Int).SetBytes(tt.wantS)
			if err != nil || new(big.Int).SetBytes(sig[32:]).Cmp(want) != 0 || new(big.Int).SetBytes(sig[:32]).Cmp(new(big.Int).SetBytes(tt.r)) != 0 {
				t.Fatalf("Normalize(%x, %x) = %x, %v, want s %x", tt.r, tt.s, sig, err, want)
			}
		})
	}
}

func TestRecoverable(t *testing.T) {
	key, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	pub := crypto.FromECDSAPub(&key.PublicKey)
	seen := map[byte]bool{}
	for range 64 {
		var digest [32]byte
		rand.Read(digest[:])
		want, err := crypto.Sign(digest[:], key)
		if err != nil {
			t.Fatal(err)
		}
		highS := new(big.Int).Sub(order, new(big.Int).SetBytes(want[32:64])).FillBytes(make([]byte, 32))
		sig, err := backends.Normalize(want[:32], highS)
		if err != nil {
			t.Fatal(err)
		}
		got, err := backends.Recoverable(pub, digest, sig)
		want[64] += 27
		if err != nil || !bytes.Equal(got[:], want) {
			t.Fatalf("Recoverable = %x, %v, want %x", got, err, want)
		}
		seen[got[64]] = true
	}
	if !seen[27] || !seen[28] {
		t.Errorf("V was %v in 64 signatures, want 27 and 28", seen)
	}
}

func TestRecoverableRefuses(t *testing.T) {
	key, _ := crypto.GenerateKey()
	other, _ := crypto.GenerateKey()
	pub := crypto.FromECDSAPub(&key.PublicKey)
	digest := [32]byte{1, 2, 3}
	raw, err := crypto.Sign(digest[:], key)
	if err != nil {
		t.Fatal(err)
	}
	good := backends.Signature(raw[:64])
	flipped := good
	flipped[17] ^= 1
	high := good
	new(big.Int).Sub(order, new(big.Int).SetBytes(good[32:])).FillBytes(high[32:])
	tests := []struct {
		name   string
		pub    []byte
		digest [32]byte
		sig    backends.Signature
	}{
		{"another key", crypto.FromECDSAPub(&other.PublicKey), digest, good},
		{"another digest", pub, [32]byte{1, 2, 4}, good},
		{"flipped bit", pub, digest, flipped},
		{"high s", pub, digest, high},
		{"zero", pub, digest, backends.Signature{}},
		{"no key", nil, digest, good},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := backends.Recoverable(tt.pub, tt.digest, tt.sig); !errors.Is(err, backends.ErrBadSignature) {
				t.Errorf("Recoverable = %x, %v, want ErrBadSignature", got, err)
			}
		})
	}
}

func TestParsePublicKey(t *testing.T) {
	key, _ := crypto.GenerateKey()
	point := crypto.FromECDSAPub(&key.PublicKey)
	pub, err := backends.ParsePublicKey(point)
	if err != nil || !pub.Equal(&key.PublicKey) {
		t.Fatalf("ParsePublicKey = %v, %v, want the key", pub, err)
	}
	offCurve := bytes.Clone(point)
	offCurve[64] ^= 1
	for name, bad := range map[string][]byte{
		"off the curve": offCurve,
		"compressed":    crypto.CompressPubkey(&key.PublicKey),
		"short":         point[:64],
		"hybrid":        append([]byte{6}, point[1:]...),
		"empty":         nil,
	} {
		if _, err := backends.ParsePublicKey(bad); err == nil {
			t.Errorf("ParsePublicKey(%s) succeeded", name)
		}
	}
}
