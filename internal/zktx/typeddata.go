package zktx

import (
	"fmt"
	"strings"

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
func ParseTypedData(data policy.JSONValue) (*Transaction, error) {
	doc := policy.OpenObject("", data, typedDataNames)
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
func UnwrapTypedData(param policy.JSONValue) (policy.JSONValue, error) {
	switch param.Kind() {
	case policy.KindObject:
		return param, nil
	case policy.KindString:
		text, err := param.Text()
		if err != nil {
			return nil, err
		}
		return policy.ParseJSON(text)
	}
	return nil, &FieldError{Msg: fmt.Sprintf("want typed data as a JSON object or string, found %s", param)}
}

// checkForeign returns an [ErrForeign] that says what differs if doc is another application's typed data. Other errors
// are about members that are not of their kind.
func checkForeign(doc *policy.JSONObject) error {
	for _, name := range []string{"types", "domain", "message"} {
		if v := doc.Get(name); v.Kind() != policy.KindObject {
			return &FieldError{Path: name, Msg: fmt.Sprintf("want an object, found %s", v)}
		}
	}
	primary := policy.ReadMember(doc, "primaryType", policy.JSONValue.Text)
	if doc.Err() != nil {
		return doc.Err()
	}
	domain := doc.Get("domain")
	if string(primary) == primaryType && find(domain, "name").Is(domainName) {
		return nil
	}
	var differs []string
	if string(primary) != primaryType {
		differs = append(differs, fmt.Sprintf("primaryType is %q, want %q", policy.Shorten(string(primary)), primaryType))
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
func find(v policy.JSONValue, name string) policy.JSONValue {
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
func checkTypes(v policy.JSONValue) error {
	types := policy.OpenObject("types", v, typesNames)
	types.Require(primaryType)
	types.Check("EIP712Domain", checkDomainType)
	types.Check(primaryType, checkTransactionType)
	return types.Err()
}

func checkDomainType(v policy.JSONValue) error { return checkType(v, domainFields, domainText) }
func checkTransactionType(v policy.JSONValue) error {
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
func checkType(v policy.JSONValue, want []typedField, text string) error {
	if string(v) == text {
		return nil
	}
	n := 0
	_, err := policy.ReadElements(v, func(e policy.JSONValue) (none struct{}, err error) {
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

func checkTypedField(v policy.JSONValue, want typedField) error {
	field := policy.OpenObject("", v, typedFieldNames)
	field.Require(typedFieldNames...)
	field.Check("name", wantText(want.name))
	field.Check("type", wantText(want.typ))
	return field.Err()
}

var wantName, wantVersion, wantNothing = wantText(domainName), wantText(domainVersion), wantText("")

// wantText returns a reader of a string that can only be want.
func wantText(want string) func(policy.JSONValue) error {
	return func(v policy.JSONValue) error {
		if !v.Is(want) {
			return fmt.Errorf("want %q, found %s", want, v)
		}
		return nil
	}
}

// readDomain returns the chain id of a domain that differs from others only in it.
func readDomain(v policy.JSONValue) (uint64, error) {
	domain := policy.OpenObject("domain", v, domainNames)
	domain.Require("name", "version", "chainId")
	domain.Check("name", wantName)
	domain.Check("version", wantVersion)
	domain.Check("verifyingContract", wantNothing)
	domain.Check("salt", wantNothing)
	chainID := policy.ReadMember(domain, "chainId", readChainID)
	return chainID, domain.Err()
}

// readMessage reads the transaction. All of its fields are required: one that is left
// out would be signed as zero.
func readMessage(v policy.JSONValue, chainID uint64) (*Transaction, error) {
	m := policy.OpenObject("message", v, transactionNames)
	m.Require(transactionNames...)
	m.Check("txType", wantZKsyncType)
	t := &Transaction{
		Type:                 TypeZKsync,
		ChainID:              chainID,
		Nonce:                policy.ReadMember(m, "nonce", readUint64),
		From:                 policy.ReadMember(m, "from", readAddressWord),
		To:                   policy.ReadMember(m, "to", readAddressWord),
		Value:                policy.ReadMember(m, "value", readUint256),
		Data:                 policy.ReadMember(m, "data", readBytes),
		GasLimit:             policy.ReadMember(m, "gasLimit", readUint256),
		MaxFeePerGas:         policy.ReadMember(m, "maxFeePerGas", readUint256),
		MaxPriorityFeePerGas: policy.ReadMember(m, "maxPriorityFeePerGas", readUint256),
		GasPerPubdata:        policy.ReadMember(m, "gasPerPubdataByteLimit", readUint256),
		FactoryDepsHash:      policy.ReadMember(m, "factoryDeps", readHashes),
		Paymaster:            policy.ReadMember(m, "paymaster", readAddressWord),
		PaymasterInput:       policy.ReadMember(m, "paymasterInput", readBytes),
	}
	if m.Err() != nil {
		return nil, m.Err()
	}
	return t, nil
}

func wantZKsyncType(v policy.JSONValue) error {
	typ, err := readUint256(v)
	if err == nil && !typ.Eq(zksyncType) {
		err = fmt.Errorf("want 113, found %s", v)
	}
	return err
}

func readHashes(v policy.JSONValue) ([]policy.Hash, error) { return policy.ReadElements(v, readHash) }
