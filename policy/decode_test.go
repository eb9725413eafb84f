package policy

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every session that the contract was shown.
func TestDecodeABIVectors(t *testing.T) {
	decoded := 0
	for _, c := range vectorCases(t) {
		spec, err := DecodeABI(c.Session.EncodeABI())
		if c.Session.unknownEnum() != "" {
			if err == nil {
				t.Errorf("%s: an enum that the contract does not know was read", c.Name)
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", c.Name, err)
		}
		if spec.Hash() != c.want.SessionHash {
			t.Errorf("%s: hash %v, want %v", c.Name, spec.Hash(), c.want.SessionHash)
		}
		decoded++
	}
	if decoded == 0 {
		t.Error("no session was decoded")
	}
}

func TestDecodeABI(t *testing.T) {
	spec := sampleSpec()
	data := spec.EncodeABI()
	got, err := DecodeABI(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(spec, got); diff != "" {
		t.Errorf("DecodeABI (-want +got):\n%s", diff)
	}
	// A prefix is none, nor is anything longer.
	for n := range data {
		if _, err := DecodeABI(data[:n]); err == nil {
			t.Errorf("the first %d of %d bytes were read", n, len(data))
		}
	}
	if _, err := DecodeABI(append(bytes.Clone(data), make([]byte, word)...)); err == nil {
		t.Error("a word too many was read")
	}
	// Each byte changed gives another spec, or none.
	for i := range data {
		changed := bytes.Clone(data)
		changed[i] ^= 0x80
		if got, err := DecodeABI(changed); err == nil && got.Hash() == spec.Hash() {
			t.Errorf("with byte %d changed, the same spec was read", i)
		}
	}
}

// Arrays that lie over one another would make few bytes into many items.
func TestDecodeABIOverlap(t *testing.T) {
	const policies = 20_000
	b := appendUint64(nil, word)
	b = append(b, make([]byte, 5*word)...)
	b = appendUint64(b, 7*word) // call policies
	b = appendUint64(b, 7*word) // and the same again as transfer policies
	b = appendUint64(b, policies)
	for range policies {
		b = appendUint64(b, 0) // every policy is in the same place: its length is the number of constraints
	}
	if _, err := DecodeABI(b); err == nil {
		t.Fatal("overlapping arrays were read")
	}
	d := abiDecoder{data: b, items: len(b) / word}
	s := d.spec(word)
	items := len(s.TransferPolicies)
	for i := range s.CallPolicies {
		items += 1 + len(s.CallPolicies[i].Constraints)
	}
	if items > len(b)/word {
		t.Errorf("%d bytes were read as %d items", len(b), items)
	}
}

// What is read is written byte for byte as it was.
func FuzzDecodeABI(f *testing.F) {
	f.Add(sampleSpec().EncodeABI())
	f.Add((&Spec{}).EncodeABI())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := DecodeABI(data)
		if err != nil {
			return
		}
		if !bytes.Equal(spec.EncodeABI(), data) {
			t.Fatalf("%x was read, and is written as %x", data, spec.EncodeABI())
		}
	})
}
