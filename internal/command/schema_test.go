package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const docsDir = "../../docs/"

// schema is a JSON schema, as far as docs/json-schema.json and docs/openrpc.json use the language.
type schema struct {
	Ref        string             `json:"$ref"`
	Type       string             `json:"type"`
	Const      any                `json:"const"`
	Enum       []any              `json:"enum"`
	Pattern    string             `json:"pattern"`
	Required   []string           `json:"required"`
	Properties map[string]*schema `json:"properties"`
	Additional *schema            `json:"additionalProperties"`
	Items      *schema            `json:"items"`
	AllOf      []*schema          `json:"allOf"`
	OneOf      []*schema          `json:"oneOf"`

	closed bool // "additionalProperties": false
}

func (s *schema) UnmarshalJSON(data []byte) error {
	if text := string(data); text == "false" || text == "true" {
		*s = schema{closed: text == "false"}
		return nil
	}
	type plain schema
	return json.Unmarshal(data, (*plain)(s))
}

// readSchemas reads docs/json-schema.json, whose schemas are "keyward session list" and so on, and what it refers to.
func readSchemas() (commands map[string]*schema, refs map[string]*schema, err error) {
	var own struct {
		Defs map[string]*schema `json:"$defs"`
	}
	var rpc struct {
		Components struct {
			Schemas map[string]*schema `json:"schemas"`
		} `json:"components"`
	}
	for file, v := range map[string]any{"json-schema.json": &own, "openrpc.json": &rpc} {
		data, readErr := os.ReadFile(docsDir + file)
		err = errors.Join(err, readErr)
		if readErr == nil {
			err = errors.Join(err, json.Unmarshal(data, v))
		}
	}
	return own.Defs, rpc.Components.Schemas, err
}

// check says what of v is not as s has it, and which members s does not know.
func (s *schema) check(v any, path string, refs map[string]*schema) []string {
	if s.Ref != "" {
		name := s.Ref[strings.LastIndex(s.Ref, "/")+1:]
		if refs[name] == nil {
			return []string{path + ": the schema " + s.Ref + " is not there"}
		}
		return refs[name].check(v, path, refs)
	}
	var wrong []string
	known := map[string]bool{}
	s.members(refs, known)
	for _, part := range s.AllOf {
		if part.Ref != "" {
			part = refs[part.Ref[strings.LastIndex(part.Ref, "/")+1:]]
		}
		wrong = append(wrong, part.checkOwn(v, path, refs, known)...)
	}
	fits := func(one *schema) bool { return len(one.check(v, path, refs)) == 0 }
	if len(s.OneOf) > 0 && !slices.ContainsFunc(s.OneOf, fits) {
		wrong = append(wrong, fmt.Sprintf("%s: %v is none of the kinds that it may be", path, v))
	}
	return append(wrong, s.checkOwn(v, path, refs, known)...)
}

// members adds the members that s and its parts have.
func (s *schema) members(refs map[string]*schema, known map[string]bool) {
	if s.Ref != "" {
		s = refs[s.Ref[strings.LastIndex(s.Ref, "/")+1:]]
	}
	for name := range s.Properties {
		known[name] = true
	}
	for _, part := range s.AllOf {
		part.members(refs, known)
	}
}

