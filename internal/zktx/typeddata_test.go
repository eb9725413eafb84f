package zktx

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/keyward/keyward/policy"
)

// typedData is a transaction as agw-client sends it, with a factory dependency and a
// paymaster, so that every field has something to be wrong with.
const typedData = `{
"domain":{"name":"zkSync","version":"2","chainId":2741},
"message":{
"txType":"113",
"from":"566793986292168395091546196637362728020093380673",
"to":"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD",
"gasLimit":"2386000",
"gasPerPubdataByteLimit":50000,
"maxFeePerGas":"0xee6b280",
"maxPriorityFeePerGas":"0",
"paymaster":"0x5407b5040dec3d339a9247f3654e59eeccbb6391",
"nonce":"173",
"value":"0",
"data":"0x40c10f19",
"factoryDeps":["0x0100000128fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"],
"paymasterInput":"0x8c5a3445"},
"primaryType":"Transaction",
"types":{
"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"}],
"Transaction":[{"name":"txType","type":"uint256"},{"name":"from","type":"uint256"},{"name":"to","type":"uint256"},{"name":"gasLimit","type":"uint256"},{"name":"gasPerPubdataByteLimit","type":"uint256"},{"name":"maxFeePerGas","type":"uint256"},{"name":"maxPriorityFeePerGas","type":"uint256"},{"name":"paymaster","type":"uint256"},{"name":"nonce","type":"uint256"},{"name":"value","type":"uint256"},{"name":"data","type":"bytes"},{"name":"factoryDeps","type":"bytes32[]"},{"name":"paymasterInput","type":"bytes"}]}}`

const (
	uint256Max    = "115792089237316195423570985008687907853269984665640564039457584007913129639935"
	uint256Beyond = "115792089237316195423570985008687907853269984665640564039457584007913129639936"
	eip712Domain  = `"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"}],`
)

// replaceOnce returns text with the one occurrence of old replaced.
func replaceOnce(t testing.TB, text, old, new string) string {
	t.Helper()
	if n := strings.Count(text, old); n != 1 {
		t.Fatalf("%q is %d times in the text, want once", old, n)
	}
	return strings.Replace(text, old, new, 1)
}

