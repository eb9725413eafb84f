package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/holiman/uint256"
)

// Apps write specs with what they have: agw-client's enums and bigints, which JSON does not know and each library
// writes in its own way. A spec is read in all of these forms. A transaction is not: what is signed has one form.

// NamedSelector is a selector that a spec gives as a function's signature.
type NamedSelector struct {
	Path      string // e.g. "callPolicies[0].selector"
	Signature string // canonical
	Selector  Selector
}

// maxShown is the longest value that an error shows: what is longer could be a key, be it as 64 hex digits, as 44
// characters of base64 or as twelve words. An address has 42.
const maxShown = 42

// shown quotes a text of the input for an error, unless it could be a key.
func shown(text string) string {
	if len(text) > maxShown {
		return fmt.Sprintf("a text of %d characters", utf8.RuneCountInString(text))
	}
	return strconv.Quote(text)
}

// found shows the value that is at a known field, unless it could be a key.
func found(v *jsonNode) string {
	switch {
	case v.Kind == KindString:
		return shown(v.Text)
	case v.Kind == KindNumber && len(v.Text) > maxShown:
		return fmt.Sprintf("a number of %d characters", len(v.Text))
	case v.Kind == KindNumber, v.Kind == KindBool:
		return v.Text
	}
	return v.Kind.String()
}

// keyHint follows what was found, if that could be a private key.
func keyHint(v *jsonNode) string {
	if v.Kind != KindString || !isKeyLike(v.Text) {
		return ""
	}
	return "; if that is a private key, delete it, since a spec holds none"
}

// specObject checks that v is an object with no key but those. A value at an unknown key is never shown.
func (d *decoder) specObject(v *jsonNode, path string, keys ...string) jsonObjectReader {
	for i := range v.Members {
		key := v.Members[i].Key
		if slices.Contains(keys, key) {
			continue
		}
		text := "unknown key " + shown(key)
		if i := slices.IndexFunc(keys, func(k string) bool { return strings.EqualFold(k, key) }); i >= 0 {
			text += fmt.Sprintf("; did you mean %q?", keys[i])
		} else {
			text += "; known are " + list(keys)
		}
		d.fail(path, "%s", text)
	}
	return d.object(v, path, keys...)
}

// specUint reads an integer of a spec in any of its forms.
func (o jsonObjectReader) specUint(key string) uint256.Int {
	v := o.member(key)
	if v == nil {
		return uint256.Int{}
	}
	x, err := parseSpecUint(v)
	if err != nil {
		o.d.fail(o.at(key), "%v", err)
	}
	return x
}

func (o jsonObjectReader) specUint64(key string) uint64 {
	x := o.specUint(key)
	if !x.IsUint64() {
		o.d.fail(o.at(key), "does not fit into 64 bits; found %s", found(o.v.Member(key)))
	}
	return x.Uint64()
}

// parseSpecUint reads a JSON number of plain digits, or one of [unwrapBigint]'s forms of a bigint.
func parseSpecUint(v *jsonNode) (x uint256.Int, err error) {
	switch text, ok := unwrapBigint(v); {
	case ok:
		x, err = parseUint(text)
	case v.Kind == KindNumber:
		x, err = parseNumber(v.Text)
	case v.Kind == KindObject:
		return x, errors.New(`must be an integer, not an object; of objects, {"__type":"bigint","value":"123"} is read`)
	default:
		return x, fmt.Errorf("must be an integer, not %s", found(v))
	}
	if err != nil {
		err = fmt.Errorf("%w; found %s", err, found(v))
	}
	return x, err
}

