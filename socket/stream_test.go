package socket

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// scanAll feeds pieces to a scanner and returns what it found, documents and errors in order.
func scanAll(max, maxDepth int, pieces ...[]byte) []string {
	s := scanner{max: max, maxDepth: maxDepth, reserve: func(int) bool { return true }, release: func(int) {}}
	var found []string
	note := func(doc []byte, bad *badMessage) bool {
		switch {
		case bad != nil:
			found = append(found, fmt.Sprintf("%d %s id=%s", bad.code, bad.msg, bad.id))
		case doc != nil:
			found = append(found, string(doc))
		}
		return bad != nil || doc != nil
	}
	for _, piece := range pieces {
		for len(piece) > 0 {
			for note(s.Next()) {
			}
			n := copy(s.Room(), piece)
			s.Filled(n)
			piece = piece[n:]
		}
	}
	for note(s.Next()) {
	}
	note(s.End())
	return found
}

var streamTests = []struct {
	name, input string
	want        []string
}{
	{"one", `{"a":1}`, []string{`{"a":1}`}},
	{"two in one write", `{"a":1}{"b":2}`, []string{`{"a":1}`, `{"b":2}`}},
	{"white space around", " \r\n\t{\"a\":1}\n\n[1] \n", []string{`{"a":1}`, `[1]`}},
	{"pretty-printed", "{\n \"a\": [\n1\n]\n}\n", []string{"{\n \"a\": [\n1\n]\n}"}},
	{"brackets in strings", `{"a":"}]\"}\\"}[]`, []string{`{"a":"}]\"}\\"}`, `[]`}},
	{"scalars", "12 true\n\"a b\"null{}", []string{"12", "true", `"a b"`, "null", "{}"}},
	{"scalar at the end", "12", []string{"12"}},
	{"string at the top with an escape", `"a\"b" 1`, []string{`"a\"b"`, "1"}},
	{"mismatched brackets end somewhere", `{"a":]{"b":1}`, []string{`{"a":]`, `{"b":1}`}},
	{"garbage up to the newline", "}{\"lost\":1}\n{\"a\":1}\n",
		[]string{`-32700 not JSON: a message can't begin with '}' id=`, `{"a":1}`}},
	{"byte order mark", "\ufeff{}\n{}", []string{`-32700 not JSON: a message can't begin with 'ï' id=`, `{}`}},
	{"newline in a string", "{\"a\":\"b\n{\"c\":1}", []string{`{"a":"b`, `{"c":1}`}},
	{"cut short", `{"id":7,"a":[`, []string{`-32700 not JSON: the message ends early id=7`}},
	{"as long as may be", `{"a":"123456789012345678901234"}`, []string{`{"a":"123456789012345678901234"}`}},
	{"one byte too long", `{"id":"x","a":"1234567890123456"} {"b":2}`,
		[]string{`-32600 message larger than 32 bytes id="x"`, `{"b":2}`}},
	{"far too long", `{"a":"` + strings.Repeat(`\"}[`, 100000) + `","b":{}}{"b":2}`,
		[]string{`-32600 message larger than 32 bytes id=`, `{"b":2}`}},
	{"too long and never ending", `[` + strings.Repeat(`1,`, 100000), []string{`-32600 message larger than 32 bytes id=`}},
	{"as deep as may be", `[[[[1]]]]`, []string{`[[[[1]]]]`}},
	{"too deep", `[[[[[1]]]]]{}`, []string{`-32600 message nested deeper than 4 levels id=`, `{}`}},
	{"nothing", " \n", nil},
}

func TestScanner(t *testing.T) {
	for _, tt := range streamTests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, scanAll(32, 4, []byte(tt.input))); diff != "" {
				t.Errorf("at once (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.want, scanAll(32, 4, bytes.SplitAfter([]byte(tt.input), nil)...)); diff != "" {
				t.Errorf("byte by byte (-want +got):\n%s", diff)
			}
		})
	}
}

// The same bytes give the same documents, however they are cut into reads.
func FuzzStream(f *testing.F) {
	for _, tt := range streamTests {
		f.Add([]byte(tt.input), uint16(3), uint16(40))
	}
	f.Fuzz(func(t *testing.T, input []byte, first, second uint16) {
		const limit = 600 // above firstBuffer, so that buffers grow
		whole := scanAll(limit, 4, input)
		a := min(int(first), len(input))
		b := min(a+int(second), len(input))
		if diff := cmp.Diff(whole, scanAll(limit, 4, input[:a], input[a:b], input[b:])); diff != "" {
			t.Errorf("cut at %d and %d (-whole +cut):\n%s", a, b, diff)
		}
	})
}

// A message that is too long costs no memory beyond the bound, and gives back what it had.
func TestScannerMemory(t *testing.T) {
	held, most := 0, 0
	s := scanner{max: 1 << 20, maxDepth: 64,
		reserve: func(n int) bool { held += n; most = max(most, held); return true },
		release: func(n int) { held -= n },
	}
	refused := 0
	feed := func(piece []byte) {
		for len(piece) > 0 {
			for doc, bad := s.Next(); doc != nil || bad != nil; doc, bad = s.Next() {
				if bad != nil {
					refused++
				}
			}
			n := copy(s.Room(), piece)
			s.Filled(n)
			piece = piece[n:]
		}
	}
	feed([]byte(`{"a":"`))
	chunk := bytes.Repeat([]byte("x"), 1<<16)
	for range 40 << 20 / len(chunk) {
		feed(chunk)
	}
	feed([]byte(`"}`))
	doc, bad := s.Next()
	if doc != nil || bad != nil || refused != 1 {
		t.Errorf("after 40 MB: document %.20q, error %v, %d refusals, want 1 refusal", doc, bad, refused)
	}
	if most > 2<<20 {
		t.Errorf("held up to %d bytes, want at most twice the bound of 1 MiB", most)
	}
	if held != 0 || cap(s.buf) > keepBuffer {
		t.Errorf("afterwards %d bytes reserved and a buffer of %d, want none and a small one", held, cap(s.buf))
	}
}

// A message that there is no memory for is refused, and the next one is read.
func TestScannerNoMemory(t *testing.T) {
	s := scanner{max: 1 << 20, maxDepth: 64, reserve: func(int) bool { return false }, release: func(int) {}}
	var got []string
	input := []byte(`{"id":5,"a":"` + strings.Repeat("x", 100000) + `"}{"b":2}`)
	for len(input) > 0 {
		for doc, bad := s.Next(); doc != nil || bad != nil; doc, bad = s.Next() {
			if bad != nil {
				got = append(got, fmt.Sprint(bad.code))
			}
		}
		n := copy(s.Room(), input)
		s.Filled(n)
		input = input[n:]
	}
	doc, _ := s.Next()
	got = append(got, string(doc))
	if diff := cmp.Diff([]string{"-32005", `{"b":2}`}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
