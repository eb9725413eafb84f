package policy

import (
	"errors"
	"fmt"
	"slices"
)

// JSONObject is a JSON object whose members all have known names. It keeps the first error, so that a reader of many
// fields checks once, at the end.
type JSONObject struct {
	names  []string    // exact: JSON names are case-sensitive
	values []JSONValue // as names; nil: absent
	path   string      // in front of names in errors: "" or "message."
	err    error
}

// maxOthers is how many unknown members an object may have, if it may have any.
const maxOthers = 64

// OpenObject matches the members of v with names. A member with another name, a duplicate one, and v not being an
// object are errors. Reading stops at the first.
func OpenObject(path string, v JSONValue, names []string) *JSONObject {
	return openObject(path, v, names, false)
}

// OpenLooseObject is Open for an object that may have other members. They are not looked at, but none may be given
// twice, and there may be 64 of them at most.
func OpenLooseObject(path string, v JSONValue, names []string) *JSONObject {
	return openObject(path, v, names, true)
}

func openObject(path string, v JSONValue, names []string, loose bool) *JSONObject {
	o := &JSONObject{names: names, values: make([]JSONValue, len(names))}
	if v.Kind() != KindObject {
		o.err = &JSONError{Path: path, Msg: fmt.Sprintf("want an object, found %s", v)}
		return o
	}
	if path != "" {
		o.path = path + "."
	}
	var others [][]byte
	inside := v.Inside()
	for o.err == nil {
		name, ok := inside.Next()
		if !ok {
			break
		}
		member, _ := inside.Next()
		if i := o.index(name); i >= 0 {
			o.put(i, member)
			continue
		}
		text, _ := name.Text() // in valid JSON names are strings
		others = append(others, text)
		o.checkOthers(others, loose)
	}
	return o
}

// index finds name among the known ones.
func (o *JSONObject) index(name JSONValue) int {
	for i := range o.names {
		if name.Is(o.names[i]) {
			return i
		}
	}
	return -1
}

func (o *JSONObject) put(i int, member JSONValue) {
	if o.values[i] != nil {
		o.Fail(o.names[i], errors.New("given twice"))
		return
	}
	o.values[i] = member
}

// checkOthers judges the last of the unknown members.
func (o *JSONObject) checkOthers(others [][]byte, loose bool) {
	last := string(others[len(others)-1])
	switch {
	case !loose:
		o.Fail(pathElement(last), errors.New("unknown field"))
	case len(others) > maxOthers:
		o.err = &JSONError{Msg: fmt.Sprintf("more than %d unknown members", maxOthers)}
	case slices.ContainsFunc(others[:len(others)-1], func(b []byte) bool { return string(b) == last }):
		o.Fail(pathElement(last), errors.New("given twice"))
	}
}

// Fresh returns an object with the same members that has no error yet.
func (o *JSONObject) Fresh() *JSONObject {
	return &JSONObject{names: o.names, values: o.values, path: o.path}
}

// Err returns the first error, an *[JSONError], or nil.
func (o *JSONObject) Err() error { return o.err }

// Get returns the member of that name, which has to be a known one; nil if it is absent.
func (o *JSONObject) Get(name string) JSONValue { return o.values[slices.Index(o.names, name)] }

// Has reports whether the member is there, be it null.
func (o *JSONObject) Has(name string) bool { return o.Get(name) != nil }

// Require fails for the first of names that is absent.
func (o *JSONObject) Require(names ...string) {
	for _, name := range names {
		if !o.Has(name) {
			o.Fail(name, errors.New("missing"))
		}
	}
}

// Refuse fails for the first of names that is there.
func (o *JSONObject) Refuse(why error, names ...string) {
	for _, name := range names {
		if o.Has(name) {
			o.Fail(name, why)
		}
	}
}

// NullIsAbsent lets null stand for an absent member.
func (o *JSONObject) NullIsAbsent(names ...string) {
	for _, name := range names {
		if i := slices.Index(o.names, name); o.values[i] != nil && o.values[i].Kind() == KindNull {
			o.values[i] = nil
		}
	}
}

// Fail keeps err as the error of the member of that name, unless there was one before.
func (o *JSONObject) Fail(name string, err error) {
	if o.err == nil {
		o.err = WithinPath(o.path+name, err)
	}
}

// ReadMember reads one member of o. An absent one gives the zero value: what must be there is said by
// [JSONObject.Require].
func ReadMember[T any](o *JSONObject, name string, read func(JSONValue) (T, error)) (result T) {
	v := o.Get(name)
	if v == nil || o.err != nil {
		return result
	}
	result, err := read(v)
	if err != nil {
		o.Fail(name, err)
	}
	return result
}

// Check reads one member of o, if it is there, only for what is wrong with it.
func (o *JSONObject) Check(name string, read func(JSONValue) error) {
	v := o.Get(name)
	if v == nil || o.err != nil {
		return
	}
	if err := read(v); err != nil {
		o.Fail(name, err)
	}
}
