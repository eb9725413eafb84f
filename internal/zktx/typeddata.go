package zktx

import (
	"encoding/json"
	"fmt"

	"github.com/keyward/keyward/policy"
)

// The EIP-712 domain that ZKsync transactions are signed in. It has no verifyingContract.
const (
	domainName    = "zkSync"
	domainVersion = "2"
)

// A typedField is one field of an EIP-712 struct type.
type typedField struct{ name, typ string }

// Types of the typed data that is accepted, with their fields in order.
const primaryType = "Transaction"

var (
	domainFields = []typedField{
		{"name", "string"},
		{"version", "string"},
		{"chainId", "uint256"},
	}
	transactionFields = []typedField{
		{"txType", "uint256"},
		{"from", "uint256"},
		{"to", "uint256"},
		{"gasLimit", "uint256"},
		{"gasPerPubdataByteLimit", "uint256"},
		{"maxFeePerGas", "uint256"},
		{"maxPriorityFeePerGas", "uint256"},
		{"paymaster", "uint256"},
		{"nonce", "uint256"},
		{"value", "uint256"},
		{"data", "bytes"},
		{"factoryDeps", "bytes32[]"},
		{"paymasterInput", "bytes"},
	}

	// A domain that go-ethereum's apitypes writes has all five; the last two are then "".
	domainNames      = append(fieldNames(domainFields), "verifyingContract", "salt")
	transactionNames = fieldNames(transactionFields)
	typesNames       = []string{"EIP712Domain", primaryType}
	typedFieldNames  = []string{"name", "type"}
	typedDataNames   = []string{"types", "domain", "primaryType", "message"}
)

func fieldNames(fields []typedField) []string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

// ParseTypedData reads EIP-712 typed data that is a ZKsync transaction, strictly.
// The data is the text of a JSON object, see [UnwrapTypedData].
//
// Errors are *[FieldError], or [ErrForeign] if the data has the four members of typed
// data, each of its kind, and its primary type is not Transaction or its domain's
// name is not zkSync: then it is some other application's message. Whatever else
// differs from a ZKsync transaction is a FieldError.
func ParseTypedData(data []byte) (*Transaction, error) {
	text, err := document(data)
	if err != nil {
		return nil, err
	}
	doc := openObject("", text, typedDataNames)
	doc.require(typedDataNames...)
	if doc.err != nil {
		return nil, doc.err
	}
	foreign, err := isForeign(doc)
	if err != nil {
		return nil, err
	}
	if foreign {
		return nil, ErrForeign
	}
	if err := checkTypes(doc.get("types")); err != nil {
		return nil, err
	}
	chainID, err := readDomain(doc.get("domain"))
	if err != nil {
		return nil, err
	}
	return readMessage(doc.get("message"), chainID)
}

// UnwrapTypedData returns the text of the JSON object that [ParseTypedData] reads from
// a parameter that is that object or, as most clients send it, a string with its text.
func UnwrapTypedData(param json.RawMessage) ([]byte, error) {
	v, err := document(param)
	switch {
	case err != nil:
		return nil, err
	case v.isObject():
		return v, nil
	case v.isString():
		return v.text()
	}
	return nil, &FieldError{Msg: fmt.Sprintf("want typed data as a JSON object or string, found %s", v)}
}

// isForeign reports whether doc is another application's typed data. Errors are
// about members that are not of their kind.
func isForeign(doc *object) (bool, error) {
	for _, name := range []string{"types", "domain", "message"} {
		if v := doc.get(name); !v.isObject() {
			return false, &FieldError{Path: name, Msg: fmt.Sprintf("want an object, found %s", v)}
		}
	}
	primary := member(doc, "primaryType", value.text)
	if doc.err != nil {
		return false, doc.err
	}
	return string(primary) != primaryType || !hasMember(doc.get("domain"), "name", domainName), nil
}

// hasMember reports whether object v has a member of that name which is the string
// want. It looks at nothing else.
func hasMember(v value, name, want string) bool {
	inside := v.inside()
	for {
		key, ok := inside.next()
		if !ok {
			return false
		}
		member, _ := inside.next()
		if isText(key, name) && isText(member, want) {
			return true
		}
	}
}

func isText(v value, want string) bool {
	text, err := v.text()
	return err == nil && string(text) == want
}

// checkTypes holds the declared types to the ones that the digest is computed with.
// EIP712Domain may be left out: it can only be the one that the domain has.
func checkTypes(v value) error {
	types := openObject("types", v, typesNames)
	types.require(primaryType)
	types.check("EIP712Domain", func(v value) error { return checkType(v, domainFields) })
	types.check(primaryType, func(v value) error { return checkType(v, transactionFields) })
	return types.err
}

// checkType wants a type's list of fields to be exactly want, in order.
func checkType(v value, want []typedField) error {
	n := 0
	_, err := elements(v, func(e value) (none struct{}, err error) {
		if n == len(want) {
			return none, fmt.Errorf("the type has no more than %d fields", len(want))
		}
		n++
		return none, checkTypedField(e, want[n-1])
	})
	if err == nil && n < len(want) {
		err = fmt.Errorf("want %d fields, found %d", len(want), n)
	}
	return err
}

func checkTypedField(v value, want typedField) error {
	field := openObject("", v, typedFieldNames)
	field.require(typedFieldNames...)
	field.check("name", wantText(want.name))
	field.check("type", wantText(want.typ))
	return field.err
}

// wantText returns a reader of a string that can only be want.
func wantText(want string) func(value) error {
	return func(v value) error {
		if !isText(v, want) {
			return fmt.Errorf("want %q, found %s", want, v)
		}
		return nil
	}
}

// readDomain returns the chain id of a domain that differs from others only in it.
func readDomain(v value) (uint64, error) {
	domain := openObject("domain", v, domainNames)
	domain.require("name", "version", "chainId")
	domain.check("name", wantText(domainName))
	domain.check("version", wantText(domainVersion))
	domain.check("verifyingContract", wantText(""))
	domain.check("salt", wantText(""))
	chainID := member(domain, "chainId", readChainID)
	return chainID, domain.err
}

// readMessage reads the transaction. All of its fields are required: one that is left
// out would be signed as zero.
func readMessage(v value, chainID uint64) (*Transaction, error) {
	m := openObject("message", v, transactionNames)
	m.require(transactionNames...)
	m.check("txType", wantZKsyncType)
	t := &Transaction{
		Type:                 TypeZKsync,
		ChainID:              chainID,
		Nonce:                member(m, "nonce", readUint64),
		From:                 member(m, "from", readAddressWord),
		To:                   member(m, "to", readAddressWord),
		Value:                member(m, "value", readUint256),
		Data:                 member(m, "data", readBytes),
		GasLimit:             member(m, "gasLimit", readUint256),
		MaxFeePerGas:         member(m, "maxFeePerGas", readUint256),
		MaxPriorityFeePerGas: member(m, "maxPriorityFeePerGas", readUint256),
		GasPerPubdata:        member(m, "gasPerPubdataByteLimit", readUint256),
		FactoryDepsHash:      member(m, "factoryDeps", readHashes),
		Paymaster:            member(m, "paymaster", readAddressWord),
		PaymasterInput:       member(m, "paymasterInput", readBytes),
	}
	if m.err != nil {
		return nil, m.err
	}
	return t, nil
}

func wantZKsyncType(v value) error {
	typ, err := readUint256(v)
	if err == nil && !typ.Eq(zksyncType) {
		err = fmt.Errorf("want 113, found %s", v)
	}
	return err
}

func readHashes(v value) ([]policy.Hash, error) { return elements(v, readHash) }
