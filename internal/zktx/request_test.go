package zktx

import (
	"encoding/json"
	"errors"
	"math/big"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/core/types"
	"github.com/ethereum/go-ethereum/signer/core/apitypes"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/policy"
)

// Requests with a value in each field of their type.
const (
	zksyncRequest = `{"from":"0x6347ebde6a8d8f4c5711f509ea276e74f4132841","to":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd",` +
		`"value":"0x1","data":"0x40c10f19","gas":"2386000","maxFeePerGas":250000000,"maxPriorityFeePerGas":"0x1","nonce":173,"chainId":"0xab5",` +
		`"type":"0x71","gasPerPubdata":"50000","factoryDeps":["0x0000000000000000000000000000000000000000000000000000000000000001"],` +
		`"paymaster":"0x5407b5040dec3d339a9247f3654e59eeccbb6391","paymasterInput":"0x8c5a3445"}`
	dynamicFeeRequest = `{"from":"0x6347ebde6a8d8f4c5711f509ea276e74f4132841","to":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd",` +
		`"value":"0x1","data":"0x40c10f19","gas":"90000","maxFeePerGas":250000000,"maxPriorityFeePerGas":"0x1","nonce":173,"chainId":"0x1",` +
		`"type":"0x2","accessList":[{"address":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd","storageKeys":["0x0000000000000000000000000000000000000000000000000000000000000001"]}]}`
	legacyRequest = `{"from":"0x6347ebde6a8d8f4c5711f509ea276e74f4132841","to":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd",` +
		`"gas":"90000","gasPrice":"0x6fc23ac00","nonce":173}`
	oneWord = `"0x0000000000000000000000000000000000000000000000000000000000000001"`
)

type requestRow struct{ name, old, new, want string }

var badZKsyncRequests = []requestRow{
	{"unknown key", `"nonce":173`, `"nonce":173,"x":1`, `x: unknown field`},
	{"session, which the socket takes out", `"nonce":173`, `"nonce":173,"session":"00"`, `session: unknown field`},
	{"key in another case", `"nonce":173`, `"Nonce":173`, `Nonce: unknown field`},
	{"duplicate key", `"nonce":173`, `"nonce":173,"nonce":173`, `nonce: given twice`},
	{"null", `"nonce":173`, `"nonce":null`, `nonce: missing`},
	{"no from", `"from":"0x6347ebde6a8d8f4c5711f509ea276e74f4132841",`, ``, `from: missing`},
	{"from in decimal", `"0x6347ebde6a8d8f4c5711f509ea276e74f4132841"`,
		`"566793986292168395091546196637362728020093380673"`,
		`from: want an address, found "566793986292168395091546196637362728020093380673": must be 0x and 40 hex digits`},
	{"from with a wrong checksum", `0x6347ebde6a8d8f4c5711f509ea276e74f4132841`,
		`0x6347EBDE6a8d8f4c5711f509ea276e74f4132841`,
		`from: want an address, found "0x6347EBDE6a8d8f4c5711f509ea276e74f4132841": mixed-case address with a wrong EIP-55 checksum`},
	{"no nonce", `"nonce":173,`, ``, `nonce: missing`},
	{"no gas", `"gas":"2386000",`, ``, `gas: missing`},
	{"no fee", `"maxFeePerGas":250000000,`, ``, `maxFeePerGas: missing`},
	{"fee null", `"maxFeePerGas":250000000`, `"maxFeePerGas":null`, `maxFeePerGas: missing`},
	{"two fees", `"nonce":173`, `"nonce":173,"gasPrice":250000000`, `maxFeePerGas: give this or gasPrice, not both`},
	{"nonce beyond 64 bits", `"nonce":173`, `"nonce":18446744073709551616`,
		`nonce: 18446744073709551616 does not fit 64 bits`},
	{"data and input differ", `"nonce":173`, `"nonce":173,"input":"0x40c10f18"`,
		`input: is the same field as data and differs from it`},
	{"gas and gasLimit differ", `"nonce":173`, `"nonce":173,"gasLimit":1`,
		`gasLimit: is the same field as gas and differs from it`},
	{"two gasPerPubdata", `"nonce":173`, `"nonce":173,"gasPerPubdataByteLimit":1`,
		`gasPerPubdataByteLimit: is the same field as gasPerPubdata and differs from it`},
	{"another type", `"0x71"`, `"0x2"`, `type: want 0x71, found "0x2"`},
	{"a type's unknown name", `"0x71"`, `"zksync"`, `type: want an unsigned integer, found "zksync"`},
	{"access list", `"nonce":173`, `"nonce":173,"accessList":[{"address":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd","storageKeys":null}]`, `accessList: ZKsync transactions (type 0x71) have no access list`},
	{"customSignature", `"nonce":173`, `"nonce":173,"customSignature":"0x"`,
		`customSignature: the agent makes the signature, a request can't have one`},
	{"paymaster without input", `,"paymasterInput":"0x8c5a3445"`, ``, `paymasterInput: missing`},
	{"input without paymaster", `"paymaster":"0x5407b5040dec3d339a9247f3654e59eeccbb6391",`, ``, `paymaster: missing`},
	{"factoryDeps with null", oneWord, `null`, `factoryDeps[0]: want 0x-hex bytes, found null`},
	{"bytecode of half a word", oneWord, `"0x0001"`, `factoryDeps[0]: bytecode has 2 bytes, want a multiple of 32`},
	{"bytecode of two words", oneWord, `"0x` + strings.Repeat("00", 64) + `"`,
		`factoryDeps[0]: bytecode has 2 words of 32 bytes, want an odd number`},
	{"empty bytecode", oneWord, `"0x"`, `factoryDeps[0]: bytecode has 0 words of 32 bytes, want an odd number`},
	{"bytecode too long", oneWord, `"0x` + strings.Repeat("00", (1<<16+1)*32) + `"`,
		`factoryDeps[0]: bytecode has 2^16 words of 32 bytes or more`},
	{"byte beyond 255", oneWord, `[256]`, `factoryDeps[0][0]: want a number from 0 to 255, found 256`},
	{"byte as a string", oneWord, `["1"]`, `factoryDeps[0][0]: want a number from 0 to 255, found "1"`},
	{"eip712Meta beside its fields", `"nonce":173`, `"nonce":173,"eip712Meta":{}`,
		`gasPerPubdata: give this or eip712Meta, not both`},
	{"blob", `"nonce":173`, `"nonce":173,"maxFeePerBlobGas":"0x1"`,
		`maxFeePerBlobGas: refused transaction type: blob transactions (type 3) are not signed`},
}

