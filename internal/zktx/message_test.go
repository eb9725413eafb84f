package zktx

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/signer/core/apitypes"

	"github.com/keyward/keyward/policy"
)

const permit2Type = "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 " +
	"deadline)TokenPermissions(address token,uint256 amount)"

var usdc = map[string]string{"name": "USD Coin", "version": "2", "chainId": "8453",
	"verifyingContract": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"}

// messages are typed data of several types, of which go-ethereum computes the same digest.
var messages = []struct {
	name, typ string
	domain    map[string]string
	data      string
}{
	{"permit", "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)", usdc, `{
"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],
"Permit":[{"name":"owner","type":"address"},{"name":"spender","type":"address"},{"name":"value","type":"uint256"},{"name":"nonce","type":"uint256"},{"name":"deadline","type":"uint256"}]},
"primaryType":"Permit",
"domain":{"name":"USD Coin","version":"2","chainId":8453,"verifyingContract":"0x833589fcd6edb6e08f4c7c32d4f71b54bda02913"},
"message":{"owner":"0x1111111111111111111111111111111111111111","spender":"0x2222222222222222222222222222222222222222","value":"1000000","nonce":"0","deadline":"1900000000"}}`},
	{"permit2, with a struct in it and no version", permit2Type,
		map[string]string{"name": "Permit2", "chainId": "1",
			"verifyingContract": "0x000000000022D473030F116dDEE9F6B43aC78BA3"}, `{
"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"}],
"TokenPermissions":[{"name":"token","type":"address"},{"name":"amount","type":"uint256"}],
"PermitTransferFrom":[{"name":"permitted","type":"TokenPermissions"},{"name":"spender","type":"address"},{"name":"nonce","type":"uint256"},{"name":"deadline","type":"uint256"}]},
"primaryType":"PermitTransferFrom",
"domain":{"name":"Permit2","chainId":"1","verifyingContract":"0x000000000022D473030F116dDEE9F6B43aC78BA3"},
"message":{"permitted":{"token":"0x3333333333333333333333333333333333333333","amount":"115792089237316195423570985008687907853269984665640564039457584007913129639935"},"spender":"0x2222222222222222222222222222222222222222","nonce":"340282366920938463463374607431768211456","deadline":"1900000000"}}`},
	{"every atomic type", "All(address a,bool b,string s,bytes d,bytes32 w,bytes1 o,uint8 u,uint96 v,uint256 x)",
		map[string]string{"name": "é \"<", "version": "1", "chainId": "137",
			"verifyingContract": "0x4444444444444444444444444444444444444444", "salt": "0x" + strings.Repeat("ab", 32)}, `{
"types":{"EIP712Domain":[{"name":"name","type":"string"},{"name":"version","type":"string"},{"name":"chainId","type":"uint256"},{"name":"verifyingContract","type":"address"},{"name":"salt","type":"bytes32"}],
"All":[{"name":"a","type":"address"},{"name":"b","type":"bool"},{"name":"s","type":"string"},{"name":"d","type":"bytes"},{"name":"w","type":"bytes32"},{"name":"o","type":"bytes1"},{"name":"u","type":"uint8"},{"name":"v","type":"uint96"},{"name":"x","type":"uint256"}]},
"primaryType":"All",
"domain":{"name":"é \"<","version":"1","chainId":"137","verifyingContract":"0x4444444444444444444444444444444444444444","salt":"0x` + strings.Repeat("ab", 32) + `"},
"message":{"a":"0x1111111111111111111111111111111111111111","b":true,"s":"hé","d":"0x010203","w":"0x` + strings.Repeat("cd", 32) + `","o":"0x7f","u":"255","v":"79228162514264337593543950335","x":"0"}}`},
}

func readMessageText(t *testing.T, typ string, domain map[string]string, text string) (*TypedMessage, error) {
	t.Helper()
	parsed, err := ParseMessageType(typ)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseMessageDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	data, err := policy.ParseJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return parsed.Read(data, d)
}

func TestMessageDigests(t *testing.T) {
	for _, m := range messages {
		t.Run(m.name, func(t *testing.T) {
			var data apitypes.TypedData
			if err := json.Unmarshal([]byte(m.data), &data); err != nil {
				t.Fatal(err)
			}
			want, _, err := apitypes.TypedDataAndHash(data)
			if err != nil {
				t.Fatal(err)
			}
			got, err := readMessageText(t, m.typ, m.domain, m.data)
			if err != nil || got.Digest != policy.Hash(want) {
				t.Errorf("%+v, %v, want the digest %x", got, err, want)
			}
		})
	}
}

// TestMessageIsReadStrictly changes one thing of a permit at a time.
func TestMessageIsReadStrictly(t *testing.T) {
	m := messages[0]
	for _, tc := range []struct{ name, old, new, want string }{
		{"another chain", `"chainId":8453`, `"chainId":1`, "domain.chainId"},
		{"another contract", `"verifyingContract":"0x83`, `"verifyingContract":"0x93`, "domain.verifyingContract"},
		{"another name", `"name":"USD Coin"`, `"name":"USD coin"`, "domain.name"},
		{"more in the domain", `"version":"2"`, `"version":"2","salt":"0x"`, "domain.salt"},
		{"less in the domain", `"version":"2",`, ``, "domain.version"},
		{"another primary type", `"primaryType":"Permit"`, `"primaryType":"Permits"`, "primaryType"},
		{"another field type", `"name":"value","type":"uint256"`, `"name":"value","type":"uint128"`, "types.Permit"},
		{"fields in another order", `{"name":"nonce","type":"uint256"},{"name":"deadline","type":"uint256"}`,
			`{"name":"deadline","type":"uint256"},{"name":"nonce","type":"uint256"}`, "types.Permit"},
		{"a further type", `"Permit":[`, `"Other":[],"Permit":[`, "types.Other"},
		{"a further field", `"nonce":"0"`, `"nonce":"0","x":"1"`, "message.x"},
		{"a field missing", `"nonce":"0",`, ``, "message.nonce"},
		{"a field twice", `"nonce":"0"`, `"nonce":"0","nonce":"1"`, "message.nonce"},
		{"a fraction", `"value":"1000000"`, `"value":1.5`, "message.value"},
		{"an exponent", `"value":"1000000"`, `"value":1e6`, "message.value"},
		{"negative", `"value":"1000000"`, `"value":"-1"`, "message.value"},
		{"too large", `"value":"1000000"`, `"value":"` + uint256Beyond + `"`, "message.value"},
		{"a wrong checksum", `"owner":"0x1111111111111111111111111111111111111111"`,
			`"owner":"0x52908400098527886E0F7030069857D2E4169Ee7"`, "message.owner"},
		{"null", `"value":"1000000"`, `"value":null`, "message.value"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := readMessageText(t, m.typ, m.domain, replaceOnce(t, m.data, tc.old, tc.new))
			if err == nil || !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%v, want an error at %s", err, tc.want)
			}
		})
	}
}