// unwrapBigint returns what [parseUint] is to read of a string, or of a bigint that a library has written:
//
//	"123", "0x7b"                         most apps
//	"123n"                                a replacer that keeps JavaScript's own suffix
//	"__bigint__123"                       Abstract's server-wallet example
//	"123#__bigint"                        ox, of which viem is made
//	{"__type": "bigint", "value": "123"}  wagmi's serialize
func unwrapBigint(v *jsonNode) (text string, ok bool) {
	if v.Kind == KindObject {
		kind, value := v.Member("__type"), v.Member("value")
		ok = len(v.Members) == 2 && kind != nil && kind.Kind == KindString && kind.Text == "bigint" &&
			value != nil && value.Kind == KindString && plainDigits(value.Text)
		if !ok {
			return "", false
		}
		return value.Text, true
	}
	if v.Kind != KindString {
		return "", false
	}
	if digits, ok := strings.CutPrefix(v.Text, "__bigint__"); ok && plainDigits(digits) {
		return digits, true
	}
	if digits, ok := strings.CutSuffix(v.Text, "#__bigint"); ok && plainDigits(digits) {
		return digits, true
	}
	if digits, ok := strings.CutSuffix(v.Text, "n"); ok && plainDigits(digits) {
		return digits, true
	}
	return v.Text, true
}

// specEnum reads a name, in any case and with or without "-" and "_", or a number in any form of an integer.
func (o jsonObjectReader) specEnum(key string, names [][]string) uint8 {
	v := o.member(key)
	if v == nil {
		return 0
	}
	if v.Kind == KindString {
		for n, words := range names {
			if slices.ContainsFunc(words, func(w string) bool { return strings.EqualFold(w, enumWord(v.Text)) }) {
				return uint8(n)
			}
		}
	}
	known := make([]string, len(names))
	for n, words := range names {
		known[n] = fmt.Sprintf("%s (%d)", words[0], n)
	}
	x, err := parseSpecUint(v)
	switch {
	case err == nil && (x.LtUint64(uint64(len(names))) || o.d.anyEnum && x.LtUint64(1<<8)):
		return uint8(x.Uint64())
	case err == nil:
		o.d.fail(o.at(key), "%s is out of range: 0 to %d; known are %s%s", found(v), len(names)-1, list(known), keyHint(v))
	case v.Kind == KindString:
		o.d.fail(o.at(key), "unknown name %s; known are %s%s", found(v), list(known), keyHint(v))
	default:
		o.d.fail(o.at(key), "must be a number or a name, not %s; known are %s", found(v), list(known))
	}
	return 0
}

func enumWord(text string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(text)
}

// specText reads a string into an [Address] or a [Hash].
func (o jsonObjectReader) specText(key string, into interface{ UnmarshalText([]byte) error }) {
	v := o.member(key)
	if v == nil {
		return
	}
	if v.Kind != KindString {
		o.d.fail(o.at(key), "must be a string, not %s", found(v))
		return
	}
	err := into.UnmarshalText([]byte(v.Text))
	_, padded := into.(*Hash)
	switch {
	case err == nil:
	case padded && len(v.Text) == len("0x")+2*len(Address{}):
		o.d.fail(o.at(key), "%v; found %s: put 24 zeros in front of an address's digits", err, found(v))
	default:
		o.d.fail(o.at(key), "%v; found %s%s", err, found(v), keyHint(v))
	}
}

// selector reads 0x and 8 hex digits, or a function's signature, which it notes.
func (o jsonObjectReader) selector(key string) (s Selector) {
	v := o.member(key)
	if v == nil {
		return s
	}
	if v.Kind != KindString || !strings.Contains(v.Text, "(") {
		if v.Kind != KindString || s.UnmarshalText([]byte(v.Text)) != nil {
			o.d.fail(o.at(key), "must be 0x and 8 hex digits, or a signature such as mint(address,uint256); found %s%s",
				found(v), keyHint(v))
		}
		return s
	}
	canonical, err := ParseSignature(v.Text)
	if err != nil {
		o.d.fail(o.at(key), "%v", err)
		return s
	}
	s = SelectorOf(canonical)
	o.d.named = append(o.d.named, NamedSelector{o.at(key), canonical, s})
	return s
}