// zksyncMeta is the end of zksyncRequest as the node's API has it.
const zksyncMeta = `"eip712Meta":{"gasPerPubdata":"0xc350","factoryDeps":[[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]],` +
	`"paymasterParams":{"paymaster":"0x5407b5040dec3d339a9247f3654e59eeccbb6391","paymasterInput":[140,90,52,69]}}}`

func metaRequest(t testing.TB) string {
	t.Helper()
	start, _, ok := strings.Cut(zksyncRequest, `"gasPerPubdata"`)
	if !ok {
		t.Fatal("zksyncRequest has no gasPerPubdata")
	}
	return start + zksyncMeta
}

var badMeta = []requestRow{
	{"unknown key", `"gasPerPubdata"`, `"x":1,"gasPerPubdata"`, `eip712Meta.x: unknown field`},
	{"null", `{"gasPerPubdata"`, `null,"y":{"gasPerPubdata"`, `y: unknown field`},
	{"customSignature", `"gasPerPubdata"`, `"customSignature":[],"gasPerPubdata"`,
		`eip712Meta.customSignature: the agent makes the signature, a request can't have one`},
	{"bytecode", `[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,1]`, `[]`,
		`eip712Meta.factoryDeps[0]: bytecode has 0 words of 32 bytes, want an odd number`},
	{"paymaster alone", `,"paymasterInput":[140,90,52,69]`, ``, `eip712Meta.paymasterParams.paymasterInput: missing`},
	{"unknown key of the paymaster", `"paymasterInput"`, `"x":1,"paymasterInput"`,
		`eip712Meta.paymasterParams.x: unknown field`},
}

