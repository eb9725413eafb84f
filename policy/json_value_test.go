package policy

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func parse(t testing.TB, text string) JSONValue {
	t.Helper()
	v, err := ParseJSON([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%s): %v", text, err)
	}
	return v
}

func TestParseRejects(t *testing.T) {
	for text, want := range map[string]string{
		``:           "not JSON: unexpected end of JSON input at byte 0",
		`{}{}`:       "not JSON: invalid character '{' after top-level value at byte 3",
		`{"a":01}`:   "not JSON",
		`[1,]`:       "not JSON",
		"\"\xff\"":   "not JSON: not UTF-8",
		"\ufeff{}":   "not JSON",
		`{"a":'x'}`:  "not JSON",
		`{"a":NaN}`:  "not JSON",
		"{} // note": "not JSON",
	} {
		if _, err := ParseJSON([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %s", text, err, want)
		}
	}
}

func TestOpen(t *testing.T) {
	names := []string{"a", "b"}
	for _, tt := range []struct{ text, want string }{
		{`{"a":1,"b":null}`, ""},
		{` { "b" : [ "}" , "\"" ] , "a" : { "x" : "{" } } `, ""},
		{`{}`, ""},
		{`[]`, "m: want an object, found an array"},
		{`{"c":1}`, "m.c: unknown field"},
		{`{"A":1}`, "m.A: unknown field"},
		{`{"a":1,"b":2,"a":3}`, "m.a: given twice"},
		{`{"a":1,"\u0061":2}`, "m.a: given twice"},
		{`{"\"":1}`, `m."\"": unknown field`},
		{`{"` + strings.Repeat("x", 50) + `":1}`, `m."` + strings.Repeat("x", 40) + `\u2026": unknown field`},
	} {
		err := OpenObject("m", parse(t, tt.text), names).Err()
		if got := text(err); got != tt.want {
			t.Errorf("Open(%s) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestObject(t *testing.T) {
	o := OpenObject("", parse(t, `{"a":"x","b":null}`), []string{"a", "b", "c"})
	if !o.Has("a") || !o.Has("b") || o.Has("c") || !o.Get("a").Is("x") || o.Get("c").Is("x") {
		t.Errorf("a = %s, b = %s, c = %s", o.Get("a"), o.Get("b"), o.Get("c"))
	}
	o.NullIsAbsent("a", "b", "c")
	if !o.Has("a") || o.Has("b") {
		t.Error("null is not absent")
	}
	o.Require("a", "b", "c")
	o.Refuse(errors.New("not wanted"), "a")
	if got := text(o.Err()); got != "b: missing" {
		t.Errorf("Err = %q, want the first error", got)
	}
	fresh := o.Fresh()
	if fresh.Err() != nil || !fresh.Has("a") || fresh.Has("b") {
		t.Errorf("Fresh: %v", fresh.Err())
	}
	cause := errors.New("cause")
	fresh.Check("a", func(JSONValue) error { return WithinPath("[3]", cause) })
	if !errors.Is(fresh.Err(), cause) || text(fresh.Err()) != "a[3]: cause" {
		t.Errorf("Err = %v", fresh.Err())
	}
}

func TestOpenLoose(t *testing.T) {
	var many strings.Builder
	for i := range maxOthers {
		many.WriteString(`"` + strings.Repeat("y", i+1) + `":0,`)
	}
	for _, tt := range []struct{ text, want string }{
		{`{"x":1,"a":2,"y":{}}`, ""},
		{`{"x":1,"\u0078":2}`, "x: given twice"},
		{`{` + many.String() + `"a":1}`, ""},
		{`{` + many.String() + `"z":1}`, "more than 64 unknown members"},
	} {
		if got := text(OpenLooseObject("", parse(t, tt.text), []string{"a"}).Err()); got != tt.want {
			t.Errorf("OpenLoose(%.60s) = %q, want %q", tt.text, got, tt.want)
		}
	}
}

func TestParseTree(t *testing.T) {
	bounds := treeBounds{Bytes: 100, Depth: 2, Members: 2}
	for _, tt := range []struct{ text, want string }{
		{`{"a":[{"b":"\u0041"}],"c":true}`, "a[0].b: nested deeper than 2 levels"},
		{`{"a":[1.0e2,null]}`, ""},
		{`{"a":1,"b":2,"c":3}`, "an object has more than 2 keys"},
		{`{"a":{"b":1,"b":2}}`, `a: key "b" is given twice`},
		{strings.Repeat(" ", 101), "longer than 100 bytes"},
		{`{`, "not JSON: unexpected end of JSON input at byte 1"},
	} {
		n, err := parseTree([]byte(tt.text), bounds)
		if got := text(err); got != tt.want {
			t.Errorf("parseTree(%s) = %q, want %q", tt.text, got, tt.want)
		}
		if err == nil && (n.Member("a").Items[0].Text != "1.0e2" || n.Member("x") != nil) {
			t.Errorf("parseTree(%s) = %+v", tt.text, n)
		}
	}
}

// FuzzParse: walking a document finds what the standard library finds in it.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{`{"a":[1,"\"]",{"b":null}],"":-1.5e3}`, ` [ ] `, `"\\"`, `{"\ud800":"\\\""}`,
		"\"\xff\""} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ParseJSON(data)
		if err != nil {
			if json.Valid(data) && strings.ToValidUTF8(string(data), "") == string(data) {
				t.Errorf("Parse: %v", err)
			}
			return
		}
		var want any
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		if err := dec.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if got := walk(t, v); !reflect.DeepEqual(got, want) {
			t.Errorf("walked: %#v, want %#v", got, want)
		}
	})
}

