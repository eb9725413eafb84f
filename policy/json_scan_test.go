package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// documents are texts that are JSON or nearly so.
var documents = []string{
	``, ` `, `null`, `true`, `false`, `nul`, `nulll`, `0`, `-0`, `01`, `-`, `1.`, `1.5e+10`, `1e`, `.5`, `+1`, `""`, `"`,
	`"a`, `"\`,
	`"\n\u00e9\ud83d\ude00\ud800\udc0\/"`, `"\ud800"`, `"\udc00\ud800x"`, `"\ud800\ud83d\ude00"`, `"\q"`, `"\u12"`,
	"\"\x01\"", "\"\xff\xc3\"",
	`"\b\f\n\r\t\"\\\/\u0000\uFFFF"`, `[]`, `[ ]`, `[1,]`, `[,1]`, `[1 2]`, `[1]]`, `[[[]]]`, `{}`, `{ }`, `{"a"}`,
	`{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1 "b":2}`,
	`{"a":1}{}`, ` {"a" : [1, "x]", {"b}":null}] , "a":-1.0E5} `, "\ufeff{}", `{"a":1,"\u0061":2}`, `[1}`, `{"a":1]`,
	`nulx`, `-x`, `{,`, `{"a":01}`,
}

// checkAgainstStandard wants a text to be JSON exactly where encoding/json says so, and errors at the same byte.
func checkAgainstStandard(t *testing.T, doc []byte) {
	t.Helper()
	_, err := ParseJSON(doc)
	if valid := json.Valid(doc) && utf8.Valid(doc); (err == nil) != valid {
		t.Fatalf("Parse(%q): %v; encoding/json says valid: %v", doc, err, valid)
	}
	var raw json.RawMessage
	var syntax *json.SyntaxError
	if errors.As(json.Unmarshal(doc, &raw), &syntax) &&
		!strings.HasSuffix(err.Error(), fmt.Sprintf(" at byte %d", syntax.Offset)) {
		t.Fatalf("Parse(%q) = %v; encoding/json has %v at byte %d", doc, err, syntax, syntax.Offset)
	}
}

func TestScanner(t *testing.T) {
	for _, text := range documents {
		t.Run(text, func(t *testing.T) { checkAgainstStandard(t, []byte(text)) })
	}
	for _, n := range []int{maxNesting, maxNesting + 1} {
		checkAgainstStandard(t, []byte(strings.Repeat("[", n)+strings.Repeat("]", n)))
		checkAgainstStandard(t, []byte(strings.Repeat(`{"":`, n)+"0"+strings.Repeat("}", n)))
	}
}

func FuzzScanner(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, doc []byte) {
		checkAgainstStandard(t, doc)
		v, err := ParseJSON(doc)
		if err != nil || v.Kind() != KindString {
			return
		}
		var want string
		if err := json.Unmarshal(v, &want); err != nil {
			t.Fatal(err)
		}
		if got, err := v.Text(); err != nil || string(got) != want {
			t.Fatalf("Text of %s = %q, %v, want %q", v, got, err, want)
		}
		if !v.Is(want) && !strings.ContainsRune(want, utf8.RuneError) || v.Is(want+"x") || v.Is("x"+want) {
			t.Fatalf("Is of %s for %q", v, want)
		}
	})
}

func TestIs(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		is         bool
	}{
		{`"nonce"`, "nonce", true}, {`"\u006eonce"`, "nonce", true}, {`"\u006e\u006f\u006e\u0063\u0065"`, "nonce", true},
		{`"\u006e\u006f\u006e\u0063\u0065\u0065"`, "nonce", false}, {`"Nonce"`, "nonce", false}, {`""`, "", true},
		{`""`, "a", false},
		{`"\/"`, "/", true}, {`"\n\n"`, `\n`, false}, {`12345`, "345", false}, {`null`, "ul", false}, {`["a"]`, `"a"`, false},
	} {
		if got := parse(t, tt.text).Is(tt.want); got != tt.is {
			t.Errorf("%s is %q: %v", tt.text, tt.want, got)
		}
	}
}

func TestLeading(t *testing.T) {
	for text, want := range map[string]string{
		`{"id":7,"a":[`:           `7`,
		`{"id":7`:                 ``, // which may go on
		`{"id":"7"`:               `"7"`,
		`{"a":[],"id":"7"`:        `"7"`,
		` { "a" : {} , "id":[1]x`: `[1]`,
		`{"\u0069d":1,}`:          `1`,
		`{"a":{"id":1},"b":`:      ``,
		`{"id"`:                   ``,
		`{`:                       ``,
		`["id",1]`:                ``,
		``:                        ``,
		`{"id":1,"id":2}`:         `1`,
		`{"a":` + strings.Repeat(" ", 5000) + `"","id":3}`: `3`,
	} {
		if got := string(LeadingMember([]byte(text), "id")); got != want {
			t.Errorf("Leading(%.40s) = %s, want %s", text, got, want)
		}
	}
}

// FuzzLeading: what is found in a beginning is in the whole.
func FuzzLeading(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text), uint(len(text)/2))
	}
	f.Fuzz(func(t *testing.T, doc []byte, n uint) {
		got := LeadingMember(doc[:min(n, uint(len(doc)))], "a")
		v, err := ParseJSON(doc)
		if got == nil || err != nil {
			return
		}
		inside := v.Inside()
		for {
			name, ok := inside.Next()
			if !ok {
				t.Fatalf("Leading(%q, %d) = %q, which is not there", doc, n, got)
			}
			if member, _ := inside.Next(); name.Is("a") {
				if !bytes.Equal(member, got) {
					t.Fatalf("Leading(%q, %d) = %q, want %q", doc, n, got, member)
				}
				return
			}
		}
	})
}

// FuzzOpen: an object is opened exactly if its names are known and different, and gives their values.
func FuzzOpen(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Add([]byte(`{"a":1,"b":{"a":2}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		v, err := ParseJSON(doc)
		if err != nil || v.Kind() != KindObject {
			return
		}
		names := []string{"a", "b", ""}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(doc, &want); err != nil {
			t.Fatal(err)
		}
		n, known := 0, true
		for inside, ok := v.Inside(), true; ok; {
			var name JSONValue
			if name, ok = inside.Next(); ok {
				n++
				_, ok = inside.Next()
				known = known && (name.Is("a") || name.Is("b") || name.Is(""))
			}
		}
		o := OpenObject("", v, names)
		if (o.Err() == nil) != (known && n == len(want)) {
			t.Fatalf("Open(%q): %v", doc, o.Err())
		}
		loose := OpenLooseObject("", v, names)
		if (loose.Err() == nil) != (n == len(want)) && n <= maxOthers {
			t.Fatalf("OpenLoose(%q): %v", doc, loose.Err())
		}
		for _, name := range names {
			if o.Err() == nil && !bytes.Equal(o.Get(name), want[name]) {
				t.Fatalf("Open(%q): %q is %q, want %q", doc, name, o.Get(name), want[name])
			}
		}
	})
}

// manyKeys is a megabyte of keys, and longName one key of a megabyte of escapes.
func manyKeys() []byte {
	text := []byte("{")
	for i := 0; len(text) < 1<<20; i++ {
		text = fmt.Appendf(text, `"k%07d":1,`, i)
	}
	return append(text, `"x":1}`...)
}

func longName() []byte { return []byte(`{"` + strings.Repeat(`\u0061`, 1<<20/6) + `":1}`) }

// The cost of rejecting grows with the length, and not with the number of names that are known, nor with the square of
// those that are there: 10^9 comparisons would take more than the bound, which a busy machine keeps.
func TestRejectingIsCheap(t *testing.T) {
	names := make([]string, 200)
	for i := range names {
		names[i] = fmt.Sprintf("name%d", i)
	}
	for name, text := range map[string][]byte{"keys": manyKeys(), "one name": longName()} {
		best, bound := time.Hour, 2*time.Second
		for tries := 0; tries < 3 && best > bound; tries++ {
			start := time.Now()
			v, err := ParseJSON(text)
			if err != nil {
				t.Fatal(err)
			}
			if OpenObject("", v, names).Err() == nil {
				t.Fatal("not rejected")
			}
			if _, err := parseTree(text, treeBounds{Bytes: 1 << 22, Depth: 4, Members: 1 << 20}); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(start))
		}
		if best > bound {
			t.Errorf("%s: %v for a megabyte", name, best)
		}
	}
}

func BenchmarkLongName(b *testing.B) {
	text := longName()
	names := make([]string, 40)
	for i := range names {
		names[i] = fmt.Sprintf("name%d", i)
	}
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		v, err := ParseJSON(text)
		if err != nil || OpenObject("", v, names).Err() == nil {
			b.Fatal("not rejected")
		}
	}
}