var badDynamicFeeRequests = []requestRow{
	{"gas beyond 64 bits", `"90000"`, `"18446744073709551616"`, `gas: 18446744073709551616 does not fit 64 bits`},
	{"type 0x71", `"0x2"`, `"0x71"`, `type: want 0, 1 or 2, found "0x71"`},
	{"type of the future", `"0x2"`, `5`, `type: want 0, 1 or 2, found 5`},
	{"type 256", `"0x2"`, `256`, `type: want 0, 1 or 2, found 256`},
	{"type 0 with a fee cap", `"0x2"`, `"0x0"`, `maxFeePerGas: transactions of type 0 do not have this field`},
	{"type 1 with a fee cap", `"0x2"`, `"0x1"`, `maxFeePerGas: transactions of type 1 do not have this field`},
	{"type 2 with a gas price", `"nonce":173`, `"nonce":173,"gasPrice":1`,
		`gasPrice: transactions of type 2 do not have this field`},
	{"both fees, no type", `"type":"0x2"`, `"gasPrice":1`, `gasPrice: transactions of type 2 do not have this field`},
	{"no fee", `"maxFeePerGas":250000000,`, ``, `maxFeePerGas: missing`},
	{"paymaster", `"nonce":173`, `"nonce":173,"paymaster":"0x5407b5040dec3d339a9247f3654e59eeccbb6391"`,
		`paymaster: only ZKsync transactions (type 0x71) have this field`},
	{"chain id 0", `"0x1","type"`, `0,"type"`, `chainId: no chain has the id 0`},
	{"access list: unknown key", `"storageKeys"`, `"x":1,"storageKeys"`, `accessList[0].x: unknown field`},
	{"access list: no keys", `,"storageKeys":[` + oneWord + `]`, ``, `accessList[0].storageKeys: missing`},
	{"access list: no address", `"address":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd",`, ``,
		`accessList[0].address: missing`},
	{"access list: null key", oneWord, `null`, `accessList[0].storageKeys[0]: want 32 bytes, found null: want a string, found null`},
	{"access list: short key", oneWord, `"0x01"`, `accessList[0].storageKeys[0]: want 32 bytes, found "0x01": must be 0x and 64 hex digits`},
	{"access list: an object", `"accessList":[`, `"accessList":{},"z":[`, `z: unknown field`},
}

var badLegacyRequests = []requestRow{
	{"type 2 with a gas price", `"nonce":173`, `"nonce":173,"type":2`,
		`gasPrice: transactions of type 2 do not have this field`},
	{"type 0 with an access list", `"nonce":173`, `"nonce":173,"type":0,"accessList":[{"address":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd","storageKeys":[]}]`, `accessList: transactions of type 0 do not have this field`},
	{"tip", `"nonce":173`, `"nonce":173,"type":"legacy","maxPriorityFeePerGas":1`,
		`maxPriorityFeePerGas: transactions of type 0 do not have this field`},
	{"price null", `"0x6fc23ac00"`, `null`, `maxFeePerGas: missing`},
	{"type 0 without a price", `"gasPrice":"0x6fc23ac00"`, `"type":0`, `gasPrice: missing`},
}

func TestParseTransactionRefuses(t *testing.T) {
	for _, group := range []struct {
		name, base string
		kind       uint8
		rows       []requestRow
	}{
		{"zksync", zksyncRequest, TypeZKsync, badZKsyncRequests},
		{"eip712Meta", metaRequest(t), TypeZKsync, badMeta},
		{"dynamic fee", dynamicFeeRequest, TypeDynamicFee, badDynamicFeeRequests},
		{"legacy", legacyRequest, TypeDynamicFee, badLegacyRequests},
	} {
		if _, err := ParseTransaction([]byte(group.base), group.kind, 1); err != nil {
			t.Errorf("%s: the base request is refused: %v", group.name, err)
		}
		for _, row := range group.rows {
			t.Run(group.name+"/"+row.name, func(t *testing.T) {
				_, err := ParseTransaction([]byte(replaceOnce(t, group.base, row.old, row.new)), group.kind, 1)
				wantFieldError(t, err, row.want)
			})
		}
	}
	for _, whole := range []struct{ data, want string }{
		{``, `not JSON: unexpected end of JSON input at byte 0`},
		{`null`, `want an object, found null`},
		{`[]`, `want an object, found an array`},
		{legacyRequest + `x`, `not JSON: invalid character 'x' after top-level value at byte 155`},
	} {
		_, err := ParseTransaction([]byte(whole.data), TypeDynamicFee, 1)
		wantFieldError(t, err, whole.want)
	}
}

