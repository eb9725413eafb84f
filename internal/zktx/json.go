package zktx

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// value is the text of one JSON value, without space around it; nil is an absent one.
// Values are cut only out of text that json.Valid accepts, so the walk in this file
// finds where values begin and end and has no syntax to check. It never recurses on
// nesting in the input: how deep it looks is up to the code that reads.
type value []byte

// document returns the one value that data is the text of.
func document(data []byte) (value, error) {
	if !json.Valid(data) {
		var raw json.RawMessage
		return nil, &FieldError{Msg: "not JSON: " + json.Unmarshal(data, &raw).Error()}
	}
	return value(bytes.Trim(data, " \t\r\n")), nil
}

func (v value) isObject() bool { return v[0] == '{' }
func (v value) isArray() bool  { return v[0] == '[' }
func (v value) isString() bool { return v[0] == '"' }
func (v value) isNull() bool   { return v[0] == 'n' }
func (v value) isNumber() bool { return v[0] == '-' || isDigit(v[0]) }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// text returns the characters of a string.
func (v value) text() ([]byte, error) {
	if !v.isString() {
		return nil, fmt.Errorf("want a string, found %s", v)
	}
	if bytes.IndexByte(v, '\\') < 0 {
		return v[1 : len(v)-1], nil
	}
	var s string
	err := json.Unmarshal(v, &s)
	return []byte(s), err
}

// String says what v is, for an error message. Long strings are cut: a message must
// not carry a whole transaction.
func (v value) String() string {
	switch {
	case v.isObject():
		return "an object"
	case v.isArray():
		return "an array"
	}
	const room = 80 // a uint256 in decimal, and its quotes
	if len(v) <= room {
		return strings.ToValidUTF8(string(v), string(utf8.RuneError))
	}
	return strings.ToValidUTF8(string(v[:room]), "") + "…"
}

// length returns how many bytes of text its first value takes. The text is inside an
// object or array.
func length(text []byte) int {
	switch text[0] {
	case '"':
		return stringLength(text)
	case '{', '[':
		return nestedLength(text)
	}
	return bytes.IndexAny(text, ",]} \t\r\n") // the end of what it is in, at the latest
}

func stringLength(text []byte) int {
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

// cursor steps through the values in an object or array; of an object these are
// names and values in turn.
type cursor struct{ rest []byte }

func (v value) inside() cursor { return cursor{v[1:]} }

// next returns the next value, and false after the last one.
func (c *cursor) next() (value, bool) {
	for c.rest[0] == ',' || c.rest[0] == ':' || c.rest[0] <= ' ' {
		c.rest = c.rest[1:]
	}
	if c.rest[0] == '}' || c.rest[0] == ']' {
		return nil, false
	}
	n := length(c.rest)
	v := value(c.rest[:n])
	c.rest = c.rest[n:]
	return v, true
}

// elements reads an array, each element by read.
func elements[T any](v value, read func(value) (T, error)) ([]T, error) {
	if !v.isArray() {
		return nil, fmt.Errorf("want an array, found %s", v)
	}
	list := []T{}
	inside := v.inside()
	for e, ok := inside.next(); ok; e, ok = inside.next() {
		item, err := read(e)
		if err != nil {
			return nil, within("["+strconv.Itoa(len(list))+"]", err)
		}
		list = append(list, item)
	}
	return list, nil
}

// object is a JSON object whose members all have known names. It keeps the first
// error, so that who reads many fields checks once, at the end.
type object struct {
	names  []string // exact: JSON names are case-sensitive
	values []value  // as names; nil: absent
	path   string   // in front of names in errors: "" or "message."
	err    error    // a *FieldError
}

// openObject matches the members of v with names. A member with another name, a
// duplicate one, and v not being an object are errors.
func openObject(path string, v value, names []string) *object {
	o := &object{names: names, values: make([]value, len(names))}
	if !v.isObject() {
		o.err = &FieldError{Path: path, Msg: fmt.Sprintf("want an object, found %s", v)}
		return o
	}
	if path != "" {
		o.path = path + "."
	}
	inside := v.inside()
	for o.err == nil {
		name, ok := inside.next()
		if !ok {
			break
		}
		member, _ := inside.next()
		o.put(name, member)
	}
	return o
}

func (o *object) put(name, member value) {
	key, _ := name.text() // in valid JSON names are strings
	i := slices.Index(o.names, string(key))
	switch {
	case i < 0:
		o.fail(pathElement(string(key)), errors.New("unknown field"))
	case o.values[i] != nil:
		o.fail(string(key), errors.New("given twice"))
	default:
		o.values[i] = member
	}
}

// pathElement returns a name that a client made up in a form fit for an error's path.
func pathElement(name string) string {
	const room = 40
	if len(name) > room {
		name = name[:room] + "…"
	}
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == "" && name != "" {
		return name
	}
	return strconv.QuoteToASCII(name)
}

// get returns the member of that name; nil if it is absent.
func (o *object) get(name string) value { return o.values[slices.Index(o.names, name)] }

func (o *object) has(name string) bool { return o.get(name) != nil }

// require fails for the first of names that is absent.
func (o *object) require(names ...string) {
	for _, name := range names {
		if !o.has(name) {
			o.fail(name, errors.New("missing"))
		}
	}
}

// refuse fails for the first of names that is there.
func (o *object) refuse(why error, names ...string) {
	for _, name := range names {
		if o.has(name) {
			o.fail(name, why)
		}
	}
}

// nullIsAbsent lets null stand for an absent member.
func (o *object) nullIsAbsent(names ...string) {
	for _, name := range names {
		if i := slices.Index(o.names, name); o.values[i] != nil && o.values[i].isNull() {
			o.values[i] = nil
		}
	}
}

// fail keeps err as the error of the member of that name, unless there was one before.
func (o *object) fail(name string, err error) {
	if o.err == nil {
		o.err = within(o.path+name, err)
	}
}

// member reads one member of o. An absent one gives the zero value: what must be
// there is said by [object.require].
func member[T any](o *object, name string, read func(value) (T, error)) (result T) {
	v := o.get(name)
	if v == nil || o.err != nil {
		return result
	}
	result, err := read(v)
	if err != nil {
		o.fail(name, err)
	}
	return result
}

// check reads one member of o, if it is there, only for what is wrong with it.
func (o *object) check(name string, read func(value) error) {
	member(o, name, func(v value) (none struct{}, err error) { return none, read(v) })
}

// within returns err as the error of what path names. If err is about a part of
// that, the part's path is joined to it.
func within(path string, err error) error {
	var part *FieldError
	if !errors.As(err, &part) {
		field := &FieldError{Path: path, Msg: err.Error()}
		if errors.Is(err, ErrRefusedType) {
			field.cause = ErrRefusedType
		}
		return field
	}
	if part.Path != "" && !strings.HasPrefix(part.Path, "[") {
		path += "."
	}
	return &FieldError{Path: path + part.Path, Msg: part.Msg, cause: part.cause}
}
