package zktx

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/common/math"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rlp"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// equateEmpty compares transactions: nil and empty bytes mean the same in them.
var equateEmpty = cmpopts.EquateEmpty()

// randomTransaction returns a type 0x71 transaction with fields of all lengths.
func randomTransaction(r *rand.Rand) *Transaction {
	bytesOf := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	integer := func() (x uint256.Int) {
		x.SetBytes(bytesOf(r.IntN(33)))
		return x
	}
	t := &Transaction{
		Type: TypeZKsync, ChainID: 1 + r.Uint64()>>r.IntN(64), Nonce: r.Uint64() >> r.IntN(64),
		From: policy.Address(bytesOf(20)), To: policy.Address(bytesOf(20)),
		Value: integer(), Data: bytesOf(r.IntN(200)), GasLimit: integer(),
		MaxFeePerGas: integer(), MaxPriorityFeePerGas: integer(), GasPerPubdata: integer(),
	}
	if r.IntN(2) == 0 {
		t.Paymaster, t.PaymasterInput = policy.Address(bytesOf(20)), bytesOf(r.IntN(100))
	}
	for range r.IntN(3) {
		t.FactoryDepsHash = append(t.FactoryDepsHash, policy.Hash(bytesOf(32)))
	}
	return t
}

// toTypedData writes t as go-ethereum's typed data.
func toTypedData(t *Transaction) apitypes.TypedData {
	word := func(b []byte) string { return new(uint256.Int).SetBytes(b).Dec() }
	deps := make([]any, len(t.FactoryDepsHash))
	for i, h := range t.FactoryDepsHash {
		deps[i] = hexutil.Encode(h[:])
	}
	chainID := math.HexOrDecimal256(*new(uint256.Int).SetUint64(t.ChainID).ToBig())
	data := apitypes.TypedData{
		Types: apitypes.Types{}, PrimaryType: "Transaction",
		Domain: apitypes.TypedDataDomain{Name: "zkSync", Version: "2", ChainId: &chainID},
		Message: apitypes.TypedDataMessage{
			"txType": "113", "from": word(t.From[:]), "to": word(t.To[:]), "gasLimit": t.GasLimit.Dec(),
			"gasPerPubdataByteLimit": t.GasPerPubdata.Dec(), "maxFeePerGas": t.MaxFeePerGas.Dec(),
			"maxPriorityFeePerGas": t.MaxPriorityFeePerGas.Dec(), "paymaster": word(t.Paymaster[:]),
			"nonce": uint256.NewInt(t.Nonce).Dec(), "value": t.Value.Dec(), "data": hexutil.Encode(t.Data),
			"factoryDeps": deps, "paymasterInput": hexutil.Encode(t.PaymasterInput),
		},
	}
	for name, fields := range map[string][]typedField{"EIP712Domain": domainFields, "Transaction": transactionFields} {
		for _, f := range fields {
			data.Types[name] = append(data.Types[name], apitypes.Type{Name: f.name, Type: f.typ})
		}
	}
	return data
}

// The digest and the reader agree with go-ethereum's EIP-712 on any transaction.
func TestTypedDataGoEthereum(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		tx := randomTransaction(r)
		data := toTypedData(tx)
		want, _, err := apitypes.TypedDataAndHash(data)
		if err != nil {
			t.Fatal(err)
		}
		if got := tx.Digest(); !bytes.Equal(got[:], want) {
			t.Fatalf("Digest of %+v = %v, want %x", tx, got, want)
		}
		text, err := json.Marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseTypedText(text)
		if diff := cmp.Diff(tx, got, equateEmpty); err != nil || diff != "" {
			t.Fatalf("ParseTypedData(%s): %v, want- got+\n%s", text, err, diff)
		}
	}
}

// The constants of a domain are the standard's, not only our own of two places.
func TestTypeHashes(t *testing.T) {
	const want = "Transaction(uint256 txType,uint256 from,uint256 to,uint256 gasLimit,uint256 gasPerPubdataByteLimit," +
		"uint256 maxFeePerGas,uint256 maxPriorityFeePerGas,uint256 paymaster,uint256 nonce,uint256 value,bytes data," +
		"bytes32[] factoryDeps,bytes paymasterInput)"
	if transactionTypeHash != policy.Hash(crypto.Keccak256Hash([]byte(want))) {
		t.Error("transactionTypeHash is not that of the ZKsync transaction type")
	}
}

