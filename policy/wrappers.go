package policy

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// unwrapSpec finds the spec in a document, and its path. A document is the spec, {"session": SPEC} or what superjson
// makes of either.
func unwrapSpec(v *jsonValue) (spec *jsonValue, path string, err *SpecError) {
	if err := refuseKeys(v, ""); err != nil {
		return nil, "", err
	}
	for range maxDepth {
		if v.member("json") != nil {
			if err := checkSuperjson(v, path); err != nil {
				return nil, "", err
			}
			v, path = v.member("json"), join(path, "json")
			continue
		}
		if v.member("session") == nil {
			break
		}
		if len(v.members) > 1 {
			return nil, "", &SpecError{path, `the spec at "session" has other members beside it: give only what is at "session"`}
		}
		v, path = v.member("session"), join(path, "session")
	}
	return v, path, tooManyKeys(v, path)
}

func join(path, key string) string { return strings.TrimPrefix(path+"."+key, ".") }

// tooManyKeys holds the spec to the bound that superjson's lists of paths exceed.
func tooManyKeys(v *jsonValue, path string) *SpecError {
	if len(v.members) > maxMembers {
		return &SpecError{path, fmt.Sprintf("an object has more than %d keys", maxMembers)}
	}
	return eachChild(v, path, tooManyKeys)
}

