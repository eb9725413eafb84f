package zktx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// defaultGasPerPubdata is what ZKsync's SDKs sign where the request says nothing.
const defaultGasPerPubdata = 50_000

// Fields of a transaction request: execution-apis' GenericTransaction, the names that
// ethers and ZKsync's SDKs add, and those of types that are refused.
var (
	blobFields = []string{"maxFeePerBlobGas", "blobVersionedHashes", "blobVersion", "blobs", "commitments", "proofs",
		"sidecar"}
	setCodeFields = []string{"authorizationList"}
	zksyncFields  = []string{"gasPerPubdata", "gasPerPubdataByteLimit", "factoryDeps", "paymaster", "paymasterInput",
		"eip712Meta", "customSignature"}
	requestFields = slices.Concat([]string{
		"from", "to", "value", "data", "input", "gas", "gasLimit", "gasPrice",
		"maxFeePerGas", "maxPriorityFeePerGas", "nonce", "chainId", "type", "accessList",
	}, blobFields, setCodeFields, zksyncFields)

	metaFields        = []string{"gasPerPubdata", "factoryDeps", "paymasterParams", "customSignature"}
	paymasterFields   = []string{"paymaster", "paymasterInput"}
	accessTupleFields = []string{"address", "storageKeys"}
)

// typeNames are viem's names for transaction types.
var typeNames = map[string]uint64{
	"legacy": TypeLegacy, "eip2930": TypeAccessList, "eip1559": TypeDynamicFee,
	"eip4844": typeBlob, "eip7702": typeSetCode, "eip712": TypeZKsync,
}

// ParseTransaction reads a transaction request as JSON-RPC clients send it, strictly.
// kind TypeZKsync reads a type 0x71 one; TypeDynamicFee one of types 0, 1 and 2, as the fields say.
// chainID is what a request without chainId means; if it is 0, chainId is required.
//
// from, to, nonce, gas and a fee are required: the agent fills in nothing that it would
// have to guess. value, data and maxPriorityFeePerGas are 0 and empty if absent.
// Errors are *[FieldError]; those that wrap [ErrRefusedType] are refusals.
func ParseTransaction(data []byte, kind uint8, chainID uint64) (*Transaction, error) {
	text, err := policy.ParseJSON(data)
	if err != nil {
		return nil, err
	}
	req, err := OpenRequest(text, nil)
	if err != nil {
		return nil, err
	}
	return req.Transaction(kind, chainID)
}

// Request is a transaction request whose members have names that are known, and are not read yet.
type Request struct{ object *policy.JSONObject }

// OpenRequest finds the members of a transaction request, and those that the caller has added, by name. A member that
// is null is as if it were not there: many clients write null for what they do not have. Errors are *[FieldError].
func OpenRequest(v policy.JSONValue, added []string) (*Request, error) {
	names := requestFields
	if len(added) > 0 {
		names = slices.Concat(requestFields, added)
	}
	o := policy.OpenObject("", v, names)
	if o.Err() == nil {
		o.NullIsAbsent(names...)
	}
	return &Request{o}, o.Err()
}

// Get returns the member of that name, nil if it is absent. The name is one of a transaction's, or one that was
// added.
func (r *Request) Get(name string) policy.JSONValue { return r.object.Get(name) }

// Transaction reads the request as [ParseTransaction] does. It can be called again with another kind.
func (r *Request) Transaction(kind uint8, chainID uint64) (*Transaction, error) {
	req := r.object.Fresh()
	typ, typed := readType(req)
	refuseTypes(req, typ)

	t := &Transaction{ChainID: chainID}
	readCommon(req, t)
	if kind == TypeZKsync {
		readZKsync(req, t, typ, typed)
	} else {
		readEthereum(req, t, typ, typed)
	}
	if req.Err() != nil {
		return nil, req.Err()
	}
	return t, nil
}

// readType returns the transaction type, if the request says it.
func readType(req *policy.JSONObject) (typ uint64, given bool) {
	typ = policy.ReadMember(req, "type", func(v policy.JSONValue) (uint64, error) {
		if text, err := v.Text(); err == nil {
			if typ, ok := typeNames[string(text)]; ok {
				return typ, nil
			}
		}
		return readUint64(v)
	})
	return typ, req.Has("type")
}

