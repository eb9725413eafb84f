package zktx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/holiman/uint256"
)

// defaultGasPerPubdata is what ZKsync's SDKs sign where the request says nothing.
const defaultGasPerPubdata = 50_000

// Fields of a transaction request: execution-apis' GenericTransaction, the names that
// ethers and ZKsync's SDKs add, and those of types that are refused.
var (
	blobFields    = []string{"maxFeePerBlobGas", "blobVersionedHashes", "blobVersion", "blobs", "commitments", "proofs", "sidecar"}
	setCodeFields = []string{"authorizationList"}
	zksyncFields  = []string{"gasPerPubdata", "gasPerPubdataByteLimit", "factoryDeps", "paymaster", "paymasterInput", "eip712Meta", "customSignature"}
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
	text, err := document(data)
	if err != nil {
		return nil, err
	}
	req := openObject("", text, requestFields)
	// go-ethereum's apitypes.SendTxArgs writes null for those of these that it has not.
	req.nullIsAbsent("gasPrice", "maxFeePerGas", "maxPriorityFeePerGas", "accessList")
	typ, typed := readType(req)
	refuseTypes(req, typ)

	t := &Transaction{ChainID: chainID}
	readCommon(req, t)
	if kind == TypeZKsync {
		readZKsync(req, t, typ, typed)
	} else {
		readEthereum(req, t, typ, typed)
	}
	checkFees(req, t)
	if req.err != nil {
		return nil, req.err
	}
	return t, nil
}

// readType returns the transaction type, if the request says it.
func readType(req *object) (typ uint64, given bool) {
	typ = member(req, "type", func(v value) (uint64, error) {
		if text, err := v.text(); err == nil {
			if typ, ok := typeNames[string(text)]; ok {
				return typ, nil
			}
		}
		return readUint64(v)
	})
	return typ, req.has("type")
}

// refuseTypes refuses what no session may sign. It comes before what else may be wrong
// with the request, so that the refusal is what the client reads.
func refuseTypes(req *object, typ uint64) {
	blob := fmt.Errorf("%w: blob transactions (type 3) are not signed", ErrRefusedType)
	setCode := fmt.Errorf("%w: set-code transactions (type 4) are not signed", ErrRefusedType)
	switch typ {
	case typeBlob:
		req.fail("type", blob)
	case typeSetCode:
		req.fail("type", setCode)
	}
	req.refuse(blob, blobFields...)
	req.refuse(setCode, setCodeFields...)
	if to := req.get("to"); to == nil || to.isNull() {
		req.fail("to", fmt.Errorf("%w: contract creation is not signed, give the contract to call", ErrRefusedType))
	}
}

// readCommon reads what transactions of all types have.
func readCommon(req *object, t *Transaction) {
	req.require("from", "nonce")
	if t.ChainID == 0 {
		req.require("chainId")
	}
	if req.has("chainId") {
		t.ChainID = member(req, "chainId", readChainID)
	}
	t.From = member(req, "from", readAddress)
	t.To = member(req, "to", readAddress)
	t.Nonce = member(req, "nonce", readUint64)
	t.Value = member(req, "value", readUint256)
	t.Data = either(req, "data", "input", readBytes, bytes.Equal)
	if !req.has("gasLimit") {
		req.require("gas")
	}
	t.GasLimit = either(req, "gas", "gasLimit", readUint256, equalInts)
	t.MaxPriorityFeePerGas = member(req, "maxPriorityFeePerGas", readUint256)
}

// either reads a member that goes by two names. If it is there by both, they have to agree.
func either[T any](o *object, name, alias string, read func(value) (T, error), equal func(T, T) bool) T {
	a, b := member(o, name, read), member(o, alias, read)
	if !o.has(alias) {
		return a
	}
	if o.has(name) && !equal(a, b) {
		o.fail(alias, fmt.Errorf("is the same field as %s and differs from it", name))
	}
	return b
}

func equalInts(a, b uint256.Int) bool { return a.Eq(&b) }

func checkFees(req *object, t *Transaction) {
	if t.MaxPriorityFeePerGas.Gt(&t.MaxFeePerGas) {
		req.fail("maxPriorityFeePerGas", fmt.Errorf("%s is above maxFeePerGas, %s",
			t.MaxPriorityFeePerGas.Dec(), t.MaxFeePerGas.Dec()))
	}
}