// checkOwn is check without references and parts. An object with properties has no member but the known ones.
func (s *schema) checkOwn(v any, path string, refs map[string]*schema, known map[string]bool) (wrong []string) {
	fail := func(format string, args ...any) { wrong = append(wrong, path+": "+fmt.Sprintf(format, args...)) }
	if s.Type != "" && s.Type != typeOf(v) && !(s.Type == "number" && typeOf(v) == "integer") {
		fail("is a value of type %s, want %s", typeOf(v), s.Type)
		return wrong
	}
	if s.Const != nil && v != s.Const || s.Enum != nil && !slices.Contains(s.Enum, v) {
		fail("%v is not among %v%v", v, s.Const, s.Enum)
	}
	if text, ok := v.(string); ok && s.Pattern != "" && !regexp.MustCompile(s.Pattern).MatchString(text) {
		fail("%q does not match %s", text, s.Pattern)
	}
	if list, ok := v.([]any); ok && s.Items != nil {
		for i, item := range list {
			wrong = append(wrong, s.Items.check(item, fmt.Sprintf("%s[%d]", path, i), refs)...)
		}
	}
	object, ok := v.(map[string]any)
	if !ok {
		return wrong
	}
	for _, name := range s.Required {
		if _, ok := object[name]; !ok {
			fail("%s is missing", name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		switch inner := s.Properties[name]; {
		case inner != nil:
			wrong = append(wrong, inner.check(object[name], path+"."+name, refs)...)
		case s.Additional != nil && !s.Additional.closed:
			wrong = append(wrong, s.Additional.check(object[name], path+"."+name, refs)...)
		case len(known) > 0 && !known[name]:
			fail("the schema does not have %s", name)
		}
	}
	return wrong
}

func typeOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case bool:
		return "boolean"
	case string:
		return "string"
	case []any:
		return "array"
	case float64:
		if v == float64(int64(v)) {
			return "integer"
		}
		return "number"
	}
	return "object"
}

// shaped STREAM COMMAND...: each line of the stream, stdout or stderr, is as docs/json-schema.json has it for that
// command.
func shaped(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: shaped stdout|stderr command...")
	}
	commands, refs, err := readSchemas()
	ts.Check(err)
	name := strings.Join(args[1:], " ")
	if commands[name] == nil {
		ts.Fatalf("docs/json-schema.json has no %q", name)
	}
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	n := 0
	for ; ; n++ {
		var v any
		err := dec.Decode(&v)
		if errors.Is(err, io.EOF) {
			break
		}
		ts.Check(err)
		if wrong := commands[name].check(v, name, refs); len(wrong) > 0 {
			ts.Fatalf("%s", strings.Join(wrong, "\n"))
		}
	}
	if n == 0 {
		ts.Fatalf("%s: there is no JSON on %s", name, args[0])
	}
}

// Each schema is tried on real output, and each is a schema in the language that the test knows.
func TestJSONSchemaIsTried(t *testing.T) {
	commands, _, err := readSchemas()
	if err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("testdata/json.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for name := range commands {
		// What needs a node of a chain or a device is compared in its own tests.
		elsewhere := name == "session import" || name == "key attest"
		if tried := bytes.Contains(script, []byte("shaped stdout "+name+"\n")) ||
			bytes.Contains(script, []byte("shaped stderr "+name+"\n")); tried == elsewhere {
			t.Errorf("%q: compared in testdata/json.txtar: %v", name, tried)
		}
	}
}

// What is not as the schema has it is noticed.
func TestSchemaNotices(t *testing.T) {
	_, refs, err := readSchemas()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ schema, value string }{
		{`{"type":"string"}`, `1`},
		{`{"type":"integer"}`, `1.5`},
		{`{"enum":["a"]}`, `"b"`},
		{`{"const":true}`, `false`},
		{`{"type":"string","pattern":"^0x"}`, `"1"`},
		{`{"type":"array","items":{"type":"string"}}`, `["a",1]`},
		{`{"type":"object","required":["a"],"properties":{"a":{"type":"string"}}}`, `{}`},
		{`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"b":1}`},
		{`{"type":"object","properties":{"a":{"type":"string"}}}`, `{"a":1}`},
		{`{"allOf":[{"type":"object","properties":{"a":{"type":"string"}}},{"type":"object","properties":{"b":{"type":"string"}}}]}`, `{"c":1}`},
		{`{"$ref":"openrpc.json#/components/schemas/Sessions"}`, `[{}]`},
		{`{"$ref":"openrpc.json#/components/schemas/Nothing"}`, `1`},
		{`{"oneOf":[{"type":"string"},{"type":"integer"}]}`, `true`},
	} {
		var s schema
		var v any
		if err := errors.Join(json.Unmarshal([]byte(tt.schema), &s), json.Unmarshal([]byte(tt.value), &v)); err != nil {
			t.Fatal(err)
		}
		if len(s.check(v, "value", refs)) == 0 {
			t.Errorf("%s takes %s", tt.schema, tt.value)
		}
	}
}