// refuseTypes refuses what no session may sign. It comes before what else may be wrong
// with the request, so that the refusal is what the client reads.
func refuseTypes(req *policy.JSONObject, typ uint64) {
	blob := fmt.Errorf("%w: blob transactions (type 3) are not signed", ErrRefusedType)
	setCode := fmt.Errorf("%w: set-code transactions (type 4) are not signed", ErrRefusedType)
	switch typ {
	case typeBlob:
		req.Fail("type", blob)
	case typeSetCode:
		req.Fail("type", setCode)
	}
	req.Refuse(blob, blobFields...)
	req.Refuse(setCode, setCodeFields...)
	if !req.Has("to") {
		req.Fail("to", fmt.Errorf("%w: contract creation is not signed, give the contract to call", ErrRefusedType))
	}
}

// readCommon reads what transactions of all types have.
func readCommon(req *policy.JSONObject, t *Transaction) {
	req.Require("from", "nonce")
	if t.ChainID == 0 {
		req.Require("chainId")
	}
	if req.Has("chainId") {
		t.ChainID = policy.ReadMember(req, "chainId", readChainID)
	}
	t.From = policy.ReadMember(req, "from", readAddress)
	t.To = policy.ReadMember(req, "to", readAddress)
	t.Nonce = policy.ReadMember(req, "nonce", readUint64)
	t.Value = policy.ReadMember(req, "value", readUint256)
	t.Data = either(req, "data", "input", readBytes, bytes.Equal)
	if !req.Has("gasLimit") {
		req.Require("gas")
	}
	t.GasLimit = either(req, "gas", "gasLimit", readUint256, equalInts)
	t.MaxPriorityFeePerGas = policy.ReadMember(req, "maxPriorityFeePerGas", readUint256)
}

// either reads a member that goes by two names. If it is there by both, they have to agree.
func either[T any](o *policy.JSONObject, name, alias string, read func(policy.JSONValue) (T, error),
	equal func(T, T) bool) T {
	a, b := policy.ReadMember(o, name, read), policy.ReadMember(o, alias, read)
	if !o.Has(alias) {
		return a
	}
	if o.Has(name) && !equal(a, b) {
		o.Fail(alias, fmt.Errorf("is the same field as %s and differs from it", name))
	}
	return b
}

func equalInts(a, b uint256.Int) bool { return a.Eq(&b) }

// readEthereum reads what transactions of types 0, 1 and 2 have. Without a type in the
// request it is the one that its fee and access list belong to.
func readEthereum(req *policy.JSONObject, t *Transaction, typ uint64, typed bool) {
	req.Refuse(errors.New("only ZKsync transactions (type 0x71) have this field"), zksyncFields...)
	if !typed {
		typ = typeByFields(req)
	}
	wrongField := fmt.Errorf("transactions of type %d do not have this field", typ)
	switch typ {
	case TypeLegacy:
		req.Refuse(wrongField, "maxFeePerGas", "maxPriorityFeePerGas")
		refuseAccessList(req, wrongField)
	case TypeAccessList:
		req.Refuse(wrongField, "maxFeePerGas", "maxPriorityFeePerGas")
	case TypeDynamicFee:
		req.Refuse(wrongField, "gasPrice")
	default:
		req.Fail("type", fmt.Errorf("want 0, 1 or 2, found %s", req.Get("type")))
		return
	}
	fee := "gasPrice"
	if typ == TypeDynamicFee {
		fee = "maxFeePerGas"
	}
	req.Require(fee)
	t.Type = uint8(typ)
	t.MaxFeePerGas = policy.ReadMember(req, fee, readUint256)
	if typ != TypeLegacy {
		t.AccessList = policy.ReadMember(req, "accessList", readAccessList)
	}
	if !t.GasLimit.IsUint64() {
		req.Fail("gas", fmt.Errorf("%s does not fit 64 bits", t.GasLimit.Dec()))
	}
}

func typeByFields(req *policy.JSONObject) uint64 {
	switch {
	case !req.Has("gasPrice") || req.Has("maxFeePerGas"):
		return TypeDynamicFee
	case req.Has("accessList"):
		return TypeAccessList
	}
	return TypeLegacy
}

func readAccessList(v policy.JSONValue) ([]AccessTuple, error) {
	return policy.ReadElements(v, readAccessTuple)
}

func readAccessTuple(v policy.JSONValue) (AccessTuple, error) {
	tuple := policy.OpenObject("", v, accessTupleFields)
	tuple.Require(accessTupleFields...)
	tuple.NullIsAbsent("storageKeys") // go-ethereum's types.AccessTuple, where there are none
	return AccessTuple{
		Address:     policy.ReadMember(tuple, "address", readAddress),
		StorageKeys: policy.ReadMember(tuple, "storageKeys", readHashes),
	}, tuple.Err()
}