// readEthereum reads what transactions of types 0, 1 and 2 have. Without a type in the
// request it is the one that its fee and access list belong to.
func readEthereum(req *object, t *Transaction, typ uint64, typed bool) {
	req.refuse(errors.New("only ZKsync transactions (type 0x71) have this field"), zksyncFields...)
	if !typed {
		typ = typeByFields(req)
	}
	wrongField := fmt.Errorf("transactions of type %d do not have this field", typ)
	switch typ {
	case TypeLegacy:
		req.refuse(wrongField, "maxFeePerGas", "maxPriorityFeePerGas", "accessList")
	case TypeAccessList:
		req.refuse(wrongField, "maxFeePerGas", "maxPriorityFeePerGas")
	case TypeDynamicFee:
		req.refuse(wrongField, "gasPrice")
	default:
		req.fail("type", fmt.Errorf("want 0, 1 or 2, found %s", req.get("type")))
		return
	}
	fee := "gasPrice"
	if typ == TypeDynamicFee {
		fee = "maxFeePerGas"
	}
	req.require(fee)
	t.Type = uint8(typ)
	t.MaxFeePerGas = member(req, fee, readUint256)
	t.AccessList = member(req, "accessList", readAccessList)
	if !t.GasLimit.IsUint64() {
		req.fail("gas", fmt.Errorf("%s does not fit 64 bits", t.GasLimit.Dec()))
	}
}

func typeByFields(req *object) uint64 {
	switch {
	case !req.has("gasPrice") || req.has("maxFeePerGas"):
		return TypeDynamicFee
	case req.has("accessList"):
		return TypeAccessList
	}
	return TypeLegacy
}

func readAccessList(v value) ([]AccessTuple, error) { return elements(v, readAccessTuple) }

func readAccessTuple(v value) (AccessTuple, error) {
	tuple := openObject("", v, accessTupleFields)
	tuple.require(accessTupleFields...)
	tuple.nullIsAbsent("storageKeys") // go-ethereum's types.AccessTuple, where there are none
	return AccessTuple{
		Address:     member(tuple, "address", readAddress),
		StorageKeys: member(tuple, "storageKeys", readHashes),
	}, tuple.err
}

// readZKsync reads what transactions of type 0x71 have, as viem takes them in a
// request or as the node's API has them, in eip712Meta.
func readZKsync(req *object, t *Transaction, typ uint64, typed bool) {
	if typed && typ != TypeZKsync {
		req.fail("type", fmt.Errorf("want 0x71, found %s", req.get("type")))
	}
	t.Type = TypeZKsync
	req.refuse(errors.New("ZKsync transactions (type 0x71) have no access list"), "accessList")
	t.MaxFeePerGas = readZKsyncFee(req)
	readExtras(req, t)
}

// readZKsyncFee reads maxFeePerGas; a gasPrice is the same thing on ZKsync.
func readZKsyncFee(req *object) uint256.Int {
	if !req.has("gasPrice") {
		req.require("maxFeePerGas")
		return member(req, "maxFeePerGas", readUint256)
	}
	req.refuse(errors.New("give this or gasPrice, not both"), "maxFeePerGas")
	return member(req, "gasPrice", readUint256)
}

var errSignatureGiven = errors.New("the agent makes the signature, a request can't have one")

// readExtras reads the fields that only type 0x71 has.
func readExtras(req *object, t *Transaction) {
	t.GasPerPubdata = *uint256.NewInt(defaultGasPerPubdata)
	req.refuse(errSignatureGiven, "customSignature")
	if req.has("eip712Meta") {
		req.refuse(errors.New("give this or eip712Meta, not both"),
			"gasPerPubdata", "gasPerPubdataByteLimit", "factoryDeps", "paymaster", "paymasterInput")
		req.check("eip712Meta", func(v value) error { return readMeta(v, t) })
	}
	if req.has("gasPerPubdata") || req.has("gasPerPubdataByteLimit") {
		t.GasPerPubdata = either(req, "gasPerPubdata", "gasPerPubdataByteLimit", readUint256, equalInts)
	}
	if req.has("factoryDeps") {
		readFactoryDeps(req, t)
	}
	if req.has("paymaster") || req.has("paymasterInput") {
		readPaymaster(req, t)
	}
}

// readMeta reads the same fields as the node's API has them (zksync-era, Eip712Meta).
func readMeta(v value, t *Transaction) error {
	meta := openObject("", v, metaFields)
	meta.refuse(errSignatureGiven, "customSignature")
	if meta.has("gasPerPubdata") {
		t.GasPerPubdata = member(meta, "gasPerPubdata", readUint256)
	}
	readFactoryDeps(meta, t)
	meta.check("paymasterParams", func(v value) error {
		params := openObject("", v, paymasterFields)
		readPaymaster(params, t)
		return params.err
	})
	return meta.err
}

func readFactoryDeps(o *object, t *Transaction) {
	if err := t.setFactoryDeps(member(o, "factoryDeps", readBytecodes)); err != nil {
		o.fail("factoryDeps", err)
	}
}

func readBytecodes(v value) ([][]byte, error) { return elements(v, readBytesOrArray) }

// readPaymaster wants both fields, as viem does (assertEip712Transaction): one of them
// alone is a mistake that costs the account its fee or fails the transaction.
func readPaymaster(o *object, t *Transaction) {
	o.require(paymasterFields...)
	t.Paymaster = member(o, "paymaster", readAddress)
	t.PaymasterInput = member(o, "paymasterInput", readBytesOrArray)
}
