// Package strictjson reads JSON (RFC 8259) from untrusted callers. It keeps what
// encoding/json gives away: the spelling of names, a name that is given twice, the
// digits of a number, and null as opposed to an absent member.
//
// [Parse] checks a text once. A [Value] is a part of that text: its methods find the
// parts of it again and copy nothing, so that a reader pays for what it looks at and
// can stop at the first thing that is wrong. [ReadTree] reads a whole document instead.
//
// The package does no I/O, keeps no state and uses no reflection. All of its functions
// take time linear in the length of the text.
package strictjson

import (
	"bytes"
	"fmt"
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind is the kind of a value.
type Kind byte

// The kinds of values. Absent is that of a nil [Value].
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

// String returns words for an error message.
func (k Kind) String() string {
	return [...]string{"nothing", "null", "a boolean", "a number", "a string", "an array", "an object"}[k]
}

// Value is the text of one JSON value, without space around it; nil is an absent one. It is
// valid JSON: it comes from [Parse] or is a part of a value that does.
type Value []byte

// Member is one member of an object.
type Member struct {
	Name  string // unescaped
	Value Value
}

// Parse returns the one value that data is the text of. Arrays and objects may nest
// maxDepth levels. The value shares data's memory. The error is a *[SyntaxError].
func Parse(data []byte, maxDepth int) (Value, error) {
	s := scanner{data, maxDepth}
	start := s.space(0)
	end, err := s.value(start, 0)
	if err != nil {
		return nil, err
	}
	if i := s.space(end); i < len(data) {
		return nil, s.unexpected(i, "after top-level value")
	}
	return Value(data[start:end:end]), nil
}

// Prefix returns the members of an object of which only the beginning is there, or is
// JSON: those that are complete, maxMembers at most.
func Prefix(beginning []byte, maxDepth, maxMembers int) []Member {
	s := scanner{beginning, maxDepth}
	i := s.space(0)
	if s.at(i) != '{' {
		return nil
	}
	var members []Member
	for len(members) < maxMembers {
		name := s.space(i + 1)
		value, end, err := s.member(name, 1)
		// A number at the end of the text may go on behind it.
		if err != nil || end == len(beginning) && Value(beginning[value:end]).Kind() == Number {
			break
		}
		text := Value(beginning[name:stringEnd(beginning, name)]).Text()
		members = append(members, Member{text, beginning[value:end:end]})
		if i = s.space(end); s.at(i) != ',' {
			break
		}
	}
	return members
}

// Kind returns what v is.
func (v Value) Kind() Kind {
	if len(v) == 0 {
		return Absent
	}
	switch v[0] {
	case 'n':
		return Null
	case 't', 'f':
		return Bool
	case '"':
		return String
	case '[':
		return Array
	case '{':
		return Object
	}
	return Number
}

// String says what v is, for an error message. Long strings and numbers are cut: a message
// must not carry a whole transaction.
func (v Value) String() string {
	if k := v.Kind(); k == Object || k == Array || k == Absent {
		return k.String()
	}
	const room = 80 // a uint256 in decimal, and its quotes
	if len(v) <= room {
		return strings.ToValidUTF8(string(v), string(utf8.RuneError))
	}
	return strings.ToValidUTF8(string(v[:room]), "") + "…"
}

// Text returns the characters of a string, unescaped. Half of a surrogate pair, and a byte that
// is not UTF-8, becomes U+FFFD, as with encoding/json. Of any other value it is the text as written.
func (v Value) Text() string {
	if v.Kind() != String {
		return string(v)
	}
	inner := v[1 : len(v)-1]
	switch {
	case bytes.IndexByte(inner, '\\') >= 0:
		return unescape(inner)
	case utf8.Valid(inner):
		return string(inner)
	}
	return string([]rune(string(inner)))
}

// Is reports whether v is the string want.
func (v Value) Is(want string) bool {
	if v.Kind() != String {
		return false
	}
	if len(v) == len(want)+2 && bytes.IndexByte(v, '\\') < 0 {
		return string(v[1:len(v)-1]) == want
	}
	return v.Text() == want
}

var simpleEscapes = map[byte]byte{'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t', '"': '"', '\\': '\\', '/': '/'}

// unescape returns the characters between the quotes of a valid string.
func unescape(inner []byte) string {
	var out strings.Builder
	out.Grow(len(inner))
	for len(inner) > 0 {
		if inner[0] != '\\' {
			r, n := utf8.DecodeRune(inner)
			out.WriteRune(r)
			inner = inner[n:]
			continue
		}
		if inner[1] != 'u' {
			out.WriteByte(simpleEscapes[inner[1]])
			inner = inner[2:]
			continue
		}
		r := codeUnit(inner)
		inner = inner[6:]
		if utf16.IsSurrogate(r) && len(inner) >= 6 && inner[0] == '\\' && inner[1] == 'u' {
			if pair := utf16.DecodeRune(r, codeUnit(inner)); pair != utf8.RuneError {
				r, inner = pair, inner[6:]
			}
		}
		out.WriteRune(r) // half of a pair becomes U+FFFD
	}
	return out.String()
}

// codeUnit returns the UTF-16 code unit of the escape that text begins with.
func codeUnit(text []byte) (r rune) {
	for _, c := range text[2:6] {
		switch {
		case isDigit(c):
			c -= '0'
		case c >= 'a':
			c -= 'a' - 10
		default:
			c -= 'A' - 10
		}
		r = r<<4 | rune(c)
	}
	return r
}

// All yields the members of an object in their order, with what is given twice; of another value nothing.
func (v Value) All() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.Kind() != Object {
			return
		}
		c := cursor{v[1:]}
		for name := c.next(); name != nil; name = c.next() {
			if !yield(name.Text(), c.next()) {
				return
			}
		}
	}
}