func TestRawReadsBack(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		tx := randomTransaction(r)
		tx.FactoryDepsHash = nil
		if err := tx.setFactoryDeps([][]byte{bytes.Repeat([]byte{7}, 96)}); err != nil {
			t.Fatal(err)
		}
		raw, err := tx.Raw([]byte("signature"))
		if err != nil {
			t.Fatal(err)
		}
		got, signature, err := ParseRaw(raw)
		if diff := cmp.Diff(tx, got, equateEmpty); err != nil || diff != "" || string(signature) != "signature" {
			t.Fatalf("ParseRaw(%x): %v, %q, want- got+\n%s", raw, err, signature, diff)
		}
	}
}

func TestParseRawRefuses(t *testing.T) {
	valid := func() []any {
		return []any{uint64(1), uint64(2), uint64(3), uint64(4), make([]byte, 20), uint64(5), []byte{}, uint64(2741),
			[]byte{}, []byte{}, uint64(2741), make([]byte, 20), uint64(50000), [][]byte{}, []byte{9}, [][]byte{}}
	}
	for _, test := range []struct {
		name  string
		field int
		value any
		want  string
	}{
		{"to of 19 bytes", 4, make([]byte, 19), `rlp: input string too short for policy.Address, decoding into (zktx.rawTransaction).To`},
		{"no to", 4, []byte{}, `rlp: input string too short for policy.Address, decoding into (zktx.rawTransaction).To`},
		{"leading zero", 5, []byte{0, 1}, `rlp: non-canonical integer (leading zero bytes) for *uint256.Int, decoding into (zktx.rawTransaction).Value`},
		{"chain ids differ", 10, uint64(1), `chainId: want the chain id, two empty fields and the chain id again`},
		{"signature in R", 8, []byte{1}, `chainId: want the chain id, two empty fields and the chain id again`},
		{"signature in S", 9, []byte{1}, `chainId: want the chain id, two empty fields and the chain id again`},
		{"bytecode", 13, [][]byte{{1}}, `factoryDeps[0]: bytecode has 1 bytes, want a multiple of 32`},
		{"paymaster alone", 15, [][]byte{make([]byte, 20)},
			`paymasterParams: want no fields, or a paymaster's address and its input`},
		{"short paymaster", 15, [][]byte{{1}, {2}}, `paymasterParams: want no fields, or a paymaster's address and its input`},
		{"zero paymaster", 15, [][]byte{make([]byte, 20), {}}, `paymasterParams: want no fields where there is no paymaster`},
		{"three paymaster fields", 15, [][]byte{{1}, {2}, {3}},
			`paymasterParams: want no fields, or a paymaster's address and its input`},
	} {
		fields := valid()
		fields[test.field] = test.value
		_, _, err := ParseRaw(rawOf(t, fields))
		t.Run(test.name, func(t *testing.T) { wantFieldError(t, err, test.want) })
	}
	raw := rawOf(t, valid())
	if _, _, err := ParseRaw(raw); err != nil {
		t.Fatalf("the valid transaction is refused: %v", err)
	}
	for want, raw := range map[string][]byte{
		`want a raw transaction of type 0x71`:                           append([]byte{2}, raw[1:]...),
		`rlp: input contains more than one value`:                       append(bytes.Clone(raw), 0),
		`rlp: value size exceeds available input length`:                raw[:len(raw)-1],
		`rlp: too few elements for zktx.rawTransaction`:                 rawOf(t, valid()[:15]),
		`rlp: input list has too many elements for zktx.rawTransaction`: rawOf(t, append(valid(), []byte{})),
	} {
		_, _, err := ParseRaw(raw)
		wantFieldError(t, err, want)
	}
	_, _, err := ParseRaw(nil)
	wantFieldError(t, err, `want a raw transaction of type 0x71`)
}

func rawOf(t *testing.T, fields []any) []byte {
	t.Helper()
	list, err := rlp.EncodeToBytes(fields)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{TypeZKsync}, list...)
}

// A paymaster input is signed, so it is in the raw transaction even without a paymaster.
func TestRawKeepsPaymasterInput(t *testing.T) {
	tx := &Transaction{Type: TypeZKsync, ChainID: 1, PaymasterInput: []byte{1}}
	raw, err := tx.Raw(nil)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := ParseRaw(raw)
	if err != nil || got.Digest() != tx.Digest() {
		t.Errorf("ParseRaw = %+v, %v, want a transaction with the digest of %+v", got, err, tx)
	}
}