// badTypedData has one row for each rule that ParseTypedData is strict by.
var badTypedData = []struct {
	name, old, new string
	want           string // the error, or its beginning if it ends in …
}{
	{"no types", `"types":{`, `"typos":{`, `typos: unknown field`},
	{"unknown key", `"primaryType":`, `"x":1,"primaryType":`, `x: unknown field`},
	{"key in another case", `"primaryType":`, `"PrimaryType":`, `PrimaryType: unknown field`},
	{"duplicate key", `"primaryType":`, `"primaryType":"Transaction","primaryType":`, `primaryType: given twice`},
	{"duplicate key, escaped", `"primaryType":`, `"primaryTyp\u0065":"Transaction","primaryType":`,
		`primaryType: given twice`},
	{"missing key", `"primaryType":"Transaction",`, ``, `primaryType: missing`},
	{"endless key", `"primaryType":`, `"` + strings.Repeat("a", 10_000) + `":1,"primaryType":`, `"aaaaaaaa…`},
	{"hostile key", `"primaryType":`, `"\n\u001b[2J":1,"primaryType":`, `"\n\x1b[2J": unknown field`},
	{"primary type is no string", `"primaryType":"Transaction"`, `"primaryType":7`, `primaryType: want a string, found 7`},
	{"types is no object", `"types":{`, `"types":[],"t":{`, `t: unknown field`},

	{"domain: unknown key", `"chainId":2741`, `"chainId":2741,"x":""`, `domain.x: unknown field`},
	{"domain: verifyingContract", `"chainId":2741`, `"chainId":2741,"verifyingContract":"0x00"`,
		`domain.verifyingContract: want "", found "0x00"`},
	{"domain: salt", `"chainId":2741`, `"chainId":2741,"salt":"0x00"`, `domain.salt: want "", found "0x00"`},
	{"domain: salt null", `"chainId":2741`, `"chainId":2741,"salt":null`, `domain.salt: want "", found null`},
	{"domain: duplicate key", `"chainId":2741`, `"chainId":2741,"chainId":2741`, `domain.chainId: given twice`},
	{"domain: two names", `"name":"zkSync"`, `"name":"zkSync","name":"other"`, `domain.name: given twice`},
	{"domain: missing key", `"version":"2",`, ``, `domain.version: missing`},
	{"domain: other version", `"version":"2"`, `"version":"1"`, `domain.version: want "2", found "1"`},
	{"domain: version is a number", `"version":"2"`, `"version":2`, `domain.version: want "2", found 2`},
	{"domain: chain id beyond 64 bits", `2741`, `"0x10000000000000000"`,
		`domain.chainId: "0x10000000000000000" does not fit 64 bits`},
	{"domain: chain id 0", `2741`, `0`, `domain.chainId: no chain has the id 0`},
	{"domain: chain id null", `2741`, `null`, `domain.chainId: want an unsigned integer, found null`},

	{"types: another type", `"EIP712Domain":`, `"Mail":[],"EIP712Domain":`, `types.Mail: unknown field`},
	{"types: no Transaction", `"Transaction":[`, `"transaction":[`, `types.transaction: unknown field`},
	{"types: fields in another order", `{"name":"txType","type":"uint256"},{"name":"from","type":"uint256"}`,
		`{"name":"from","type":"uint256"},{"name":"txType","type":"uint256"}`,
		`types.Transaction[0].name: want "txType", found "from"`},
	{"types: field of another type", `{"name":"to","type":"uint256"}`, `{"name":"to","type":"address"}`,
		`types.Transaction[2].type: want "uint256", found "address"`},
	{"types: field too few", `,{"name":"paymasterInput","type":"bytes"}`, ``,
		`types.Transaction: want 13 fields, found 12`},
	{"types: field too many", `{"name":"paymasterInput","type":"bytes"}`,
		`{"name":"paymasterInput","type":"bytes"},{"name":"x","type":"bytes"}`,
		`types.Transaction[13]: the type has no more than 13 fields`},
	{"types: field with more keys", `{"name":"to","type":"uint256"}`, `{"name":"to","type":"uint256","x":1}`,
		`types.Transaction[2].x: unknown field`},
	{"types: field without type", `{"name":"to","type":"uint256"}`, `{"name":"to"}`, `types.Transaction[2].type: missing`},
	{"types: field is null", `{"name":"to","type":"uint256"}`, `null`, `types.Transaction[2]: want an object, found null`},
	{"types: list is an object", `"Transaction":[{`, `"Transaction":{},"X":[{`, `types.X: unknown field`},
	{"types: domain with a field more", `{"name":"chainId","type":"uint256"}]`,
		`{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}]`,
		`types.EIP712Domain[3]: the type has no more than 3 fields`},
	{"types: empty domain", eip712Domain, `"EIP712Domain":[],`, `types.EIP712Domain: want 3 fields, found 0`},
	{"types: domain is null", eip712Domain, `"EIP712Domain":null,`, `types.EIP712Domain: want an array, found null`},

	{"message: unknown key", `"value":"0"`, `"value":"0","chainId":1`, `message.chainId: unknown field`},
	{"message: duplicate key", `"value":"0"`, `"value":"0","value":"0"`, `message.value: given twice`},
	{"message: missing key", `"maxPriorityFeePerGas":"0",`, ``, `message.maxPriorityFeePerGas: missing`},
	{"message: null", `"value":"0"`, `"value":null`, `message.value: want an unsigned integer, found null`},
	{"message: other type", `"113"`, `"2"`, `message.txType: want 113, found "2"`},
	{"message: other type with the same low byte", `"113"`, `369`, `message.txType: want 113, found 369`},

	{"integer: fraction", `50000`, `50000.0`, `message.gasPerPubdataByteLimit: want an unsigned integer, found 50000.0`},
	{"integer: exponent", `50000`, `5e4`, `message.gasPerPubdataByteLimit: want an unsigned integer, found 5e4`},
	{"integer: negative", `50000`, `-1`, `message.gasPerPubdataByteLimit: want an unsigned integer, found -1`},
	{"integer: negative zero", `50000`, `-0`, `message.gasPerPubdataByteLimit: want an unsigned integer, found -0`},
	{"integer: negative string", `"value":"0"`, `"value":"-1"`, `message.value: want an unsigned integer, found "-1"`},
	{"integer: plus", `"value":"0"`, `"value":"+1"`, `message.value: want an unsigned integer, found "+1"`},
	{"integer: leading zero", `"value":"0"`, `"value":"010"`, `message.value: want an unsigned integer, found "010"`},
	{"integer: space", `"value":"0"`, `"value":" 1"`, `message.value: want an unsigned integer, found " 1"`},
	{"integer: underscore", `"value":"0"`, `"value":"1_000"`, `message.value: want an unsigned integer, found "1_000"`},
	{"integer: empty", `"value":"0"`, `"value":""`, `message.value: want an unsigned integer, found ""`},
	{"integer: empty hex", `"value":"0"`, `"value":"0x"`, `message.value: want an unsigned integer, found "0x"`},
	{"integer: capital X", `"value":"0"`, `"value":"0X10"`, `message.value: want an unsigned integer, found "0X10"`},
	{"integer: no hex digit", `"value":"0"`, `"value":"0x1g"`, `message.value: want an unsigned integer, found "0x1g"`},
	{"integer: beyond 256 bits", `"value":"0"`, `"value":"` + uint256Beyond + `"`, `message.value: "` + uint256Beyond +
		`" does not fit 256 bits`},
	{"integer: number beyond 256 bits", `"value":"0"`, `"value":` + uint256Beyond, `message.value: ` + uint256Beyond +
		` does not fit 256 bits`},
	{"integer: far beyond 256 bits", `"value":"0"`, `"value":` + strings.Repeat("9", 100_000), `message.value: 99999…`},
	{"integer: 65 hex digits", `"value":"0"`, `"value":"0x` + strings.Repeat("0", 65) + `"`, `message.value: "0x00000…`},
	{"integer: array", `"value":"0"`, `"value":["0"]`, `message.value: want an unsigned integer, found an array`},
	{"integer: object", `"value":"0"`, `"value":{"hex":"0x0"}`,
		`message.value: want an unsigned integer, found an object`},
	{"integer: boolean", `"value":"0"`, `"value":true`, `message.value: want an unsigned integer, found true`},
	{"nonce beyond 64 bits", `"173"`, `"18446744073709551616"`,
		`message.nonce: "18446744073709551616" does not fit 64 bits`},

	{"address: wrong checksum", `0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD`, `0x9976c0267aE33ef761b6Ad01313c2f8f2024C0DD`,
		`message.to: want an address, found "0x9976c0267aE33ef761b6Ad01313c2f8f2024C0DD": mixed-case address with a wrong EIP-55 checksum`},
	{"address: dirty upper bits, hex", `"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD"`,
		`"0x0100000000000000000000009976c0267ae33ef761b6ad01313c2f8f2024c0dd"`,
		`message.to: "0x0100000000000000000000009976c0267ae33ef761b6ad01313c2f8f2024c0dd" is above 160 bits, so no address`},
	{"address: dirty upper bits, decimal", `"566793986292168395091546196637362728020093380673"`,
		`"1461501637330902918203684832716283019655932542976"`,
		`message.from: "1461501637330902918203684832716283019655932542976" is above 160 bits, so no address`},
	{"address: dirty upper bits, paymaster", `"0x5407b5040dec3d339a9247f3654e59eeccbb6391"`,
		`1461501637330902918203684832716283019655932542976`,
		`message.paymaster: 1461501637330902918203684832716283019655932542976 is above 160 bits, so no address`},
	{"address: null", `"0x5407b5040dec3d339a9247f3654e59eeccbb6391"`, `null`,
		`message.paymaster: want an unsigned integer, found null`},
	{"address: no hex", `0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD`, `0xzz76C0267aE33ef761b6Ad01313c2f8f2024C0DD`,
		`message.to: want an address, found "0xzz76C0267aE33ef761b6Ad01313c2f8f2024C0DD": must be 0x and 40 hex digits`},

	{"bytes: odd", `"0x40c10f19"`, `"0x40c10f1"`, `message.data: want 0x-hex bytes, found an odd number of digits, 7`},
	{"bytes: no prefix", `"0x40c10f19"`, `"40c10f19"`, `message.data: want 0x-hex bytes, found "40c10f19"`},
	{"bytes: capital X", `"0x40c10f19"`, `"0X40c10f19"`, `message.data: want 0x-hex bytes, found "0X40c10f19"`},
	{"bytes: empty", `"0x40c10f19"`, `""`, `message.data: want 0x-hex bytes, found ""`},
	{"bytes: no hex", `"0x40c10f19"`, `"0x40c10fzz"`, `message.data: want 0x-hex bytes, found something else in byte 3`},
	{"bytes: array", `"0x8c5a3445"`, `[140,90]`, `message.paymasterInput: want 0x-hex bytes, found an array`},

	{"factoryDeps: null element", `["0x0100000128fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"]`, `[null]`,
		`message.factoryDeps[0]: want 32 bytes, found null: want a string, found null`},
	{"factoryDeps: null", `["0x0100000128fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"]`, `null`,
		`message.factoryDeps: want an array, found null`},
	{"factoryDeps: short element", `128fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5`, ``,
		`message.factoryDeps[0]: want 32 bytes, found "0x0100000": must be 0x and 64 hex digits`},
	{"factoryDeps: string", `["0x0100000128fc4c10d78e287ca5d9cc51ee1ae73cbfde08c6b37324cbfaac8bc5"]`, `"0x"`,
		`message.factoryDeps: want an array, found "0x"`},
}