// Elements yields the elements of an array in their order; of another value nothing.
func (v Value) Elements() iter.Seq2[int, Value] {
	return func(yield func(int, Value) bool) {
		if v.Kind() != Array {
			return
		}
		c := cursor{v[1:]}
		i := 0
		for e := c.next(); e != nil; e = c.next() {
			if !yield(i, e) {
				return
			}
			i++
		}
	}
}

// A MemberError says why an object's members are refused.
type MemberError struct {
	Name  string // the one that is given twice, or ""
	Limit int    // how many members the object may have, if Name is ""
}

func (e *MemberError) Error() string {
	if e.Name == "" && e.Limit > 0 {
		return fmt.Sprintf("has more than %d members", e.Limit)
	}
	return fmt.Sprintf("has %q twice", e.Name)
}

// Members returns the members of an object, each name once and maxMembers at most. With an
// error, a *[MemberError], come the members before it. A value that is no object has none.
func (v Value) Members(maxMembers int) ([]Member, error) {
	var members []Member
	seen := nameSet{}
	for name, value := range v.All() {
		if !seen.add(name) {
			return members, &MemberError{Name: name}
		}
		if len(members) == maxMembers {
			return members, &MemberError{Limit: maxMembers}
		}
		members = append(members, Member{name, value})
	}
	return members, nil
}

// nameSet is the names of an object so far.
type nameSet struct {
	few  []string // the first ones: most objects have no more
	many map[string]bool
}

// add reports whether name is new.
func (s *nameSet) add(name string) bool {
	const few = 16
	for _, other := range s.few {
		if other == name {
			return false
		}
	}
	switch {
	case len(s.few) < few:
		s.few = append(s.few, name)
		return true
	case s.many == nil:
		s.many = make(map[string]bool)
	}
	if s.many[name] {
		return false
	}
	s.many[name] = true
	return true
}

// cursor steps through what is inside an array or object; of an object these are names
// and values in turn.
type cursor struct{ rest []byte }

// next returns the next value, or nil after the last one.
func (c *cursor) next() Value {
	i := 0
	for c.rest[i] == ',' || c.rest[i] == ':' || isSpace(c.rest[i]) {
		i++
	}
	c.rest = c.rest[i:]
	if c.rest[0] == '}' || c.rest[0] == ']' {
		return nil
	}
	n := length(c.rest)
	v := Value(c.rest[:n:n])
	c.rest = c.rest[n:]
	return v
}

// length returns how many bytes the value takes that text begins with. The text is inside
// an array or object.
func length(text []byte) int {
	switch text[0] {
	case '"':
		return stringEnd(text, 0)
	case '{', '[':
		return nestedLength(text)
	}
	for i, c := range text {
		if c == ',' || c == ']' || c == '}' || isSpace(c) {
			return i
		}
	}
	return len(text)
}

// stringEnd returns the position behind the string that begins at i.
func stringEnd(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func nestedLength(text []byte) int {
	for i, depth := 0, 0; ; i++ {
		switch text[i] {
		case '"':
			i = stringEnd(text, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
}
