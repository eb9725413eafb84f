package strictjson

import (
	"errors"
	"fmt"
	"slices"
)

// Object is a JSON object whose members all have known names. It keeps the first error, so that a reader of many fields
// checks once, at the end.
type Object struct {
	names  []string // exact: JSON names are case-sensitive
	values []Value  // as names; nil: absent
	path   string   // in front of names in errors: "" or "message."
	err    error
}

// maxOthers is how many unknown members an object may have, if it may have any.
const maxOthers = 64

// Open matches the members of v with names. A member with another name, a duplicate one, and v not being an object
// are errors. Reading stops at the first.
func Open(path string, v Value, names []string) *Object { return open(path, v, names, false) }

// OpenLoose is Open for an object that may have other members. They are not looked at, but none may be given twice, and
// there may be 64 of them at most.
func OpenLoose(path string, v Value, names []string) *Object { return open(path, v, names, true) }

func open(path string, v Value, names []string, loose bool) *Object {
	o := &Object{names: names, values: make([]Value, len(names))}
	if v.Kind() != KindObject {
		o.err = &Error{Path: path, Msg: fmt.Sprintf("want an object, found %s", v)}
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
func (o *Object) index(name Value) int {
	for i := range o.names {
		if name.Is(o.names[i]) {
			return i
		}
	}
	return -1
}

func (o *Object) put(i int, member Value) {
	if o.values[i] != nil {
		o.Fail(o.names[i], errors.New("given twice"))
		return
	}
	o.values[i] = member
}

// checkOthers judges the last of the unknown members.
func (o *Object) checkOthers(others [][]byte, loose bool) {
	last := string(others[len(others)-1])
	switch {
	case !loose:
		o.Fail(PathElement(last), errors.New("unknown field"))
	case len(others) > maxOthers:
		o.err = &Error{Msg: fmt.Sprintf("more than %d unknown members", maxOthers)}
	case slices.ContainsFunc(others[:len(others)-1], func(b []byte) bool { return string(b) == last }):
		o.Fail(PathElement(last), errors.New("given twice"))
	}
}

// Fresh returns an object with the same members that has no error yet.
func (o *Object) Fresh() *Object { return &Object{names: o.names, values: o.values, path: o.path} }

// Err returns the first error, an *[Error], or nil.
func (o *Object) Err() error { return o.err }

// Get returns the member of that name, which has to be a known one; nil if it is absent.
func (o *Object) Get(name string) Value { return o.values[slices.Index(o.names, name)] }

// Has reports whether the member is there, be it null.
func (o *Object) Has(name string) bool { return o.Get(name) != nil }

// Require fails for the first of names that is absent.
func (o *Object) Require(names ...string) {
	for _, name := range names {
		if !o.Has(name) {
			o.Fail(name, errors.New("missing"))
		}
	}
}

// Refuse fails for the first of names that is there.
func (o *Object) Refuse(why error, names ...string) {
	for _, name := range names {
		if o.Has(name) {
			o.Fail(name, why)
		}
	}
}

// NullIsAbsent lets null stand for an absent member.
func (o *Object) NullIsAbsent(names ...string) {
	for _, name := range names {
		if i := slices.Index(o.names, name); o.values[i] != nil && o.values[i].Kind() == KindNull {
			o.values[i] = nil
		}
	}
}

// Fail keeps err as the error of the member of that name, unless there was one before.
func (o *Object) Fail(name string, err error) {
	if o.err == nil {
		o.err = Within(o.path+name, err)
	}
}

// Read reads one member of o. An absent one gives the zero value: what must be there is said by
// [Object.Require].
func Read[T any](o *Object, name string, read func(Value) (T, error)) (result T) {
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
func (o *Object) Check(name string, read func(Value) error) {
	v := o.Get(name)
	if v == nil || o.err != nil {
		return
	}
	if err := read(v); err != nil {
		o.Fail(name, err)
	}
}
