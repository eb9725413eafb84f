package socket

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	goclient "github.com/keyward/keyward/socket/client"
)

// Each rule of "Transactions" in docs/protocol.md, broken, through the socket. The parsers' own
// tests have the rest, and seed their fuzz targets with it.
func TestStrictness(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	literal := func(text string) json.RawMessage { return json.RawMessage(text) }
	request := func(name string, value any) any { return tx(map[string]any{name: value}) }
	message := func(name string, value any) any { return typedData(map[string]any{name: value}) }
	without := func(name string) any {
		data := typedData(nil)
		delete(data["message"].(map[string]any), name)
		return data
	}
	domain := func(name string, value any) any {
		data := typedData(nil)
		data["domain"].(map[string]any)[name] = value
		return data
	}
	types := func(edit func(fields []map[string]string)) any {
		data := typedData(nil)
		edit(data["types"].(map[string]any)["Transaction"].([]map[string]string))
		return data
	}
	twice := func(document any, member string) any {
		text, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		return literal(strings.Replace(string(text), member, member+","+member, 1))
	}
	dirty := "0x01" + strings.Repeat("00", 12) + testGame[2:]
	for _, tt := range []struct {
		name string
		bad  any
		path string // that the error names
	}{
		{"a fraction", request("value", literal("1.5")), "value"},
		{"an exponent", request("value", literal("1e3")), "value"},
		{"a negative number", request("nonce", -1), "nonce"},
		{"an empty string", request("value", ""), "value"},
		{"0x alone", request("value", "0x"), "value"},
		{"a sign", request("value", "+1"), "value"},
		{"a space", request("value", " 1"), "value"},
		{"more than 256 bits", request("value", "0x1"+strings.Repeat("00", 32)), "value"},
		{"a nonce of more than 64 bits", request("nonce", "18446744073709551616"), "nonce"},
		{"a wrong checksum", request("to", "0x9976c0267aE33ef761b6Ad01313c2f8f2024C0DD"), "to"},
		{"half a byte", request("data", "0x40c10f1"), "data"},
		{"an unknown key", request("extra", 1), "extra"},
		{"a key in another case", request("Value", 1), "Value"},
		{"a key twice", twice(tx(nil), `"nonce":1`), "nonce"},
		{"null for a value", request("nonce", literal("null")), "nonce"},
		{"no nonce", request("nonce", nil), "nonce"},
		{"no gas", request("gas", nil), "gas"},
		{"no fee", request("maxFeePerGas", nil), "maxFeePerGas"},
		{"data and input that differ", request("input", "0x00"), "input"},
		{"gas and gasLimit that differ", request("gasLimit", 1), "gasLimit"},
		{"another type", request("type", 2), "type"},
		{"a signature of its own", request("customSignature", "0x"), "customSignature"},
		{"bytecode null", request("factoryDeps", []any{nil}), "factoryDeps[0]"},
		{"paymaster without input", request("paymaster", testGame), "paymasterInput"},

		{"typed data: an unknown key", message("x", 1), "message.x"},
		{"typed data: a key twice", twice(typedData(nil), `"nonce":"1"`), "message.nonce"},
		{"typed data: a missing key", without("gasPerPubdataByteLimit"), "message.gasPerPubdataByteLimit"},
		{"typed data: null", message("nonce", nil), "message.nonce"},
		{"typed data: a fraction", message("value", literal("0.5")), "message.value"},
		{"typed data: dirty from", message("from", dirty), "message.from"},
		{"typed data: dirty to", message("to", dirty), "message.to"},
		{"typed data: dirty paymaster", message("paymaster", dirty), "message.paymaster"},
		{"typed data: factoryDeps [null]", message("factoryDeps", []any{nil}), "message.factoryDeps[0]"},
		{"typed data: another transaction type", message("txType", "2"), "message.txType"},
		{"typed data: another version", domain("version", "1"), "domain.version"},
		{"typed data: a contract in the domain", domain("verifyingContract", testGame), "domain.verifyingContract"},
		{"typed data: chain 0", domain("chainId", 0), "domain.chainId"},
		{"typed data: fields in another order", types(func(f []map[string]string) { f[0], f[1] = f[1], f[0] }),
			"types.Transaction[0].name"},
		{"typed data: a field of another type", types(func(f []map[string]string) { f[1]["type"] = "address" }),
			"types.Transaction[1].type"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			call := []any{"session_signTransaction", tt.bad}
			if strings.HasPrefix(tt.name, "typed data") {
				call = []any{"eth_signTypedData_v4", sess.Signer, tt.bad}
			}
			want := "-32602 invalidParams " + tt.path
			if diff := cmp.Diff(want, a.refusal(call[0].(string), call[1:]...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
	if shown, err := a.app.Session(t.Context(), sess.ID); err != nil || *shown.Outstanding != 0 {
		t.Errorf("after all that: %+v, %v, want nothing outstanding", shown, err)
	}
	// A JSON number is taken as it stands and never rounded, as it would be in a float64.
	err := a.app.Call(t.Context(), nil, "eth_signTransaction", request("value", literal("9007199254740993")))
	if reply := goclient.Details(err); reply == nil || !strings.Contains(reply.Message, "9007199254740993") {
		t.Errorf("a number beyond 2^53: %v, want a denial that quotes it", err)
	}
}

// refusal is code and reason of an error, and the field that it names.
func (a *agent) refusal(method string, params ...any) string {
	a.t.Helper()
	var result json.RawMessage
	reply := goclient.Details(a.app.Call(a.t.Context(), &result, method, params...))
	if reply == nil {
		return string(result)
	}
	return fmt.Sprintf("%d %s %s", reply.Code, reply.Details().Reason, reply.Details().Path)
}