// Refused types are told apart from mistakes, whatever else is wrong with the request.
func TestParseTransactionRefusedTypes(t *testing.T) {
	const to = `"to":"0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd"`
	for _, test := range []struct{ old, new, want string }{
		{`"nonce":173`, `"type":"0x3"`, `blob`},
		{`"nonce":173`, `"type":"eip4844"`, `blob`},
		{`"nonce":173`, `"blobs":[]`, `blob`},
		{`"nonce":173`, `"blobVersionedHashes":[` + oneWord + `]`, `blob`},
		{`"nonce":173`, `"sidecar":{}`, `blob`},
		{`"nonce":173`, `"type":4`, `set-code`},
		{`"nonce":173`, `"type":"eip7702"`, `set-code`},
		{`"nonce":173`, `"authorizationList":[]`, `set-code`},
		{to, `"to":null`, `contract creation`},
		{to + `,`, ``, `contract creation`},
	} {
		for _, kind := range []uint8{TypeZKsync, TypeDynamicFee} {
			_, err := ParseTransaction([]byte(replaceOnce(t, legacyRequest, test.old, test.new)), kind, 1)
			var field *FieldError
			if !errors.Is(err, ErrRefusedType) || !errors.As(err, &field) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s, kind %d: error = %v, want ErrRefusedType about %s", test.new, kind, err, test.want)
			}
		}
	}
	if _, err := ParseTransaction([]byte(`{}`), TypeZKsync, 1); !errors.Is(err, ErrRefusedType) {
		t.Errorf("a request without to: error = %v, want ErrRefusedType", err)
	}
	if _, err := ParseTransaction([]byte(`{"to":"0x"}`), TypeZKsync, 1); errors.Is(err, ErrRefusedType) || err == nil {
		t.Errorf("a request with a bad address: error = %v, want another than ErrRefusedType", err)
	}
}

// Every form that means the same gives the same transaction.
func TestParseTransactionAccepts(t *testing.T) {
	for _, test := range []struct {
		name, base, old, new string
		kind                 uint8
	}{
		{"input for data", zksyncRequest, `"data"`, `"input"`, TypeZKsync},
		{"input and data", zksyncRequest, `"nonce"`, `"input":"0x40C10F19","nonce"`, TypeZKsync},
		{"gasLimit for gas", zksyncRequest, `"gas":`, `"gasLimit":`, TypeZKsync},
		{"gasLimit and gas", zksyncRequest, `"nonce"`, `"gasLimit":2386000,"nonce"`, TypeZKsync},
		{"gasPrice for maxFeePerGas", zksyncRequest, `"maxFeePerGas"`, `"gasPrice"`, TypeZKsync},
		{"gasPrice null", zksyncRequest, `"nonce"`, `"gasPrice":null,"accessList":null,"nonce"`, TypeZKsync},
		{"type as a name", zksyncRequest, `"0x71"`, `"eip712"`, TypeZKsync},
		{"type as a number", zksyncRequest, `"0x71"`, `113`, TypeZKsync},
		{"no type", zksyncRequest, `"type":"0x71",`, ``, TypeZKsync},
		{"no chain id", zksyncRequest, `"chainId":"0xab5",`, ``, TypeZKsync},
		{"default gasPerPubdata", zksyncRequest, `"gasPerPubdata":"50000",`, ``, TypeZKsync},
		{"gasPerPubdataByteLimit", zksyncRequest, `"gasPerPubdata"`, `"gasPerPubdataByteLimit"`, TypeZKsync},
		{"two gasPerPubdata", zksyncRequest, `"nonce"`, `"gasPerPubdataByteLimit":50000,"nonce"`, TypeZKsync},
		{"eip712Meta", zksyncRequest, zksyncRequest, metaRequest(t), TypeZKsync},
		{"eip712Meta in hex", zksyncRequest, zksyncRequest,
			strings.Replace(metaRequest(t), `[140,90,52,69]`, `"0x8c5a3445"`, 1), TypeZKsync},
		{"type 2 by its fields", dynamicFeeRequest, `"type":"0x2",`, ``, TypeDynamicFee},
		{"type 2 as a name", dynamicFeeRequest, `"0x2"`, `"eip1559"`, TypeDynamicFee},
		{"legacy by name", legacyRequest, `"nonce"`, `"type":"legacy","nonce"`, TypeDynamicFee},
		{"legacy as it is by default", legacyRequest, `"nonce"`,
			`"value":0,"data":"0x","chainId":2741,"maxFeePerGas":null,"maxPriorityFeePerGas":null,"accessList":null,"nonce"`,
			TypeDynamicFee},
	} {
		want, err := ParseTransaction([]byte(test.base), test.kind, 2741)
		if err != nil {
			t.Errorf("%s: base: %v", test.name, err)
			continue
		}
		got, err := ParseTransaction([]byte(replaceOnce(t, test.base, test.old, test.new)), test.kind, 2741)
		if diff := cmp.Diff(want, got, equateEmpty); err != nil || diff != "" {
			t.Errorf("%s: %v, want- got+\n%s", test.name, err, diff)
		}
	}
}