// readZKsync reads what transactions of type 0x71 have, as viem takes them in a
// request or as the node's API has them, in eip712Meta.
func readZKsync(req *policy.JSONObject, t *Transaction, typ uint64, typed bool) {
	if typed && typ != TypeZKsync {
		req.Fail("type", fmt.Errorf("want 0x71, found %s", req.Get("type")))
	}
	t.Type = TypeZKsync
	refuseAccessList(req, errors.New("ZKsync transactions (type 0x71) have no access list"))
	t.MaxFeePerGas = readZKsyncFee(req)
	readExtras(req, t)
}

// refuseAccessList refuses an access list that has entries. Clients write an empty one where there is none.
func refuseAccessList(req *policy.JSONObject, why error) {
	list := policy.ReadMember(req, "accessList", readAccessList)
	if len(list) > 0 {
		req.Fail("accessList", why)
	}
}

// readZKsyncFee reads maxFeePerGas; a gasPrice is the same thing on ZKsync.
func readZKsyncFee(req *policy.JSONObject) uint256.Int {
	if !req.Has("gasPrice") {
		req.Require("maxFeePerGas")
		return policy.ReadMember(req, "maxFeePerGas", readUint256)
	}
	req.Refuse(errors.New("give this or gasPrice, not both"), "maxFeePerGas")
	return policy.ReadMember(req, "gasPrice", readUint256)
}

var errSignatureGiven = errors.New("the agent makes the signature, a request can't have one")

// readExtras reads the fields that only type 0x71 has.
func readExtras(req *policy.JSONObject, t *Transaction) {
	t.GasPerPubdata = *uint256.NewInt(defaultGasPerPubdata)
	req.Refuse(errSignatureGiven, "customSignature")
	if req.Has("eip712Meta") {
		req.Refuse(errors.New("give this or eip712Meta, not both"),
			"gasPerPubdata", "gasPerPubdataByteLimit", "factoryDeps", "paymaster", "paymasterInput")
		req.Check("eip712Meta", func(v policy.JSONValue) error { return readMeta(v, t) })
	}
	if req.Has("gasPerPubdata") || req.Has("gasPerPubdataByteLimit") {
		t.setGasPerPubdata(either(req, "gasPerPubdata", "gasPerPubdataByteLimit", readUint256, equalInts))
	}
	if req.Has("factoryDeps") {
		readFactoryDeps(req, t)
	}
	if req.Has("paymaster") || req.Has("paymasterInput") {
		readPaymaster(req, t)
	}
}

// readMeta reads the same fields as the node's API has them (zksync-era, Eip712Meta).
func readMeta(v policy.JSONValue, t *Transaction) error {
	meta := policy.OpenObject("", v, metaFields)
	meta.NullIsAbsent(metaFields...)
	meta.Refuse(errSignatureGiven, "customSignature")
	t.setGasPerPubdata(policy.ReadMember(meta, "gasPerPubdata", readUint256))
	readFactoryDeps(meta, t)
	meta.Check("paymasterParams", func(v policy.JSONValue) error {
		params := policy.OpenObject("", v, paymasterFields)
		readPaymaster(params, t)
		return params.Err()
	})
	return meta.Err()
}

// setGasPerPubdata takes what a request says. 0 means nothing: zksync-ethers sends it where its caller has set none.
func (t *Transaction) setGasPerPubdata(x uint256.Int) {
	if !x.IsZero() {
		t.GasPerPubdata = x
	}
}

func readFactoryDeps(o *policy.JSONObject, t *Transaction) {
	if err := t.setFactoryDeps(policy.ReadMember(o, "factoryDeps", readBytecodes)); err != nil {
		o.Fail("factoryDeps", err)
	}
}

func readBytecodes(v policy.JSONValue) ([][]byte, error) {
	return policy.ReadElements(v, readBytesOrArray)
}

// readPaymaster wants both fields, as viem does (assertEip712Transaction): one of them
// alone is a mistake that costs the account its fee or fails the transaction.
func readPaymaster(o *policy.JSONObject, t *Transaction) {
	o.Require(paymasterFields...)
	t.Paymaster = policy.ReadMember(o, "paymaster", readAddress)
	t.PaymasterInput = policy.ReadMember(o, "paymasterInput", readBytesOrArray)
}