func TestParseTypedDataRefuses(t *testing.T) {
	for _, test := range badTypedData {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseTypedText([]byte(replaceOnce(t, typedData, test.old, test.new)))
			wantFieldError(t, err, test.want)
		})
	}
}

// wantFieldError wants a *FieldError with that text, or one that begins so if want ends in ….
func wantFieldError(t *testing.T, err error, want string) {
	t.Helper()
	var field *FieldError
	if !errors.As(err, &field) {
		t.Fatalf("error = %v, want a FieldError", err)
	}
	beginning, open := strings.CutSuffix(want, "…")
	if got := err.Error(); got != want && !(open && strings.HasPrefix(got, beginning) && len(got) < 250) {
		t.Errorf("error = %s\nwant    %s", got, want)
	}
}

func TestParseTypedDataRefusesWholes(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"empty", ``, `not JSON: unexpected end of JSON input at byte 0`},
		{"cut short", typedData[:len(typedData)-1], `not JSON: unexpected end of JSON input at byte 1205`},
		{"trailing data", typedData + `{}`, `not JSON: invalid character '{' after top-level value at byte 1207`},
		{"null", `null`, `want an object, found null`},
		{"string", `"0x"`, `want an object, found "0x"`},
		{"array", `[` + typedData + `]`, `want an object, found an array`},
		{"empty object", `{}`, `types: missing`},
		{"nested too deep", strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000),
			`not JSON: invalid character '[' exceeded max depth at byte 10001`},
		{"nested deep", strings.Replace(typedData, `"value":"0"`, `"value":`+strings.Repeat("[", 9_000)+
			strings.Repeat("]", 9_000), 1),
			`message.value: want an unsigned integer, found an array`},
		{"types is an array", `{"types":[],"domain":{},"primaryType":"","message":{}}`,
			`types: want an object, found an array`},
		{"domain is null", `{"types":{},"domain":null,"primaryType":"","message":{}}`, `domain: want an object, found null`},
		{"message is a string", `{"types":{},"domain":{},"primaryType":"","message":"hello"}`,
			`message: want an object, found "hello"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseTypedText([]byte(test.data))
			wantFieldError(t, err, test.want)
		})
	}
}

func TestParseTypedDataForeign(t *testing.T) {
	for _, test := range []struct{ name, old, new string }{
		{"another domain", `"name":"zkSync"`, `"name":"Uniswap V2"`},
		{"a domain without a name", `"name":"zkSync","version":"2",`, `"verifyingContract":"0x00",`},
		{"a name in another case", `"name":"zkSync"`, `"name":"ZKsync"`},
		{"another primary type", `"primaryType":"Transaction"`, `"primaryType":"Permit"`},
		{"the domain as primary type", `"primaryType":"Transaction"`, `"primaryType":"EIP712Domain"`},
	} {
		if _, err := parseTypedText([]byte(replaceOnce(t, typedData, test.old, test.new))); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: error = %v, want ErrForeign", test.name, err)
		}
	}
}

// Every form that means the same has the same digest.
func TestParseTypedDataAccepts(t *testing.T) {
	tx, err := parseTypedText([]byte(typedData))
	if err != nil {
		t.Fatal(err)
	}
	want := tx.Digest()
	for _, test := range []struct{ name, old, new string }{
		{"chain id in decimal", `2741`, `"2741"`},
		{"chain id in hex", `2741`, `"0xab5"`},
		{"domain as go-ethereum writes it", `2741`, `"0xab5","verifyingContract":"","salt":""`},
		{"types without a domain", eip712Domain, ``},
		{"integer as a number", `"2386000"`, `2386000`},
		{"integer in hex", `"2386000"`, `"0x246850"`},
		{"integer in padded hex", `"2386000"`, `"0x` + strings.Repeat("0", 58) + `246850"`},
		{"number as a string", `50000`, `"50000"`},
		{"escaped key and value", `"txType":"113"`, `"txTyp\u0065":"\u003113"`},
		{"address in lower case", `0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD`, `0x9976c0267ae33ef761b6ad01313c2f8f2024c0dd`},
		{"address in capitals", `0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD`, `0x9976C0267AE33EF761B6AD01313C2F8F2024C0DD`},
		{"address in decimal", `"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD"`,
			`"876123814522448645683029588692238030754797633757"`},
		{"address as a number", `"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD"`,
			`876123814522448645683029588692238030754797633757`},
		{"address as a word", `"0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD"`,
			`"0x0000000000000000000000009976c0267ae33ef761b6ad01313c2f8f2024c0dd"`},
		{"bytes in capitals", `"0x40c10f19"`, `"0x40C10F19"`},
		{"space", `"value":"0"`, "\t\"value\" :\r\n \"0\" "},
	} {
		tx, err := parseTypedText([]byte(replaceOnce(t, typedData, test.old, test.new)))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := tx.Digest(); got != want {
			t.Errorf("%s: Digest = %v, want %v", test.name, got, want)
		}
	}
}

// parseTypedText is ParseTypedData of a whole document.
func parseTypedText(text []byte) (*Transaction, error) {
	v, err := policy.ParseJSON(text)
	if err != nil {
		return nil, err
	}
	return ParseTypedData(v)
}

// unwrapText is UnwrapTypedData of a whole document.
func unwrapText(text string) (policy.JSONValue, error) {
	v, err := policy.ParseJSON([]byte(text))
	if err != nil {
		return nil, err
	}
	return UnwrapTypedData(v)
}

func TestUnwrapTypedData(t *testing.T) {
	quoted, err := json.Marshal(typedData)
	if err != nil {
		t.Fatal(err)
	}
	for _, param := range []string{typedData, string(quoted), " " + typedData + "\n"} {
		if got, err := unwrapText(param); err != nil || string(got) != typedData {
			t.Errorf("UnwrapTypedData = %q, %v", got, err)
		}
	}
	for param, want := range map[string]string{
		`null`:   `want typed data as a JSON object or string, found null`,
		`[]`:     `want typed data as a JSON object or string, found an array`,
		`12`:     `want typed data as a JSON object or string, found 12`,
		`"\q"`:   `not JSON: invalid character 'q' in string escape code at byte 3`,
		`{} {}`:  `not JSON: invalid character '{' after top-level value at byte 4`,
		`"{}" 1`: `not JSON: invalid character '1' after top-level value at byte 6`,
		``:       `not JSON: unexpected end of JSON input at byte 0`,
	} {
		_, err := unwrapText(param)
		wantFieldError(t, err, want)
	}
}
