package piv

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// FuzzParseTLV: what parses is the same after it was written anew, and withoutTLV takes out its tag only.
func FuzzParseTLV(f *testing.F) {
	long := appendTLV(appendTLV(nil, 0x53, make([]byte, 0x80)), 0x7c, make([]byte, 0x100))
	for _, seed := range []string{
		"", "\x01\x01\x11\x02\x02\x02\x01", "\x7c\x02\x80\x00", string(long), // as cards answer
		"\x53", "\x53\x05\x00", "\x53\x80", "\x53\x81", "\x53\x82\x01", "\x53\x83\x00\x00\x01\x00", "\x7f\x49\x00",
		"\x01\x00\x01\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		values, err := parseTLV(b)
		if err != nil {
			return
		}
		var again []byte
		for tag, value := range values {
			again = appendTLV(again, tag, value)
		}
		got, err := parseTLV(again)
		if diff := cmp.Diff(values, got); err != nil || diff != "" {
			t.Errorf("parseTLV(%x) = %v after it was written as %x:\n%s", b, err, again, diff)
		}
		for tag := range values {
			rest, err := withoutTLV(b, tag)
			if err != nil {
				t.Fatalf("withoutTLV(%x, %02x): %v", b, tag, err)
			}
			kept, err := parseTLV(rest)
			if _, there := kept[tag]; err != nil || there || len(kept) != len(values)-1 {
				t.Errorf("withoutTLV(%x, %02x) = %x, %v", b, tag, rest, err)
			}
		}
	})
}

func TestParseTLVRefuses(t *testing.T) {
	for _, b := range []string{"\x53", "\x53\x01", "\x53\x80", "\x53\x81", "\x53\x82\x00", "\x53\x83\x00\x00\x00",
		"\x7f\x49\x00", "\x01\x00\x01\x00"} {
		if values, err := parseTLV([]byte(b)); err == nil {
			t.Errorf("parseTLV(%x) = %v, want an error", b, values)
		}
	}
}

func TestAppendTLV(t *testing.T) {
	for n, head := range map[int]string{0: "\x53\x00", 0x7f: "\x53\x7f", 0x80: "\x53\x81\x80", 0xff: "\x53\x81\xff",
		0x100: "\x53\x82\x01\x00"} {
		if got := appendTLV(nil, 0x53, make([]byte, n)); !bytes.Equal(got, append([]byte(head), make([]byte, n)...)) {
			t.Errorf("appendTLV of %d bytes begins with %x, want %x", n, got[:min(len(got), 4)], head)
		}
	}
}
