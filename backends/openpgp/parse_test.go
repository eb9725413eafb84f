package openpgp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/google/go-cmp/cmp"
)

func TestParseURI(t *testing.T) {
	const signer = "0x36615cf349d7f6344891b1e7ca7c72883f5dc049"
	good := "openpgp:serial=05555555;slot=aut;signer=" + signer
	u, err := parseURI(good)
	if err != nil || u.String() != good || u.slot.name != "aut" || u.serial != "05555555" {
		t.Errorf("parseURI(%q) = %v, %v", good, u, err)
	}
	for _, bad := range []string{
		"", "openpgp:", "pkcs11:serial=05555555;slot=aut;signer=" + signer,
		strings.ToUpper(good), "openpgp:serial=5555555;slot=aut;signer=" + signer,
		"openpgp:serial=05555555;slot=dec;signer=" + signer,
		"openpgp:serial=0555555g;slot=aut;signer=" + signer, good + ";", good + "00", good[:len(good)-1], good +
			"?pin-value=1",
		"openpgp:slot=aut;serial=05555555;signer=" + signer, " " + good, "openpgp:serial=abcdef12;slot=sig;signer=" + signer,
	} {
		if u, err := parseURI(bad); err == nil {
			t.Errorf("parseURI(%q) = %v", bad, u)
		}
	}
}

func FuzzParseURI(f *testing.F) {
	f.Add("openpgp:serial=05555555;slot=sig;signer=0x36615cf349d7f6344891b1e7ca7c72883f5dc049")
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := parseURI(s); err == nil && u.String() != s {
			t.Errorf("parseURI(%q).String() = %q", s, u.String())
		}
	})
}

func TestRecord(t *testing.T) {
	r := record{
		1: {common.Address{1}, "keyward-a; ü"},
		3: {common.Address{2}, strings.Repeat("x", maxLabel)},
	}
	raw := r.bytes()
	got, err := parseRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got, cmp.AllowUnexported(label{})); diff != "" {
		t.Errorf("parseRecord (-want +got):\n%s", diff)
	}
	r[1] = label{common.Address{1}, strings.Repeat("y", maxLabel)}
	if n := len(r.bytes()); n > 254 {
		t.Errorf("two of the longest labels take %d bytes, want 254 at most", n)
	}
	for n := range len(raw) {
		if got, err := parseRecord(raw[:n]); err == nil && n != 0 && n != len(recordMagic) && len(got) == 2 {
			t.Errorf("parseRecord of the first %d bytes = %v", n, got)
		}
	}
}

func FuzzParseRecord(f *testing.F) {
	f.Add(record{1: {common.Address{1}, "keyward-a"}, 3: {common.Address{2}, "keyward-b"}}.bytes())
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := parseRecord(raw)
		if err != nil {
			return
		}
		again, err := parseRecord(r.bytes())
		if err != nil {
			t.Fatal(err)
		}
		for _, sl := range slots {
			if r[sl.number] != again[sl.number] {
				t.Errorf("label %d = %v, then %v", sl.number, r[sl.number], again[sl.number])
			}
		}
	})
}

// FuzzCard gives what a card may answer to all that reads it. Nothing panics, and what is
// taken is bounded by what was given.
func FuzzCard(f *testing.F) {
	f.Add(mustHex("6E12 4F10 D2760001240103040006123456780000"))
	f.Add(mustHex("7F49 04 86 02 0400"))
	f.Add(mustHex("8101 03 8201 08 8304 00000010 8408 0102030405060708"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _ = parseAppData(raw)
		_, _ = parseKDF(raw)
		if point, err := parsePublic(raw); err == nil && len(point) > len(raw) {
			t.Errorf("a point of %d bytes in %d", len(point), len(raw))
		}
	})
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err)
	}
	return b
}

// TestKDF derives by the definition of RFC 4880, 3.7.1.3, written another way: of
// salt and PIN, repeated endlessly, the first count bytes are hashed.
func TestKDF(t *testing.T) {
	k, err := parseKDF(mustHex("810103 820108 8304000186A0 84080102030405060708 86081112131415161718"))
	if err != nil {
		t.Fatal(err)
	}
	for password, salt := range map[byte]string{pwSign: "0102030405060708", pwOther: "0102030405060708",
		pwAdmin: "1112131415161718"} {
		want := sha256.Sum256(bytes.Repeat(append(mustHex(salt), "472911"...), 100000/14+1)[:100000])
		got := make([]byte, k.size())
		k.derive(got, password, []byte("472911"))
		if !bytes.Equal(got, want[:]) {
			t.Errorf("derive for %02X = %x, want %x", password, got, want)
		}
	}
	for _, none := range []string{"", "810100", "F903810100"} {
		if k, err := parseKDF(mustHex(none)); k != nil || err != nil {
			t.Errorf("parseKDF(%s) = %v, %v, want none", none, k, err)
		}
	}
	for _, bad := range []string{"810101", "810103", "810103 820109 830400000010 84080102030405060708",
		"810103 820108 8304FFFFFFFF 84080102030405060708"} {
		if _, err := parseKDF(mustHex(bad)); err == nil {
			t.Errorf("parseKDF(%s) succeeded", bad)
		}
	}
}
