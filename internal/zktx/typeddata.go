package zktx

import (
	"fmt"
	"strings"

	"github.com/keyward/keyward/internal/strictjson"
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
// See [UnwrapTypedData] for where data comes from.
//
// Errors are *[FieldError], or [ErrForeign] if the data has the four members of typed
// data, each of its kind, and its primary type is not Transaction or its domain's
// name is not zkSync: then it is some other application's message. Whatever else
// differs from a ZKsync transaction is a FieldError.
func ParseTypedData(data strictjson.Value) (*Transaction, error) {
	doc := strictjson.Open("", data, typedDataNames)
	doc.Require(typedDataNames...)
	if doc.Err() != nil {
		return nil, doc.Err()
	}
	if err := checkForeign(doc); err != nil {
		return nil, err
	}
	if err := checkTypes(doc.Get("types")); err != nil {
		return nil, err
	}
	chainID, err := readDomain(doc.Get("domain"))
	if err != nil {
		return nil, err
	}
	return readMessage(doc.Get("message"), chainID)
}

// UnwrapTypedData returns the JSON object that [ParseTypedData] reads from a parameter that is that object or, as most
// clients send it, a string with its text.
func UnwrapTypedData(param strictjson.Value) (strictjson.Value, error) {
	switch param.Kind() {
	case strictjson.KindObject:
		return param, nil
	case strictjson.KindString:
		text, err := param.Text()
		if err != nil {
			return nil, err
		}
		return strictjson.Parse(text)
	}
	return nil, &FieldError{Msg: fmt.Sprintf("want typed data as a JSON object or string, found %s", param)}
}

// checkForeign returns an [ErrForeign] that says what differs if doc is another application's typed data. Other errors are
// about members that are not of their kind.
func checkForeign(doc *strictjson.Object) error {
	for _, name := range []string{"types", "domain", "message"} {
		if v := doc.Get(name); v.Kind() != strictjson.KindObject {
			return &FieldError{Path: name, Msg: fmt.Sprintf("want an object, found %s", v)}
		}
	}
	primary := strictjson.Read(doc, "primaryType", strictjson.Value.Text)
	if doc.Err() != nil {
		return doc.Err()
	}
	domain := doc.Get("domain")
	if string(primary) == primaryType && find(domain, "name").Is(domainName) {
		return nil
	}
	var differs []string
	if string(primary) != primaryType {
		differs = append(differs, fmt.Sprintf("primaryType is %q, want %q", strictjson.Shorten(string(primary)), primaryType))
	}
	for _, want := range [][2]string{{"name", domainName}, {"version", domainVersion}} {
		switch found := find(domain, want[0]); {
		case found == nil:
			differs = append(differs, fmt.Sprintf("domain.%s is missing, want %q", want[0], want[1]))
		case !found.Is(want[1]):
			differs = append(differs, fmt.Sprintf("domain.%s is %s, want %q", want[0], found, want[1]))
		}
	}
	return fmt.Errorf("%w: %s", ErrForeign, strings.Join(differs, "; "))
}

// find returns the first member of that name in object v; nil if there is none. It looks at nothing else.
func find(v strictjson.Value, name string) strictjson.Value {
	inside := v.Inside()
	for {
		key, ok := inside.Next()
		if !ok {
			return nil
		}
		member, _ := inside.Next()
		if key.Is(name) {
			return member
		}
	}
}

// checkTypes holds the declared types to the ones that the digest is computed with.
// EIP712Domain may be left out: it can only be the one that the domain has.
func checkTypes(v strictjson.Value) error {
	types := strictjson.Open("types", v, typesNames)
	types.Require(primaryType)
	types.Check("EIP712Domain", checkDomainType)
	types.Check(primaryType, checkTransactionType)
	return types.Err()
}

func checkDomainType(v strictjson.Value) error { return checkType(v, domainFields, domainText) }
func checkTransactionType(v strictjson.Value) error {
	return checkType(v, transactionFields, transactionText)
}

// How JSON.stringify writes the lists of fields. Nearly every client sends these bytes.
var (
	domainText      = fieldsText(domainFields)
	transactionText = fieldsText(transactionFields)
)

func fieldsText(fields []typedField) string {
	members := make([]string, len(fields))
	for i, f := range fields {
		members[i] = `{"name":"` + f.name + `","type":"` + f.typ + `"}`
	}
	return "[" + strings.Join(members, ",") + "]"
}

// checkType wants a type's list of fields to be exactly want, in order. text is how want is mostly written.
func checkType(v strictjson.Value, want []typedField, text string) error {
	if string(v) == text {
		return nil
	}
	n := 0
	_, err := strictjson.Elements(v, func(e strictjson.Value) (none struct{}, err error) {
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

func checkTypedField(v strictjson.Value, want typedField) error {
	field := strictjson.Open("", v, typedFieldNames)
	field.Require(typedFieldNames...)
	field.Check("name", wantText(want.name))
	field.Check("type", wantText(want.typ))
	return field.Err()
}

var wantName, wantVersion, wantNothing = wantText(domainName), wantText(domainVersion), wantText("")

// wantText returns a reader of a string that can only be want.
func wantText(want string) func(strictjson.Value) error {
	return func(v strictjson.Value) error {
		if !v.Is(want) {
			return fmt.Errorf("want %q, found %s", want, v)
		}
		return nil
	}
}

// readDomain returns the chain id of a domain that differs from others only in it.
func readDomain(v strictjson.Value) (uint64, error) {
	domain := strictjson.Open("domain", v, domainNames)
	domain.Require("name", "version", "chainId")
	domain.Check("name", wantName)
	domain.Check("version", wantVersion)
	domain.Check("verifyingContract", wantNothing)
	domain.Check("salt", wantNothing)
	chainID := strictjson.Read(domain, "chainId", readChainID)
	return chainID, domain.Err()
}

// readMessage reads the transaction. All of its fields are required: one that is left
// out would be signed as zero.
func readMessage(v strictjson.Value, chainID uint64) (*Transaction, error) {
	m := strictjson.Open("message", v, transactionNames)
	m.Require(transactionNames...)
	m.Check("txType", wantZKsyncType)
	t := &Transaction{
		Type:                 TypeZKsync,
		ChainID:              chainID,
		Nonce:                strictjson.Read(m, "nonce", readUint64),
		From:                 strictjson.Read(m, "from", readAddressWord),
		To:                   strictjson.Read(m, "to", readAddressWord),
		Value:                strictjson.Read(m, "value", readUint256),
		Data:                 strictjson.Read(m, "data", readBytes),
		GasLimit:             strictjson.Read(m, "gasLimit", readUint256),
		MaxFeePerGas:         strictjson.Read(m, "maxFeePerGas", readUint256),
		MaxPriorityFeePerGas: strictjson.Read(m, "maxPriorityFeePerGas", readUint256),
		GasPerPubdata:        strictjson.Read(m, "gasPerPubdataByteLimit", readUint256),
		FactoryDepsHash:      strictjson.Read(m, "factoryDeps", readHashes),
		Paymaster:            strictjson.Read(m, "paymaster", readAddressWord),
		PaymasterInput:       strictjson.Read(m, "paymasterInput", readBytes),
	}
	if m.Err() != nil {
		return nil, m.Err()
	}
	return t, nil
}

func wantZKsyncType(v strictjson.Value) error {
	typ, err := readUint256(v)
	if err == nil && !typ.Eq(zksyncType) {
		err = fmt.Errorf("want 113, found %s", v)
	}
	return err
}

func readHashes(v strictjson.Value) ([]policy.Hash, error) { return strictjson.Elements(v, readHash) }
