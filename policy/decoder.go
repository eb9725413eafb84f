package policy

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/holiman/uint256"
)

// decoder takes values from a tree. It keeps the first error and goes on with zero
// values, so that what reads a shape stays a list of its fields.
type decoder struct {
	err *JSONError
	// anyEnum takes enum numbers that the contract can't decode, as far as a byte goes,
	// to rehearse what it then does.
	anyEnum bool
	// named are the selectors that were given as signatures.
	named []NamedSelector
}

func (d *decoder) fail(path, format string, args ...any) {
	if d.err == nil {
		d.err = &JSONError{Path: path, Msg: fmt.Sprintf(format, args...)}
	}
}

// jsonObjectReader takes the members of one object.
type jsonObjectReader struct {
	d    *decoder
	v    *jsonNode
	path string
}

// object checks that v is an object with no key but those.
func (d *decoder) object(v *jsonNode, path string, keys ...string) jsonObjectReader {
	o := jsonObjectReader{d, v, path}
	if v.Kind != KindObject {
		d.fail(path, "must be an object, not %v", v.Kind)
		return o
	}
	for _, m := range v.Members {
		if slices.Contains(keys, m.Key) {
			continue
		}
		hint := ""
		if i := slices.IndexFunc(keys, func(k string) bool { return strings.EqualFold(k, m.Key) }); i >= 0 {
			hint = fmt.Sprintf("; did you mean %q?", keys[i])
		}
		d.fail(path, "unknown key %s%s", quoted(m.Key), hint)
	}
	return o
}

func (o jsonObjectReader) at(key string) string {
	if o.path == "" {
		return key
	}
	return o.path + "." + key
}

func (o jsonObjectReader) has(key string) bool { return o.v.Member(key) != nil }

// member returns the value at key; nil, and an error is kept, if it is missing.
func (o jsonObjectReader) member(key string) *jsonNode {
	v := o.v.Member(key)
	if v == nil {
		o.d.fail(o.at(key), "missing")
	}
	return v
}

// text reads a string into an [Address], [Hash] or [Selector].
func (o jsonObjectReader) text(key string, into interface{ UnmarshalText([]byte) error }) {
	v := o.member(key)
	if v == nil {
		return
	}
	if v.Kind != KindString {
		o.d.fail(o.at(key), "must be a string, not %v", v.Kind)
		return
	}
	if err := into.UnmarshalText([]byte(v.Text)); err != nil {
		o.d.fail(o.at(key), "%v", err)
	}
}

func (o jsonObjectReader) uint(key string) uint256.Int {
	v := o.member(key)
	if v == nil {
		return uint256.Int{}
	}
	return o.d.uint(v, o.at(key))
}

func (d *decoder) uint(v *jsonNode, path string) (x uint256.Int) {
	var err error
	switch v.Kind {
	case KindString:
		x, err = parseUint(v.Text)
	case KindNumber:
		x, err = parseNumber(v.Text)
	default:
		d.fail(path, "must be an integer, not %v", v.Kind)
	}
	if err != nil {
		d.fail(path, "%v", err)
	}
	return x
}

func (o jsonObjectReader) uint64(key string) uint64 {
	v := o.member(key)
	if v == nil {
		return 0
	}
	return o.d.uint64(v, o.at(key))
}

func (d *decoder) uint64(v *jsonNode, path string) uint64 {
	x := d.uint(v, path)
	if !x.IsUint64() {
		d.fail(path, "does not fit into 64 bits")
	}
	return x.Uint64()
}

// array calls each for every item, with the item's path.
func (o jsonObjectReader) array(key string, each func(item *jsonNode, path string)) {
	v := o.member(key)
	if v == nil {
		return
	}
	if v.Kind != KindArray {
		o.d.fail(o.at(key), "must be an array, not %v", v.Kind)
		return
	}
	for i := range v.Items {
		each(&v.Items[i], fmt.Sprintf("%s[%d]", o.at(key), i))
	}
}

func (o jsonObjectReader) uintOr(key string, absent uint64) uint256.Int {
	if !o.has(key) {
		return *uint256.NewInt(absent)
	}
	return o.uint(key)
}

func (o jsonObjectReader) boolOr(key string, absent bool) bool {
	v := o.v.Member(key)
	if v == nil {
		return absent
	}
	if v.Kind != KindBool {
		o.d.fail(o.at(key), "must be a boolean, not %v", v.Kind)
	}
	return v.Text == "true"
}

func (o jsonObjectReader) string(key string) string {
	v := o.member(key)
	if v == nil {
		return ""
	}
	if v.Kind != KindString {
		o.d.fail(o.at(key), "must be a string, not %v", v.Kind)
	}
	return v.Text
}

// bytes reads 0x-hex of any even length; nil if it is missing.
func (o jsonObjectReader) bytes(key string) []byte {
	if !o.has(key) {
		return nil
	}
	digits, ok := strings.CutPrefix(o.string(key), "0x")
	b, err := hex.DecodeString(digits)
	if !ok || err != nil {
		o.d.fail(o.at(key), "must be 0x and an even number of hex digits")
	}
	return b
}
