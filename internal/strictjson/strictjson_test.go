package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// documents are texts that are JSON or nearly so.
var documents = []string{
	``, ` `, `null`, `true`, `false`, `nul`, `nulll`, `0`, `-0`, `01`, `-`, `1.`, `1.5e+10`, `1e`, `.5`, `+1`, `""`, `"`, `"a`, `"\`,
	`"\n\u00e9\ud83d\ude00\ud800\udc0\/"`, `"\ud800"`, `"\udc00\ud800x"`, `"\ud800\ud83d\ude00"`, `"\q"`, `"\u12"`, "\"\x01\"", "\"\xff\xc3\"",
	`[]`, `[ ]`, `[1,]`, `[,1]`, `[1 2]`, `[1]]`, `[[[]]]`, `{}`, `{ }`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{a:1}`, `{"a":1 "b":2}`, `{"a":1}{}`,
	` {"a" : [1, "x]", {"b}":null}] , "a":-1.0E5} `, "\ufeff{}", `{"a":1,"\u0061":2}`, `[1}`, `{"a":1]`,
}

// A text is JSON here exactly where encoding/json says so, and strings have the same characters.
func checkAgainstStandard(t *testing.T, data []byte) {
	t.Helper()
	v, err := Parse(data, 10_000)
	if (err == nil) != json.Valid(data) {
		t.Fatalf("Parse(%q): %v; encoding/json says valid: %v", data, err, json.Valid(data))
	}
	if err != nil {
		var raw json.RawMessage
		var syntax *SyntaxError
		stdErr := json.Unmarshal(data, &raw)
		if !errors.As(err, &syntax) || syntax.Offset > len(data) || syntax.Offset < 0 {
			t.Fatalf("Parse(%q) = %v, want a SyntaxError in the text", data, err)
		}
		var std *json.SyntaxError
		if errors.As(stdErr, &std) && syntax.Offset != int(std.Offset) {
			t.Fatalf("Parse(%q) = %v at byte %d, encoding/json has %v at byte %d", data, err, syntax.Offset, std, std.Offset)
		}
		return
	}
	checkValue(t, v)
}

// checkValue compares v with what encoding/json makes of it, down to the last part.
func checkValue(t *testing.T, v Value) {
	t.Helper()
	if !json.Valid(v) || bytes.TrimSpace(v) == nil {
		t.Fatalf("%q is no value", v)
	}
	_ = v.String()
	switch v.Kind() {
	case String:
		var want string
		if err := json.Unmarshal(v, &want); err != nil || v.Text() != want || !v.Is(want) {
			t.Fatalf("Text of %q = %q, want %q (%v)", v, v.Text(), want, err)
		}
	case Array:
		var want []json.RawMessage
		if err := json.Unmarshal(v, &want); err != nil {
			t.Fatal(err)
		}
		for i, e := range v.Elements() {
			if i >= len(want) || !bytes.Equal(e, want[i]) {
				t.Fatalf("element %d of %q = %q", i, v, e)
			}
			checkValue(t, e)
		}
	case Object:
		want := map[string]json.RawMessage{}
		if err := json.Unmarshal(v, &want); err != nil {
			t.Fatal(err)
		}
		last := map[string]Value{}
		for name, value := range v.All() {
			last[name] = value
			checkValue(t, value)
		}
		if len(last) != len(want) {
			t.Fatalf("%q has names %v, want %v", v, last, want)
		}
		for name := range want {
			if !bytes.Equal(last[name], want[name]) {
				t.Fatalf("member %q of %q = %q, want %q", name, v, last[name], want[name])
			}
		}
	}
}

func TestParse(t *testing.T) {
	for _, text := range documents {
		t.Run(text, func(t *testing.T) { checkAgainstStandard(t, []byte(text)) })
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkAgainstStandard(t, data) })
}

