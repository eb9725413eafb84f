package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// encoding/json matches keys without regard to case, takes the last of two equal
// keys, and cannot tell null from absent. So a spec is read from a tree that keeps
// every key as it was written.

// Bounds of a document, so that a hostile one costs little.
const (
	maxDepth   = 16 // a spec has 6 levels, a case 8
	maxMembers = 64 // keys of one object; the largest has 14
	// A list of a registry's answers has a key for each. Each key is compared with all
	// before it, so there is a bound here too.
	maxRegistryMembers = 8192
)

// SpecError is malformed input: where, and what is wrong with it.
type SpecError struct {
	Path string // e.g. "callPolicies[1].constraints[0].refValue"; "" is the whole document
	Msg  string
}

func (e *SpecError) Error() string {
	if e.Path == "" {
		return e.Msg
	}
	return e.Path + ": " + e.Msg
}

type jsonKind byte

const (
	jsonNull jsonKind = iota
	jsonBool
	jsonNumber
	jsonString
	jsonArray
	jsonObject
)

func (k jsonKind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// jsonValue is one value of a document.
type jsonValue struct {
	kind    jsonKind
	text    string // of a string, unquoted; of a number or boolean, as written
	members []jsonMember
	items   []jsonValue
}

type jsonMember struct {
	key   string
	value jsonValue
}

// member returns the value at key, or nil.
func (v *jsonValue) member(key string) *jsonValue {
	for i := range v.members {
		if v.members[i].key == key {
			return &v.members[i].value
		}
	}
	return nil
}

// parseJSON reads exactly one document of at most maxBytes, with at most maxMembers keys
// in an object.
func parseJSON(data []byte, maxBytes, maxMembers int) (*jsonValue, error) {
	if len(data) > maxBytes {
		return nil, &SpecError{"", fmt.Sprintf("longer than %d bytes", maxBytes)}
	}
	if !utf8.Valid(data) {
		return nil, &SpecError{"", "not JSON: not UTF-8"}
	}
	// The standard decoder judges the syntax, so the scanner below meets none that is wrong.
	var raw json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, &SpecError{"", "not JSON: " + syntaxError(err)}
	}
	s := jsonScanner{data: data, maxMembers: maxMembers}
	v, err := s.value(0)
	var malformed *SpecError
	if errors.As(err, &malformed) {
		malformed.Path = strings.TrimPrefix(malformed.Path, ".")
	}
	return &v, err
}

func syntaxError(err error) string {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Sprintf("%v at byte %d", syntax, syntax.Offset)
	}
	return err.Error()
}

// jsonScanner cuts a document that is known to be valid into values.
type jsonScanner struct {
	data       []byte
	pos        int
	maxMembers int
}

// next skips white space and the punctuation that validity already vouches for,
// and returns the byte at which a value, or the end of one, starts.
func (s *jsonScanner) next() byte {
	for {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n', ',', ':':
			s.pos++
		default:
			return c
		}
	}
}

func (s *jsonScanner) value(depth int) (jsonValue, error) {
	if depth > maxDepth {
		return jsonValue{}, &SpecError{"", fmt.Sprintf("nested deeper than %d levels", maxDepth)}
	}
	switch s.next() {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		text, err := s.string()
		return jsonValue{kind: jsonString, text: text}, err
	case 'n':
		s.pos += len("null")
		return jsonValue{kind: jsonNull}, nil
	case 't', 'f':
		return jsonValue{kind: jsonBool, text: s.literal()}, nil
	default:
		return jsonValue{kind: jsonNumber, text: s.literal()}, nil
	}
}

func (s *jsonScanner) object(depth int) (jsonValue, error) {
	v := jsonValue{kind: jsonObject}
	s.pos++
	for s.next() != '}' {
		key, err := s.string()
		if err != nil {
			return v, err
		}
		if v.member(key) != nil {
			return v, &SpecError{"", fmt.Sprintf("key %s is given twice", quoted(key))}
		}
		if len(v.members) == s.maxMembers {
			return v, &SpecError{"", fmt.Sprintf("an object has more than %d keys", s.maxMembers)}
		}
		value, err := s.value(depth + 1)
		if err != nil {
			return v, prefixed("."+bounded(key), err)
		}
		v.members = append(v.members, jsonMember{key, value})
	}
	s.pos++
	return v, nil
}

func (s *jsonScanner) array(depth int) (jsonValue, error) {
	v := jsonValue{kind: jsonArray}
	s.pos++
	for s.next() != ']' {
		item, err := s.value(depth + 1)
		if err != nil {
			return v, prefixed(fmt.Sprintf("[%d]", len(v.items)), err)
		}
		v.items = append(v.items, item)
	}
	s.pos++
	return v, nil
}

// string reads a quoted string.
func (s *jsonScanner) string() (string, error) {
	start := s.pos
	s.pos++
	escaped := false
	for ; s.data[s.pos] != '"'; s.pos++ {
		if s.data[s.pos] == '\\' {
			escaped = true
			s.pos++
		}
	}
	s.pos++
	if !escaped {
		return string(s.data[start+1 : s.pos-1]), nil
	}
	var text string
	if err := json.Unmarshal(s.data[start:s.pos], &text); err != nil {
		return "", &SpecError{"", "not JSON: " + syntaxError(err)}
	}
	return text, nil
}

// literal reads a number or a boolean.
func (s *jsonScanner) literal() string {
	start := s.pos
	end := bytes.IndexAny(s.data[start:], " \t\r\n,:]}")
	if end < 0 {
		end = len(s.data) - start
	}
	s.pos += end
	return string(s.data[start:s.pos])
}

// prefixed puts a step in front of the error's path.
func prefixed(step string, err error) error {
	var e *SpecError
	if !errors.As(err, &e) {
		return err
	}
	return &SpecError{step + e.Path, e.Msg}
}

// bounded cuts input for an error to a length that a person reads.
func bounded(text string) string {
	if len(text) > 40 {
		return fmt.Sprintf("%.40s...", text)
	}
	return text
}

func quoted(text string) string { return fmt.Sprintf("%q", bounded(text)) }
