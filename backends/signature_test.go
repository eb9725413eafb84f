package backends_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"math/big"
	mathrand "math/rand/v2"
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
			if err != nil || new(big.Int).SetBytes(sig[32:]).Cmp(want) != 0 ||
				new(big.Int).SetBytes(sig[:32]).Cmp(new(big.Int).SetBytes(tt.r)) != 0 {
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

// TestRecoverableAgrees compares Recoverable with recovery of the key, which is another computation, for many keys and
// for digests, signatures and keys of which one bit is wrong.
func TestRecoverableAgrees(t *testing.T) {
	for round := range 80 {
		key, err := crypto.GenerateKey()
		if err != nil {
			t.Fatal(err)
		}
		digest := [32]byte{} // 0 is one
		switch {
		case round%8 == 1:
			copy(digest[:], order.Bytes()) // 0 modulo the order
		case round%8 == 2:
			copy(digest[:], bytes.Repeat([]byte{0xff}, 32)) // above the order
		case round%8 > 2:
			rand.Read(digest[:])
		}
		raw, err := crypto.Sign(digest[:], key)
		if err != nil {
			t.Fatal(err)
		}
		good, pub := backends.Signature(raw[:64]), crypto.FromECDSAPub(&key.PublicKey)
		agree(t, pub, digest, good, true)
		for range 8 {
			bit := mathrand.IntN(8 * 32)
			wrongDigest, wrongR, wrongS := digest, good, good
			wrongDigest[bit/8] ^= 1 << (bit % 8)
			wrongR[bit/8] ^= 1 << (bit % 8)
			wrongS[32+bit/8] ^= 1 << (bit % 8)
			agree(t, pub, wrongDigest, good, false)
			agree(t, pub, digest, wrongR, false)
			agree(t, pub, digest, wrongS, false)
		}
		negative := bytes.Clone(pub) // -P, which is on the curve
		new(big.Int).Sub(crypto.S256().Params().P, key.Y).FillBytes(negative[33:])
		agree(t, negative, digest, good, new(big.Int).Mod(new(big.Int).SetBytes(digest[:]), order).Sign() == 0)
	}
}

// agree checks that sig is by pub, or is not, in both computations, and that both find the same V.
func agree(t *testing.T, pub []byte, digest [32]byte, sig backends.Signature, valid bool) {
	t.Helper()
	got, err := backends.Recoverable(pub, digest, sig)
	if valid != (err == nil) || !valid && !errors.Is(err, backends.ErrBadSignature) {
		t.Fatalf("Recoverable(%x, %x, %x) = %x, %v, want it to verify: %v", pub, digest, sig, got, err, valid)
	}
	for v := range byte(2) {
		recovered, err := crypto.Ecrecover(digest[:], append(bytes.Clone(sig[:]), v))
		if is := err == nil && bytes.Equal(recovered, pub); is != (valid && got[64] == 27+v) {
			t.Fatalf("Recoverable(%x, %x, %x) has V %d, and with V %d the key recovers: %v", pub, digest, sig, got[64], 27+v, is)
		}
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