func TestParseDepth(t *testing.T) {
	for _, text := range []string{`[[1]]`, `{"a":{}}`, `[{"a":"[[["}]`} {
		if _, err := Parse([]byte(text), 2); err != nil {
			t.Errorf("Parse(%s, 2): %v", text, err)
		}
		if _, err := Parse([]byte(text), 1); err == nil || !strings.Contains(err.Error(), "exceeded max depth") {
			t.Errorf("Parse(%s, 1): %v, want an error", text, err)
		}
	}
}

// The messages are encoding/json's, so that whoever knows those knows these.
func TestSyntaxErrors(t *testing.T) {
	for text, want := range map[string]string{
		``:           `0 unexpected end of JSON input`,
		`[1`:         `2 unexpected end of JSON input`,
		`"\q"`:       `3 invalid character 'q' in string escape code`,
		`{} {}`:      `4 invalid character '{' after top-level value`,
		`{"a":1 "b"`: `8 invalid character '"' after object key:value pair`,
		`[1 2]`:      `4 invalid character '2' after array element`,
		`nulx`:       `4 invalid character 'x' in literal null (expecting 'l')`,
		`-x`:         `2 invalid character 'x' in numeric literal`,
		`{,`:         `2 invalid character ',' looking for beginning of object key string`,
	} {
		_, err := Parse([]byte(text), 10)
		var syntax *SyntaxError
		if !errors.As(err, &syntax) || fmt.Sprint(syntax.Offset, " ", syntax.Msg) != want {
			t.Errorf("Parse(%s) = %+v, want %s", text, err, want)
		}
	}
}

func TestMembers(t *testing.T) {
	many := func(n int, last string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `"k%d":%d,`, i, i)
		}
		return "{" + b.String() + last + "}"
	}
	for _, tt := range []struct {
		text string
		n    int
		err  string
	}{
		{`{}`, 0, ""}, {`[]`, 0, ""}, {many(63, `"x":1`), 64, ""},
		{many(64, `"x":1`), 64, "has more than 64 members"},
		{many(3, `"k1":1`), 3, `has "k1" twice`},
		{many(40, `"k39":1`), 40, `has "k39" twice`},
		{many(40, `"\u006b2":1`), 40, `has "k2" twice`},
		{`{"a":1,"A":1}`, 2, ""},
		{`{"":1,"":2}`, 1, `has "" twice`},
	} {
		v, err := Parse([]byte(tt.text), 4)
		if err != nil {
			t.Fatal(err)
		}
		members, err := v.Members(64)
		if got := fmt.Sprint(err); len(members) != tt.n || got != tt.err && !(err == nil && tt.err == "") {
			t.Errorf("Members(%.40s) = %d, %v, want %d, %s", tt.text, len(members), err, tt.n, tt.err)
		}
	}
}

func TestPrefix(t *testing.T) {
	for text, want := range map[string]string{
		`{"id":7,"a":[`:            `id=7`,
		`{"id":7`:                  ``, // which may have been 70
		`{"id":"7"`:                `id="7"`,
		` { "a" : {} , "id":[1]x`:  `a={} id=[1]`,
		`{"a":1,}`:                 `a=1`,
		`{"a"`:                     ``,
		`{`:                        ``,
		`[1]`:                      ``,
		``:                         ``,
		`{"a":1,"b":2,"c":3,"d":4`: `a=1 b=2 c=3`,
	} {
		var got []string
		for _, m := range Prefix([]byte(text), 8, 3) {
			got = append(got, m.Name+"="+string(m.Value))
		}
		if diff := cmp.Diff(want, strings.Join(got, " ")); diff != "" {
			t.Errorf("Prefix(%s) (-want +got):\n%s", text, diff)
		}
	}
}

// FuzzPrefix: members of a beginning are members of the whole.
func FuzzPrefix(f *testing.F) {
	for _, text := range documents {
		f.Add([]byte(text), uint(len(text)/2))
	}
	f.Fuzz(func(t *testing.T, data []byte, n uint) {
		beginning := Prefix(data[:min(n, uint(len(data)))], 16, 8)
		for _, m := range beginning {
			checkValue(t, m.Value)
		}
		v, err := Parse(data, 16)
		if err != nil || v.Kind() != Object {
			return
		}
		i := 0
		for name, value := range v.All() {
			if i == len(beginning) {
				break
			}
			if beginning[i].Name != name || !bytes.Equal(beginning[i].Value, value) {
				t.Fatalf("member %d of a beginning of %q = %v, want %s=%s", i, data, beginning[i], name, value)
			}
			i++
		}
	})
}

