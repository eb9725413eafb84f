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
func unwrapSpec(v *jsonNode) (spec *jsonNode, path string, err *JSONError) {
	if err := refuseKeys(v, ""); err != nil {
		return nil, "", err
	}
	for range maxDepth {
		if v.Member("json") != nil {
			if err := checkSuperjson(v, path); err != nil {
				return nil, "", err
			}
			v, path = v.Member("json"), join(path, "json")
			continue
		}
		if v.Member("session") == nil {
			break
		}
		if len(v.Members) > 1 {
			return nil, "", &JSONError{Path: path, Msg: `the spec at "session" has other members beside it: give only what is at "session"`}
		}
		v, path = v.Member("session"), join(path, "session")
	}
	return v, path, tooManyKeys(v, path)
}

func join(path, key string) string { return strings.TrimPrefix(path+"."+key, ".") }

// tooManyKeys holds the spec to the bound that superjson's lists of paths exceed.
func tooManyKeys(v *jsonNode, path string) *JSONError {
	if len(v.Members) > maxMembers {
		return &JSONError{Path: path, Msg: fmt.Sprintf("an object has more than %d keys", maxMembers)}
	}
	return eachChild(v, path, tooManyKeys)
}

// eachChild calls do with each value in v, and returns its first error.
func eachChild(v *jsonNode, path string, do func(*jsonNode, string) *JSONError) *JSONError {
	for i := range v.Members {
		if err := do(&v.Members[i].Value, join(path, shownKey(v.Members[i].Key))); err != nil {
			return err
		}
	}
	for i := range v.Items {
		if err := do(&v.Items[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
	}
	return nil
}

// keyNames are in the names of members that hold a private key, or what one is made from.
var keyNames = []string{"privatekey", "privkey", "secret", "mnemonic", "seedphrase", "sessionkey", "signerkey"}

// refuseKeys finds a private key anywhere in a document: by a member's name, and as a value or a name by its form.
func refuseKeys(v *jsonNode, path string) *JSONError {
	refuse := func(path, what string) *JSONError {
		return &JSONError{Path: path, Msg: what + ": delete it from the file. The device makes the session's key, " +
			"so a spec needs none, and a spec is shown and sent to others"}
	}
	for i := range v.Members {
		m := &v.Members[i]
		name := strings.ToLower(enumWord(m.Key))
		// A hash has the same form, and specs have bytes of that length at names of their own.
		unnamed := m.Value.Kind == KindString && isKeyLike(m.Value.Text) && !strings.Contains(name, "hash") &&
			!specNames[m.Key]
		switch {
		case slices.ContainsFunc(keyNames, func(k string) bool { return strings.Contains(name, k) }):
			return refuse(path, fmt.Sprintf("what the file has at %s is a private key", shown(m.Key)))
		case isKeyLike(m.Key):
			return refuse(path, fmt.Sprintf("the name of a member, %s, could be a private key", shown(m.Key)))
		case unnamed:
			return refuse(path, fmt.Sprintf("what the file has at %s could be a private key", shown(m.Key)))
		}
	}
	for i := range v.Items {
		if v.Items[i].Kind == KindString && isKeyLike(v.Items[i].Text) {
			return refuse(fmt.Sprintf("%s[%d]", path, i), "what the file has here could be a private key")
		}
	}
	return eachChild(v, path, refuseKeys)
}

// specNames are the members of a spec whose value may have 32 bytes, and those where the spec's reader says what is
// wrong.
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

// checkSuperjson checks {"json": VALUE, "meta": {...}}, as superjson writes it. meta names the type of each value in
// VALUE that JSON can't have. A spec has bigints only, which are decimal strings in VALUE. meta also lists which values
// are one in memory, as all of JavaScript's equal bigints are.
func checkSuperjson(v *jsonNode, path string) *JSONError {
	var d decoder
	o := d.specObject(v, path, "json", "meta")
	meta, root := v.Member("meta"), v.Member("json")
	if meta == nil || d.err != nil {
		return d.err
	}
	m := d.specObject(meta, o.at("meta"), "values", "referentialEqualities", "v")
	if m.has("values") {
		d.eachPath(root, m, "values", d.isBigint)
	}
	if m.has("referentialEqualities") {
		compared := 0
		d.eachPath(root, m, "referentialEqualities", func(at string, value, others *jsonNode) {
			d.areEqual(root, at, value, others, &compared)
		})
	}
	if version := meta.Member("v"); version != nil && (version.Kind != KindNumber || version.Text != "1") {
		d.fail(m.at("v"), "%s is no version of superjson's format that is known: that is 1", found(version))
	}
	return d.err
}

// eachPath calls do for each path in one of meta's lists, with the value in root that it leads to and what the list
// says of that.
func (d *decoder) eachPath(root *jsonNode, meta jsonObjectReader, key string,
	do func(at string, value, said *jsonNode)) {
	said := meta.v.Member(key)
	if said.Kind != KindObject {
		d.fail(meta.at(key), "must be an object of paths, not %s", found(said))
		return
	}
	for i := range said.Members {
		if d.err != nil {
			return
		}
		m := &said.Members[i]
		at := meta.at(key) + "." + strconv.Quote(shownKey(m.Key))
		if value := atPath(root, m.Key); value != nil {
			do(at, value, &m.Value)
		} else {
			d.fail(at, `there is no such path in "json"`)
		}
	}
}

// atPath follows a path of superjson's, "callPolicies.0.target", or returns nil.
func atPath(v *jsonNode, path string) *jsonNode {
	for step := range strings.SplitSeq(path, ".") {
		if v == nil {
			return nil
		}
		if v.Kind != KindArray {
			v = v.Member(step)
			continue
		}
		i, err := strconv.ParseUint(step, 10, 32)
		if err != nil || !plainDigits(step) || i >= uint64(len(v.Items)) {
			return nil
		}
		v = &v.Items[i]
	}
	return v
}

// isBigint checks ["bigint"], and that the value is how superjson writes one.
func (d *decoder) isBigint(at string, value, said *jsonNode) {
	switch {
	case said.Kind != KindArray || len(said.Items) != 1 || said.Items[0].Kind != KindString:
		d.fail(at, `must be ["bigint"]`)
	case said.Items[0].Text != "bigint":
		d.fail(at, `is of type %s: a spec has no values but those of JSON and "bigint"`, shown(said.Items[0].Text))
	case value.Kind != KindString || !plainDigits(value.Text):
		d.fail(at, `is a bigint, but what is there in "json" is no decimal string: %s`, found(value))
	}
}

// areEqual checks that what superjson would make one value is one. compared bounds the work.
func (d *decoder) areEqual(root *jsonNode, at string, value, others *jsonNode, compared *int) {
	if others.Kind != KindArray {
		d.fail(at, "must be an array of paths, not %s", found(others))
		return
	}
	for i := range others.Items {
		path := &others.Items[i]
		other := atPath(root, path.Text)
		switch {
		case path.Kind != KindString || other == nil:
			d.fail(at, `there is no path %s in "json"`, found(path))
		case other.Kind == KindNull && value.Kind != KindNull:
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
func sameValue(a, b *jsonNode, compared *int) bool {
	*compared++
	return *compared <= maxSpecBytes && a.Kind == b.Kind && a.Text == b.Text &&
		slices.EqualFunc(a.Items, b.Items, func(a, b jsonNode) bool { return sameValue(&a, &b, compared) }) &&
		slices.EqualFunc(a.Members, b.Members, func(a, b jsonMember) bool {
			return a.Key == b.Key && sameValue(&a.Value, &b.Value, compared)
		})
}