func TestParseTransactionChainID(t *testing.T) {
	tx, err := ParseTransaction([]byte(legacyRequest), TypeDynamicFee, 5)
	if err != nil || tx.ChainID != 5 {
		t.Errorf("without chainId: %+v, %v, want the chain id 5", tx, err)
	}
	tx, err = ParseTransaction([]byte(dynamicFeeRequest), TypeDynamicFee, 5)
	if err != nil || tx.ChainID != 1 {
		t.Errorf("with chainId 1: %+v, %v, want the chain id 1", tx, err)
	}
	_, err = ParseTransaction([]byte(legacyRequest), TypeDynamicFee, 0)
	wantFieldError(t, err, `chainId: missing`)
}

// TestParseTransactionGoEthereum reads what accounts/external sends for each type, marshalled
// by the very struct it uses, and compares with go-ethereum's own transaction.
func TestParseTransactionGoEthereum(t *testing.T) {
	chainID, from := big.NewInt(2741), common.HexToAddress("0x6347ebde6a8d8f4c5711f509ea276e74f4132841")
	to, data := common.HexToAddress("0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd"), []byte{1, 2, 3}
	list := types.AccessList{{Address: to}, {Address: from, StorageKeys: []common.Hash{{1}}}}
	for _, inner := range []types.TxData{
		&types.LegacyTx{Nonce: 1, To: &to, Value: big.NewInt(5), Gas: 21000, GasPrice: big.NewInt(7), Data: data},
		&types.LegacyTx{To: &to, Gas: 21000, GasPrice: big.NewInt(7)},
		&types.AccessListTx{ChainID: chainID, To: &to, Gas: 21000, GasPrice: big.NewInt(7), AccessList: list},
		&types.AccessListTx{ChainID: chainID, To: &to, Gas: 21000, GasPrice: big.NewInt(7)},
		&types.DynamicFeeTx{ChainID: chainID, To: &to, Gas: 21000, GasFeeCap: big.NewInt(7), GasTipCap: big.NewInt(7),
			Data: data},
		&types.DynamicFeeTx{ChainID: chainID, To: &to, Gas: 21000, GasFeeCap: big.NewInt(7), AccessList: list},
	} {
		want := types.NewTx(inner)
		request, err := json.Marshal(externalSignerArgs(from, want, chainID))
		if err != nil {
			t.Fatal(err)
		}
		tx, err := ParseTransaction(request, TypeDynamicFee, 1)
		if err != nil {
			t.Errorf("%s: %v", request, err)
			continue
		}
		if got, want := tx.Digest(), types.LatestSignerForChainID(chainID).Hash(want); got != policy.Hash(want) ||
			tx.From != policy.Address(from) {
			t.Errorf("%s: Digest = %v, want %v", request, got, want)
		}
	}
}

// externalSignerArgs is what (*external.ExternalSigner).SignTx makes of tx.
func externalSignerArgs(from common.Address, tx *types.Transaction, chainID *big.Int) *apitypes.SendTxArgs {
	data, to, list := hexutil.Bytes(tx.Data()), common.NewMixedcaseAddress(*tx.To()), tx.AccessList()
	args := &apitypes.SendTxArgs{
		From: common.NewMixedcaseAddress(from), To: &to, Input: &data,
		Nonce: hexutil.Uint64(tx.Nonce()), Value: hexutil.Big(*tx.Value()), Gas: hexutil.Uint64(tx.Gas()),
		ChainID: (*hexutil.Big)(chainID),
	}
	if tx.Type() != types.LegacyTxType {
		args.AccessList = &list
	}
	if tx.Type() == types.DynamicFeeTxType {
		args.MaxFeePerGas, args.MaxPriorityFeePerGas = (*hexutil.Big)(tx.GasFeeCap()), (*hexutil.Big)(tx.GasTipCap())
	} else {
		args.GasPrice = (*hexutil.Big)(tx.GasPrice())
	}
	return args
}