func TestReadTree(t *testing.T) {
	limits := Limits{Bytes: 100, Depth: 3, Members: 2}
	for _, tt := range []struct{ text, want string }{
		{`{"a":[1,"\u0031",null,true],"b":{}}`, ``},
		{`{"a":[[1]]}`, ``},
		{`{"a":[[[]]]}`, ``},
		{`{"a":[[[1]]]}`, `a[0][0][0]: nested deeper than 3 levels`},
		{`{"a":{"b":1,"b":2}}`, `a: key "b" is given twice`},
		{`[{"a":1,"b":2,"c":3}]`, `[0]: an object has more than 2 keys`},
		{`{"a":1} x`, `not JSON: invalid character 'x' after top-level value at byte 9`},
		{"\"\xff\"", `not JSON: not UTF-8`},
		{`"` + strings.Repeat("x", 100) + `"`, `longer than 100 bytes`},
	} {
		_, err := ReadTree([]byte(tt.text), limits)
		if got := fmt.Sprint(err); got != tt.want && !(err == nil && tt.want == "") {
			t.Errorf("ReadTree(%s): %v, want %s", tt.text, err, tt.want)
		}
	}
	n, err := ReadTree([]byte(`{"a":["\u0031",2]}`), limits)
	want := &Node{Kind: Object, Members: []NamedNode{{"a", Node{Kind: Array, Items: []Node{{Kind: String, Text: "1"}, {Kind: Number, Text: "2"}}}}}}
	if diff := cmp.Diff(want, n); err != nil || diff != "" {
		t.Errorf("ReadTree: %v (-want +got)\n%s", err, diff)
	}
}

// hostile are a megabyte each of what could be dear to read.
func hostile() map[string][]byte {
	fill := func(open, part, end string) []byte {
		n := 1 << 20 / len(part)
		return []byte(open + strings.Repeat(part, n) + end)
	}
	keys := []byte("{")
	for i := 0; len(keys) < 1<<20; i++ {
		keys = fmt.Appendf(keys, `"k%07d":1,`, i)
	}
	keys = append(keys, `"x":1}`...)
	return map[string][]byte{
		"keys": keys, "numbers": fill("[", "1,", "1]"), "objects": fill("[", "{},", "1]"),
		"escapes": fill(`"`, `\u0031`, `"`), "text": fill(`"`, "abcdefgh", `"`), "spaces": fill("[", "        ", "]"),
		"nested": fill("[", strings.Repeat("[", 50)+strings.Repeat("]", 50)+",", "1]"),
		"broken": fill(`{"a":"`, "0123456789", ``),
	}
}

// Names are not compared each with all before it, which for this megabyte would be some 10^9 comparisons and take more
// than the bound. The bound itself is one that a busy machine keeps.
func TestManyKeys(t *testing.T) {
	const bound = 4 * time.Second
	text, best := hostile()["keys"], time.Hour
	for tries := 0; tries < 3 && best > bound; tries++ {
		start := time.Now()
		v, err := Parse(text, 64)
		if err != nil {
			t.Fatal(err)
		}
		if members, err := v.Members(1 << 20); err != nil || len(members) < 80_000 {
			t.Fatalf("%d members, %v", len(members), err)
		}
		if _, err := ReadTree(text, Limits{Bytes: 1 << 22, Depth: 64, Members: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	if best > bound {
		t.Errorf("%v for a megabyte of keys", best)
	}
}

func BenchmarkParse(b *testing.B) {
	for name, text := range hostile() {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if v, err := Parse(text, 64); err == nil {
					_, _ = v.Members(64)
				}
			}
		})
	}
}