func TestParseMessageTypeRefuses(t *testing.T) {
	for _, text := range []string{
		"", "Permit", "Permit()", "Permit(uint256 a,uint256 a)", "Permit(uint a)", "Permit(uint257 a)", "Permit(uint7 a)",
		"Permit(bytes33 a)",
		"Permit(int256 a)", "Permit(address[] a)", "Permit(Other a)", "A(A a)", "A(B b)B(A a)",
		"B(A a)A(uint256 x)C(uint256 y)",
		"A(C c,B b)C(uint256 y)B(uint256 x)", "Permit(address a, uint256 b)", "EIP712Domain(string name)",
		"A(uint256 a)A(uint256 a)",
	} {
		if _, err := ParseMessageType(text); err == nil {
			t.Errorf("%q is taken for a type", text)
		}
	}
}

func TestParseMessageDomainRefuses(t *testing.T) {
	const contract = "0x4444444444444444444444444444444444444444"
	for _, d := range []map[string]string{
		{}, {"chainId": "1"}, {"verifyingContract": contract}, {"chainId": "0", "verifyingContract": contract},
		{"chainId": "18446744073709551616", "verifyingContract": contract}, {"chainId": "x", "verifyingContract": contract},
		{"chainId": "1", "verifyingContract": "0x44"}, {"chainId": "1", "verifyingContract": contract, "salt": "0x00"},
		{"chainId": "1", "verifyingContract": contract, "Name": "x"},
	} {
		if _, err := ParseMessageDomain(d); err == nil {
			t.Errorf("%v is taken for a domain", d)
		}
	}
}

// TestPersonalDigest has the hash of "hello" by ethers' hashMessage.
func TestPersonalDigest(t *testing.T) {
	got := PersonalDigest([]byte("hello"))
	if want := "0x50b2c43fd39106bafbba0da34fc430e1f91e3c96ea2acee2bc34119f92b37750"; got.String() != want {
		t.Errorf("%s, want %s", got, want)
	}
}
