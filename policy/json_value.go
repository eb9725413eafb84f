package policy

// This file and the other json_*.go files are the strict JSON reader that every parser of a client's JSON uses: names
// match exactly, no member is given twice, numbers keep their digits, and null differs from absent. The standard
// library's decoder promises none of these.
//
// [ParseJSON] checks a document once. After that a [JSONValue] is a piece of its text, and a [JSONObject] finds the
// members that it knows by name. Neither allocates per byte or reads what no caller asks for. parseTree is for small
// documents whose shape is not known in advance. The reader does no I/O. Its cost is linear in the document, also for
// a document that it rejects.

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// JSONKind is the kind of a JSON value.
type JSONKind uint8

const (
	KindNull JSONKind = iota
	KindBool
	KindNumber
	KindString
	KindArray
	KindObject
)

func (k JSONKind) String() string {
	return [...]string{"null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// JSONValue is the text of one JSON value, without space around it; nil is an absent one. It is always cut out of
// a document that [ParseJSON] has accepted, so that reading it has no syntax to check.
type JSONValue []byte

// maxNesting is how deep arrays and objects may nest, as in encoding/json.
const maxNesting = 10_000

// ParseJSON returns the one value of a document. It rejects what is not JSON by RFC 8259, and text that is not
// UTF-8 (section 8.1). The value shares the document's memory.
func ParseJSON(doc []byte) (JSONValue, error) {
	s := jsonScanner{doc, maxNesting}
	start := s.space(0)
	end, err := s.value(start, 0)
	if err == nil {
		if rest := s.space(end); rest < len(doc) {
			err = s.unexpected(rest, "after top-level value")
		}
	}
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(doc) {
		return nil, &JSONError{Msg: "not JSON: not UTF-8"}
	}
	return JSONValue(doc[start:end:end]), nil
}

// LeadingMember finds a member of an object of which only the beginning is there, or is JSON; nil if it is not there,
// or may go on behind the end.
func LeadingMember(beginning []byte, name string) JSONValue {
	s := jsonScanner{beginning, maxNesting}
	i := s.space(0)
	if s.at(i) != '{' {
		return nil
	}
	for {
		key := s.space(i + 1)
		start, end, err := s.member(key, 1)
		if err != nil {
			return nil
		}
		v := JSONValue(beginning[start:end:end])
		if JSONValue(beginning[key : key+stringLength(beginning[key:])]).Is(name) {
			if end == len(beginning) && v.Kind() == KindNumber {
				return nil
			}
			return v
		}
		if i = s.space(end); s.at(i) != ',' {
			return nil
		}
	}
}

// Kind tells by the first byte.
func (v JSONValue) Kind() JSONKind {
	switch v[0] {
	case '{':
		return KindObject
	case '[':
		return KindArray
	case '"':
		return KindString
	case 'n':
		return KindNull
	case 't', 'f':
		return KindBool
	}
	return KindNumber
}

// Text returns the characters of a string. Half of a surrogate pair becomes U+FFFD.
func (v JSONValue) Text() ([]byte, error) {
	if v.Kind() != KindString {
		return nil, fmt.Errorf("want a string, found %s", v)
	}
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	return unescape(inner), nil
}

// Is reports whether v is the string want. An absent value is none.
func (v JSONValue) Is(want string) bool {
	// A character takes a byte at least, and as an escape six for each of its bytes at most.
	if len(v) < len(want)+2 || len(v) > 6*len(want)+2 || v[0] != '"' {
		return false
	}
	inner := v[1 : len(v)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner) == want
	}
	return string(unescape(inner)) == want
}

// String says what v is, for an error message. Long values are cut: a message must not carry a whole
// transaction.
func (v JSONValue) String() string {
	if k := v.Kind(); k == KindObject || k == KindArray {
		return k.String()
	}
	const room = 80 // a uint256 in decimal, and its quotes
	if len(v) <= room {
		return strings.ToValidUTF8(string(v), string(utf8.RuneError))
	}
	return strings.ToValidUTF8(string(v[:room]), "") + "…"
}

// valueLength returns how many bytes of text its first value takes. The text is inside an object or array.
func valueLength(text []byte) int {
	switch text[0] {
	case '"':
		return stringLength(text)
	case '{', '[':
		return nestedLength(text)
	}
	return bytes.IndexAny(text, ",]} \t\r\n") // the end of what it is in, at the latest
}

func stringLength(text []byte) int {
	// Most strings have no escapes, and calldata is most of what comes.
	end := 1 + bytes.IndexByte(text[1:], '"')
	if bytes.IndexByte(text[1:end], '\\') < 0 {
		return end + 1
	}
	for i := 1; ; i++ {
		switch text[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
}

func nestedLength(text []byte) int {
	for i, depth := 0, 0; ; i++ {
		switch text[i] {
		case '"':
			i += stringLength(text[i:]) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
}

// JSONCursor steps through the values in an object or array. Of an object these are names and values in turn.
type JSONCursor struct{ rest []byte }

// Inside returns a cursor before the first value in an object or array.
func (v JSONValue) Inside() JSONCursor { return JSONCursor{v[1:]} }

// Next returns the next value, and false after the last one.
func (c *JSONCursor) Next() (JSONValue, bool) {
	for c.rest[0] == ',' || c.rest[0] == ':' || c.rest[0] <= ' ' {
		c.rest = c.rest[1:]
	}
	if c.rest[0] == '}' || c.rest[0] == ']' {
		return nil, false
	}
	n := valueLength(c.rest)
	v := JSONValue(c.rest[:n:n])
	c.rest = c.rest[n:]
	return v, true
}

// ReadElements reads an array, each element by read. The list is not nil. Errors are *[JSONError] or read's first one.
func ReadElements[T any](v JSONValue, read func(JSONValue) (T, error)) ([]T, error) {
	if v.Kind() != KindArray {
		return nil, fmt.Errorf("want an array, found %s", v)
	}
	list := []T{}
	inside := v.Inside()
	for e, ok := inside.Next(); ok; e, ok = inside.Next() {
		item, err := read(e)
		if err != nil {
			return nil, WithinPath("["+strconv.Itoa(len(list))+"]", err)
		}
		list = append(list, item)
	}
	return list, nil
}