// eachChild calls do with each value in v, and returns its first error.
func eachChild(v *jsonValue, path string, do func(*jsonValue, string) *SpecError) *SpecError {
	for i := range v.members {
		if err := do(&v.members[i].value, join(path, shownKey(v.members[i].key))); err != nil {
			return err
		}
	}
	for i := range v.items {
		if err := do(&v.items[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	return nil
}

// keyNames are in the names of members that hold a private key, or what one is made from.
var keyNames = []string{"privatekey", "privkey", "secret", "mnemonic", "seedphrase", "sessionkey", "signerkey"}

// refuseKeys finds a private key anywhere in a document.
func refuseKeys(v *jsonValue, path string) *SpecError {
	for i := range v.members {
		m := &v.members[i]
		name := strings.ToLower(enumWord(m.key))
		named := slices.ContainsFunc(keyNames, func(k string) bool { return strings.Contains(name, k) })
		// A hash has the same form, and specs have bytes of that length at names of their own.
		unnamed := m.value.kind == jsonString && isKeyLike(m.value.text) && !strings.Contains(name, "hash") && !specNames[m.key]
		if named || unnamed {
			what := "is a private key"
			if !named {
				what = "could be a private key"
			}
			return &SpecError{path, fmt.Sprintf("what the file has at %s %s: delete it from the file. The device makes the session's key, "+
				"so a spec needs none, and a spec is shown and sent to others", shown(m.key), what)}
		}
	}
	return eachChild(v, path, refuseKeys)
}

// specNames are the members of a spec whose value may have 32 bytes, and those where the spec's reader says what is wrong.
var specNames = map[string]bool{
	"signer": true, "expiresAt": true, "limit": true, "period": true, "target": true, "selector": true,
	"maxValuePerUse": true, "index": true, "refValue": true, "limitType": true, "condition": true,
}

// isKeyLike reports whether text is 32 bytes of hex, or hardly less.
func isKeyLike(text string) bool {
	digits := strings.TrimPrefix(strings.TrimPrefix(strings.TrimSpace(text), "0x"), "0X")
	if len(digits) == 63 {
		digits = "0" + digits
	}
	_, err := hex.DecodeString(digits)
	return err == nil && len(digits) == 64
}

// shownKey is a member's name in a path.
func shownKey(key string) string {
	if len(key) > maxShown {
		return "..."
	}
	return key
}

// checkSuperjson checks {"json": VALUE, "meta": {...}}, as superjson writes it. meta names the type of each value in VALUE
// that JSON can't have. A spec has bigints only, which are decimal strings in VALUE. meta also lists which values are one
// in memory, as all of JavaScript's equal bigints are.
func checkSuperjson(v *jsonValue, path string) *SpecError {
	var d decoder
	o := d.specObject(v, path, "json", "meta")
	meta, root := v.member("meta"), v.member("json")
	if meta == nil || d.err != nil {
		return d.err
	}
	m := d.specObject(meta, o.at("meta"), "values", "referentialEqualities", "v")
	if m.has("values") {
		d.eachPath(root, m, "values", d.isBigint)
	}
	if m.has("referentialEqualities") {
		compared := 0
		d.eachPath(root, m, "referentialEqualities", func(at string, value, others *jsonValue) {
			d.areEqual(root, at, value, others, &compared)
		})
	}
	if version := meta.member("v"); version != nil && (version.kind != jsonNumber || version.text != "1") {
		d.fail(m.at("v"), "%s is no version of superjson's format that is known: that is 1", found(version))
	}
	return d.err
}

// eachPath calls do for each path in one of meta's lists, with the value in root that it leads to and what the list
// says of that.
func (d *decoder) eachPath(root *jsonValue, meta jsonObjectReader, key string, do func(at string, value, said *jsonValue)) {
	said := meta.v.member(key)
	if said.kind != jsonObject {
		d.fail(meta.at(key), "must be an object of paths, not %s", found(said))
		return
	}
	for i := range said.members {
		if d.err != nil {
			return
		}
		m := &said.members[i]
		at := meta.at(key) + "." + strconv.Quote(shownKey(m.key))
		if value := root.atPath(m.key); value != nil {
			do(at, value, &m.value)
		} else {
			d.fail(at, `there is no such path in "json"`)
		}
	}
}

// atPath follows a path of superjson's, "callPolicies.0.target", or returns nil.
func (v *jsonValue) atPath(path string) *jsonValue {
	for step := range strings.SplitSeq(path, ".") {
		if v == nil {
			return nil
		}
		if v.kind != jsonArray {
			v = v.member(step)
			continue
		}
		i, err := strconv.ParseUint(step, 10, 32)
		if err != nil || !plainDigits(step) || i >= uint64(len(v.items)) {
			return nil
		}
		v = &v.items[i]
	}
	return v
}

// isBigint checks ["bigint"], and that the value is how superjson writes one.
func (d *decoder) isBigint(at string, value, said *jsonValue) {
	switch {
	case said.kind != jsonArray || len(said.items) != 1 || said.items[0].kind != jsonString:
		d.fail(at, `must be ["bigint"]`)
	case said.items[0].text != "bigint":
		d.fail(at, `is of type %s: a spec has no values but those of JSON and "bigint"`, shown(said.items[0].text))
	case value.kind != jsonString || !plainDigits(value.text):
		d.fail(at, `is a bigint, but what is there in "json" is no decimal string: %s`, found(value))
	}
}

// areEqual checks that what superjson would make one value is one. compared bounds the work.
func (d *decoder) areEqual(root *jsonValue, at string, value, others *jsonValue, compared *int) {
	if others.kind != jsonArray {
		d.fail(at, "must be an array of paths, not %s", found(others))
		return
	}
	for i := range others.items {
		path := &others.items[i]
		other := root.atPath(path.text)
		switch {
		case path.kind != jsonString || other == nil:
			d.fail(at, `there is no path %s in "json"`, found(path))
		case other.kind == jsonNull && value.kind != jsonNull:
			d.fail(at, `%s is null in "json": superjson's option "dedupe" has left its value out, so write the spec without that option`, found(path))
		case !sameValue(value, other, compared):
			d.fail(at, `%s has another value in "json"`, found(path))
		}
		if d.err != nil {
			return
		}
	}
}

// sameValue compares values with their members in the same order, up to as many as a document can have.
func sameValue(a, b *jsonValue, compared *int) bool {
	*compared++
	return *compared <= maxSpecBytes && a.kind == b.kind && a.text == b.text &&
		slices.EqualFunc(a.items, b.items, func(a, b jsonValue) bool { return sameValue(&a, &b, compared) }) &&
		slices.EqualFunc(a.members, b.members, func(a, b jsonMember) bool {
			return a.key == b.key && sameValue(&a.value, &b.value, compared)
		})
}