// walk builds what encoding/json decodes into an any; of a key that is there twice the last counts.
func walk(t *testing.T, v JSONValue) any {
	switch v.Kind() {
	case KindObject:
		m := map[string]any{}
		inside := v.Inside()
		for {
			key, ok := inside.Next()
			if !ok {
				return m
			}
			name, err := key.Text()
			if err != nil {
				t.Fatal(err)
			}
			member, _ := inside.Next()
			m[string(name)] = walk(t, member)
		}
	case KindArray:
		list, err := ReadElements(v, func(e JSONValue) (any, error) { return walk(t, e), nil })
		if err != nil {
			t.Fatal(err)
		}
		return list
	case KindString:
		text, err := v.Text()
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	case KindNumber:
		return json.Number(v)
	case KindBool:
		return string(v) == "true"
	}
	return nil
}

// BenchmarkRefuse is what it costs to reject a large document: it has to stay in proportion to its size.
func BenchmarkRefuse(b *testing.B) {
	var keys strings.Builder
	keys.WriteString(`{"a":1`)
	for i := 0; keys.Len() < 1<<20; i++ {
		keys.WriteString(`,"k` + strings.Repeat("x", i%5) + `":1`)
	}
	keys.WriteString(`}`)
	for name, doc := range map[string]string{
		"keys":    keys.String(),
		"string":  `{"x":"` + strings.Repeat("y", 1<<20) + `"}`,
		"escapes": `{"x":"` + strings.Repeat(`\\`, 1<<19) + `"}`,
		"quotes":  `{"x":"` + strings.Repeat(`\"`, 1<<19) + `"}`,
		"arrays":  `{"x":[` + strings.Repeat(`[],`, 1<<18) + `[]]}`,
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(doc)))
			for b.Loop() {
				v, err := ParseJSON([]byte(doc))
				if err != nil {
					b.Fatal(err)
				}
				if OpenObject("", v, []string{"a"}).Err() == nil ||
					OpenLooseObject("", v, []string{"a"}).Has("a") != strings.HasPrefix(doc, `{"a"`) {
					b.Fatal("not rejected")
				}
			}
		})
	}
}

// What is cut is cut between characters.
func TestCut(t *testing.T) {
	for _, c := range []struct {
		text string
		most int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "abc…"}, {"aß", 3, "aß"}, {"aßc", 2, "a…"}, {"a世界", 4, "a世…"}, {"a世界", 6, "a世…"},
		{"世", 0, "…"},
	} {
		if got := Cut(c.text, c.most); got != c.want {
			t.Errorf("Cut(%q, %d) = %q, want %q", c.text, c.most, got, c.want)
		}
	}
}