func TestSignatureForm(t *testing.T) {
	tx, err := ParseTransaction([]byte(legacyRequest), TypeDynamicFee, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, signature := range [][]byte{nil, make([]byte, 64), make([]byte, 65), append(make([]byte, 64), 29),
		append(make([]byte, 65), 27)} {
		_, rawErr := tx.Raw(signature)
		_, hashErr := tx.Hash(signature)
		_, jsonErr := tx.RPCJSON(signature)
		for _, err := range []error{rawErr, hashErr, jsonErr} {
			if !errors.Is(err, ErrSignature) {
				t.Errorf("signature %x: error = %v, want ErrSignature", signature, err)
			}
		}
	}
}

func TestCall(t *testing.T) {
	tx := randomTransaction(rand.New(rand.NewPCG(5, 6)))
	tx.Paymaster, tx.PaymasterInput = policy.Address{1}, []byte{2}
	validator := policy.Address{3}
	want := &policy.Call{Account: tx.From, Validator: validator, To: tx.To, Value: tx.Value, Data: tx.Data,
		GasLimit:     tx.GasLimit,
		MaxFeePerGas: tx.MaxFeePerGas, Paymaster: tx.Paymaster, PaymasterInput: tx.PaymasterInput}
	if diff := cmp.Diff(want, tx.Call(validator)); diff != "" {
		t.Errorf("Call, want- got+\n%s", diff)
	}
}

func TestMarshalJSON(t *testing.T) {
	for _, test := range []struct {
		name, request string
		kind          uint8
		want          string
	}{
		{"zksync", zksyncRequest, TypeZKsync, `{"type":"0x71","chainId":2741,"nonce":"173","from":"0x6347Ebde6a8D8f4C5711F509Ea276e74F4132841",` +
			`"to":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD","value":"1","data":"0x40c10f19","gas":"2386000","maxFeePerGas":"250000000",` +
			`"maxPriorityFeePerGas":"1","gasPerPubdata":"50000","factoryDepsHash":["0x01000001` +
			strings.TrimPrefix(hashOfOneWord, "0xec4916dd") + `"],` +
			`"paymaster":"0x5407B5040dec3D339A9247f3654E59EEccbb6391","paymasterInput":"0x8c5a3445"}`},
		{"dynamic fee", dynamicFeeRequest, TypeDynamicFee,
			`{"type":"0x2","chainId":1,"nonce":"173","from":"0x6347Ebde6a8D8f4C5711F509Ea276e74F4132841",` +
				`"to":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD","value":"1","data":"0x40c10f19","gas":"90000","maxFeePerGas":"250000000",` +
				`"maxPriorityFeePerGas":"1","accessList":[{"address":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD","storageKeys":[` +
				oneWord + `]}]}`},
		{"legacy", legacyRequest, TypeDynamicFee, `{"type":"0x0","chainId":1,"nonce":"173","from":"0x6347Ebde6a8D8f4C5711F509Ea276e74F4132841",` +
			`"to":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD","value":"0","gas":"90000","gasPrice":"30000000000"}`},
	} {
		tx, err := ParseTransaction([]byte(test.request), test.kind, 1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(tx)
		if diff := cmp.Diff(test.want, string(got)); err != nil || diff != "" {
			t.Errorf("%s: %v, want- got+\n%s", test.name, err, diff)
		}
	}
}

// hashOfOneWord is the SHA-256 of 31 zero bytes and a one.
const hashOfOneWord = "0xec4916dd28fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"

func TestRPCJSONZKsync(t *testing.T) {
	tx, err := ParseTransaction([]byte(zksyncRequest), TypeZKsync, 1)
	if err != nil {
		t.Fatal(err)
	}
	signature := []byte{1, 2}
	hash, err := tx.Hash(signature)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"0x71","hash":"` + hash.String() +
		`","chainId":"0xab5","nonce":"0xad","from":"0x6347Ebde6a8D8f4C5711F509Ea276e74F4132841",` +
		`"to":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD","value":"0x1","gas":"0x246850","maxFeePerGas":"0xee6b280","maxPriorityFeePerGas":"0x1",` +
		`"input":"0x40c10f19","eip712Meta":{"gasPerPubdata":"0xc350","factoryDeps":[` + oneWord +
		`],"customSignature":"0x0102",` +
		`"paymasterParams":{"paymaster":"0x5407B5040dec3D339A9247f3654E59EEccbb6391","paymasterInput":"0x8c5a3445"}}}`
	got, err := tx.RPCJSON(signature)
	if diff := cmp.Diff(want, string(got)); err != nil || diff != "" {
		t.Errorf("RPCJSON: %v, want- got+\n%s", err, diff)
	}
}

func TestHashBytecodeLength(t *testing.T) {
	h, err := hashBytecode(make([]byte, (1<<16-1)*wordSize))
	if err != nil || h[0] != 1 || h[1] != 0 || binary.BigEndian.Uint16(h[2:]) != 1<<16-1 {
		t.Errorf("hashBytecode of the longest bytecode = %v, %v, want it to begin with 0x0100ffff", h, err)
	}
}
