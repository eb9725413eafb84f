package zktx

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// MessageType is an EIP-712 struct type, with the struct types that it refers to. It has no arrays and no signed integers.
type MessageType struct {
	primary string
	structs map[string][]typedField
	hashes  map[string]policy.Hash // keccak256(encodeType)
}

// Bounds of a type that an operator writes.
const (
	maxTypeText   = 4096 // bytes
	maxTypeFields = 64
	maxTypeDepth  = 4
)

var (
	structText = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*)\(([^()]*)\)`)
	fieldText  = regexp.MustCompile(`^([A-Za-z_][A-Za-z0-9_]*) ([A-Za-z_][A-Za-z0-9_]*)$`)
	sizedType  = regexp.MustCompile(`^(uint|bytes)([1-9][0-9]*)$`)
)

// ParseMessageType reads the encodeType of EIP-712: the primary type, then the types that it refers to in the order of their names, as in
// "Mail(Person from,string text)Person(string name,address wallet)".
func ParseMessageType(text string) (*MessageType, error) {
	t := &MessageType{structs: map[string][]typedField{}, hashes: map[string]policy.Hash{}}
	if len(text) > maxTypeText {
		return nil, fmt.Errorf("a type of more than %d bytes", maxTypeText)
	}
	for rest := text; rest != ""; {
		m := structText.FindStringSubmatch(rest)
		if m == nil {
			return nil, fmt.Errorf("%q is no type such as Permit(address owner,uint256 value)", policy.Shorten(rest))
		}
		rest = rest[len(m[0]):]
		if t.primary == "" {
			t.primary = m[1]
		}
		if t.structs[m[1]] != nil || m[1] == "EIP712Domain" {
			return nil, fmt.Errorf("the type %s is there twice, or is the domain's", m[1])
		}
		fields, err := parseTypeFields(m[2])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m[1], err)
		}
		t.structs[m[1]] = fields
	}
	if t.primary == "" {
		return nil, errors.New("the type is empty")
	}
	for name := range t.structs {
		encoded, err := t.encodeType(name)
		if err != nil {
			return nil, err
		}
		t.hashes[name] = policy.Hash(crypto.Keccak256Hash([]byte(encoded)))
		if name == t.primary && encoded != text {
			return nil, fmt.Errorf("the type has to be written as EIP-712 encodes it: %s", encoded)
		}
	}
	return t, nil
}

func parseTypeFields(text string) (fields []typedField, err error) {
	for _, item := range strings.Split(text, ",") {
		m := fieldText.FindStringSubmatch(item)
		switch {
		case m == nil:
			return nil, fmt.Errorf("%q is no field such as address owner; arrays are not supported", policy.Shorten(item))
		case slices.ContainsFunc(fields, func(f typedField) bool { return f.name == m[2] }):
			return nil, fmt.Errorf("two fields have the name %s", m[2])
		case len(fields) == maxTypeFields:
			return nil, fmt.Errorf("more than %d fields", maxTypeFields)
		}
		fields = append(fields, typedField{m[2], m[1]})
	}
	return fields, nil
}

// encodeType is the type with all that it refers to (EIP-712, "Definition of encodeType").
func (t *MessageType) encodeType(name string) (string, error) {
	refers := map[string]bool{}
	if err := t.collect(name, refers, 0); err != nil {
		return "", err
	}
	delete(refers, name)
	text := ""
	for _, each := range append([]string{name}, slices.Sorted(maps.Keys(refers))...) {
		var fields []string
		for _, f := range t.structs[each] {
			fields = append(fields, f.typ+" "+f.name)
		}
		text += each + "(" + strings.Join(fields, ",") + ")"
	}
	return text, nil
}

func (t *MessageType) collect(name string, into map[string]bool, depth int) error {
	if depth > maxTypeDepth {
		return fmt.Errorf("%s nests deeper than %d, or in itself", t.primary, maxTypeDepth)
	}
	into[name] = true
	for _, f := range t.structs[name] {
		if t.structs[f.typ] != nil {
			if err := t.collect(f.typ, into, depth+1); err != nil {
				return err
			}
		} else if _, err := atomicSize(f.typ); err != nil {
			return fmt.Errorf("%s.%s: %w", name, f.name, err)
		}
	}
	return nil
}

// atomicSize checks a type that is no struct. It returns the bits of a uint, the bytes of a bytesN, and 0 for the others.
func atomicSize(typ string) (int, error) {
	switch typ {
	case "address", "bool", "string", "bytes":
		return 0, nil
	}
	m := sizedType.FindStringSubmatch(typ)
	if m != nil {
		n, err := strconv.Atoi(m[2])
		if err == nil && (m[1] == "uint" && n <= 256 && n%8 == 0 || m[1] == "bytes" && n <= 32) {
			return n, nil
		}
	}
	return 0, fmt.Errorf("type %q is unknown or not supported", policy.Shorten(typ))
}

// Fields are the paths of all fields that are no structs, such as "permitted.amount", and their types.
func (t *MessageType) Fields() map[string]string {
	all := map[string]string{}
	t.fields(t.primary, "", all)
	return all
}

func (t *MessageType) fields(name, path string, into map[string]string) {
	for _, f := range t.structs[name] {
		if t.structs[f.typ] != nil {
			t.fields(f.typ, path+f.name+".", into)
		} else {
			into[path+f.name] = f.typ
		}
	}
}

// MessageDomain is an EIP-712 domain. Members that are not given are not in it.
type MessageDomain struct {
	ChainID  uint64         // always given
	Contract policy.Address // verifyingContract; always given
	names    []string       // of what is given, in the order of EIP-712
	values   map[string]string
	hash     policy.Hash
}

var domainTypes = []typedField{
	{"name", "string"}, {"version", "string"}, {"chainId", "uint256"}, {"verifyingContract", "address"}, {"salt", "bytes32"},
}

// ParseMessageDomain reads a domain whose values are texts, a chain id in decimal. chainId and verifyingContract are needed: without them a
// signature would count elsewhere too.
func ParseMessageDomain(values map[string]string) (*MessageDomain, error) {
	d := &MessageDomain{values: values}
	for name := range values {
		if !slices.ContainsFunc(domainTypes, func(f typedField) bool { return f.name == name }) {
			return nil, fmt.Errorf("%q is no member of an EIP-712 domain", name)
		}
	}
	if values["chainId"] == "" || values["verifyingContract"] == "" {
		return nil, errors.New("chainId and verifyingContract are needed: without them the signature would count on other chains or contracts")
	}
	var typ []string
	var body []byte
	for _, f := range domainTypes {
		text, given := values[f.name]
		if !given {
			continue
		}
		word, err := encodeAtomic(f.typ, quoted(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
		d.names, typ, body = append(d.names, f.name), append(typ, f.typ+" "+f.name), append(body, word.word[:]...)
		switch v := word.value.(type) {
		case uint256.Int:
			if !v.IsUint64() || v.IsZero() {
				return nil, fmt.Errorf("chainId: %s is no chain's", text)
			}
			d.ChainID = v.Uint64()
		case policy.Address:
			d.Contract = v
		}
	}
	typeHash := crypto.Keccak256([]byte("EIP712Domain(" + strings.Join(typ, ",") + ")"))
	d.hash = policy.Hash(crypto.Keccak256Hash(typeHash, body))
	return d, nil
}

// quoted is text as a JSON string.
func quoted(text string) policy.JSONValue {
	v, _ := json.Marshal(text) // a string always can be
	return v
}

// Separator is the domain separator of EIP-712.
func (d *MessageDomain) Separator() policy.Hash { return d.hash }

// TypedMessage is typed data that was read by a type and domain of the operator's.
type TypedMessage struct {
	Digest policy.Hash    // keccak256(0x1901 ‖ domain separator ‖ struct hash)
	Values map[string]any // by path: uint256.Int, policy.Address, bool, string, or []byte of bytes and bytesN
}

// Matches reports whether data, which is typed data, has the domain and the primary type. Everything else about it is for
// [MessageType.Read] to check.
func (t *MessageType) Matches(data policy.JSONValue, d *MessageDomain) bool {
	doc := policy.OpenObject("", data, typedDataNames)
	doc.Require(typedDataNames...)
	return doc.Err() == nil && doc.Get("primaryType").Is(t.primary) && doc.Get("domain").Kind() == policy.KindObject && d.read(doc.Get("domain")) == nil
}

// read holds the domain of a request to d: the same members with the same values.
func (d *MessageDomain) read(v policy.JSONValue) error {
	domain := policy.OpenObject("domain", v, d.names)
	domain.Require(d.names...)
	if domain.Err() != nil {
		return domain.Err()
	}
	for _, f := range domainTypes {
		if !slices.Contains(d.names, f.name) {
			continue
		}
		got, err := encodeAtomic(f.typ, domain.Get(f.name))
		if err == nil {
			var want encoded
			if want, err = encodeAtomic(f.typ, quoted(d.values[f.name])); err == nil && got.word != want.word {
				err = fmt.Errorf("want %s", d.values[f.name])
			}
		}
		if err != nil {
			return &FieldError{Path: "domain." + f.name, Msg: err.Error()}
		}
	}
	return nil
}

// Read reads typed data strictly: the domain is d, each type is declared as t has it, and the message has each field and no others. Errors are
// *[FieldError] or *policy.JSONError.
func (t *MessageType) Read(data policy.JSONValue, d *MessageDomain) (*TypedMessage, error) {
	doc := policy.OpenObject("", data, typedDataNames)
	doc.Require(typedDataNames...)
	if doc.Err() != nil {
		return nil, doc.Err()
	}
	if !doc.Get("primaryType").Is(t.primary) {
		return nil, &FieldError{Path: "primaryType", Msg: fmt.Sprintf("want %q", t.primary)}
	}
	if err := d.read(doc.Get("domain")); err != nil {
		return nil, err
	}
	if err := t.checkDeclared(doc.Get("types"), d); err != nil {
		return nil, err
	}
	m := &TypedMessage{Values: map[string]any{}}
	hash, err := t.hashStruct(t.primary, "message", "", doc.Get("message"), m.Values)
	if err != nil {
		return nil, err
	}
	m.Digest = policy.Hash(crypto.Keccak256Hash([]byte{0x19, 0x01}, d.hash[:], hash[:]))
	return m, nil
}

// checkDeclared holds the types that the request declares to t's. That of the domain may be left out.
func (t *MessageType) checkDeclared(v policy.JSONValue, d *MessageDomain) error {
	names := append([]string{"EIP712Domain"}, slices.Sorted(maps.Keys(t.structs))...)
	types := policy.OpenObject("types", v, names)
	types.Require(names[1:]...)
	for _, name := range names {
		want := t.structs[name]
		if name == "EIP712Domain" {
			want = nil
			for _, f := range domainTypes {
				if slices.Contains(d.names, f.name) {
					want = append(want, f)
				}
			}
		}
		types.Check(name, func(v policy.JSONValue) error { return checkType(v, want, fieldsText(want)) })
	}
	return types.Err()
}

// hashStruct is hashStruct of EIP-712.
func (t *MessageType) hashStruct(name, at, path string, v policy.JSONValue, values map[string]any) (policy.Hash, error) {
	fields := t.structs[name]
	o := policy.OpenObject(at, v, fieldNames(fields))
	o.Require(fieldNames(fields)...)
	if o.Err() != nil {
		return policy.Hash{}, o.Err()
	}
	typeHash := t.hashes[name]
	body := typeHash[:]
	for _, f := range fields {
		member := o.Get(f.name)
		if t.structs[f.typ] != nil {
			hash, err := t.hashStruct(f.typ, at+"."+f.name, path+f.name+".", member, values)
			if err != nil {
				return policy.Hash{}, err
			}
			body = append(body, hash[:]...)
			continue
		}
		e, err := encodeAtomic(f.typ, member)
		if err != nil {
			return policy.Hash{}, &FieldError{Path: at + "." + f.name, Msg: err.Error()}
		}
		values[path+f.name] = e.value
		body = append(body, e.word[:]...)
	}
	return policy.Hash(crypto.Keccak256Hash(body)), nil
}

// encoded is an atomic or dynamic value: as rules read it, and its word by encodeData.
type encoded struct {
	value any
	word  [32]byte
}

// encodeAtomic reads a value of a type that is no struct.
func encodeAtomic(typ string, v policy.JSONValue) (e encoded, err error) {
	switch typ {
	case "address":
		a, err := readAddress(v)
		copy(e.word[12:], a[:])
		e.value = a
		return e, err
	case "bool":
		if v.Kind() != policy.KindBool {
			return e, fmt.Errorf("want true or false, found %s", v)
		}
		is := string(v) == "true"
		if is {
			e.word[31] = 1
		}
		e.value = is
		return e, nil
	case "string":
		text, err := v.Text()
		e.value, e.word = string(text), crypto.Keccak256Hash(text)
		return e, err
	case "bytes":
		b, err := readBytes(v)
		e.value, e.word = b, crypto.Keccak256Hash(b)
		return e, err
	}
	size, err := atomicSize(typ)
	if err != nil {
		return e, err
	}
	if strings.HasPrefix(typ, "bytes") {
		b, err := readBytes(v)
		if err == nil && len(b) != size {
			err = fmt.Errorf("want %d bytes, found %d", size, len(b))
		}
		copy(e.word[:], b)
		e.value = b
		return e, err
	}
	x, err := readUint256(v)
	if err == nil && x.BitLen() > size {
		err = fmt.Errorf("%s does not fit %d bits", v, size)
	}
	e.value, e.word = x, x.Bytes32()
	return e, err
}

// PersonalDigest is the hash of a message by EIP-191, version 0x45.
func PersonalDigest(message []byte) policy.Hash {
	prefix := "\x19Ethereum Signed Message:\n" + strconv.Itoa(len(message))
	return policy.Hash(crypto.Keccak256Hash([]byte(prefix), message))
}
