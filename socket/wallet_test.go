package socket

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

func TestWalletMethods(t *testing.T) {
	a := startAgent(t)
	if got := a.ask("eth_chainId"); got != "4100 noSession" {
		t.Errorf("eth_chainId without a session = %s", got)
	}
	if got := a.ask("eth_accounts"); got != "[]" {
		t.Errorf("eth_accounts without a session = %s", got)
	}
	first, second := a.session("agw", testSpec), a.session("eoa", testSpec)
	accounts := fmt.Sprintf(`[%q,%q]`, first.Signer, second.Signer)
	for _, tt := range []struct{ method, want string }{
		{"eth_accounts", accounts}, {"eth_requestAccounts", accounts}, {"account_list", accounts},
		{"eth_chainId", `"0xab5"`}, {"net_version", `"2741"`},
		{"web3_clientVersion", `"Keyward/1.2.3"`}, {"account_version", `"6.1.0"`},
		{"rpc_modules", `{"account":"1.0","eth":"1.0","net":"1.0","personal":"1.0","rpc":"1.0","session":"1.0","web3":"1.0"}`},
		{"admin_status", "-32601 unknownMethod"}, {"eth_blockNumber", "-32601 unknownMethod"},
		{"eth_sendTransaction", "4200 unsupportedMethod"}, {"wallet_sendTransaction", "4200 unsupportedMethod"},
		{"eth_sendRawTransaction", "4200 unsupportedMethod"}, {"wallet_sendCalls", "4200 unsupportedMethod"},
		{"eth_signTypedData", "4200 unsupportedMethod"}, {"eth_signTypedData_v3", "4200 unsupportedMethod"},
	} {
		if got := a.ask(tt.method); got != tt.want {
			t.Errorf("%s = %s, want %s", tt.method, got, tt.want)
		}
	}
}

// Every way to hand typed data over gives the same signature, which is the signer's.
func TestTypedDataMethods(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	data := typedData(nil)
	text, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	want := a.ask("eth_signTypedData_v4", sess.Signer, data)
	var signature api.Bytes
	if err := json.Unmarshal([]byte(want), &signature); err != nil {
		t.Fatalf("eth_signTypedData_v4 = %s", want)
	}
	parsed, err := zktx.ParseTypedData(policy.JSONValue(text))
	if err != nil {
		t.Fatal(err)
	}
	checkSigner(t, sess.Signer, parsed.Digest(), signature)
	hexText := "0x" + hex.EncodeToString(text)
	for name, got := range map[string]string{
		"as a string":           a.ask("eth_signTypedData_v4", sess.Signer, string(text)),
		"signer in lower case":  a.ask("eth_signTypedData_v4", strings.ToLower(sess.Signer.String()), data),
		"Clef":                  a.ask("account_signTypedData", sess.Signer, data),
		"Clef, data/typed, hex": a.ask("account_signData", "data/typed", sess.Signer, hexText),
		"Clef, data/typed":      a.ask("account_signData", "data/typed", sess.Signer, data),
	} {
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// checkSigner checks that signature is signer's, with V 27 or 28.
func checkSigner(t *testing.T, signer policy.Address, digest policy.Hash, signature []byte) {
	t.Helper()
	if len(signature) != 65 || (signature[64] != 27 && signature[64] != 28) {
		t.Fatalf("signature %x: want 65 bytes with V 27 or 28", signature)
	}
	sig := append([]byte(nil), signature...)
	sig[64] -= 27
	key, err := crypto.SigToPub(digest[:], sig)
	if err != nil || policy.Address(crypto.PubkeyToAddress(*key)) != signer {
		t.Errorf("signature %x over %v is not %v's (%v)", signature, digest, signer, err)
	}
}

func TestRefusals4001And4100(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	foreign := typedData(nil)
	foreign["primaryType"] = "Mail"
	const wrongChecksum = "0x9976c0267aE33ef761b6Ad01313c2f8f2024C0DD"
	for _, tt := range []struct {
		name   string
		method string
		params []any
		want   string
	}{
		{"not allowed", "eth_signTypedData_v4", []any{sess.Signer, typedData(map[string]any{"to": asInteger(testOther)})},
			"4001 callNotAllowed"},
		{"another account", "eth_signTypedData_v4", []any{sess.Signer,
			typedData(map[string]any{"from": asInteger(testOther)})}, "4001"},
		{"from the signer itself", "eth_signTransaction", []any{tx(map[string]any{"from": sess.Signer})}, "4001"},
		{"foreign typed data", "eth_signTypedData_v4", []any{sess.Signer, foreign}, "4001 messageNotAllowed"},
		{"foreign typed data, Clef", "account_signTypedData", []any{sess.Signer, foreign}, "4001 messageNotAllowed"},
		{"message", "personal_sign", []any{"0x00", sess.Signer}, "4001 messageNotAllowed"},
		{"message with a password", "personal_sign", []any{"0x00", sess.Signer, "x"}, "4001 messageNotAllowed"},
		{"message, old style", "eth_sign", []any{sess.Signer, "0x" + strings.Repeat("00", 32)}, "4001 messageNotAllowed"},
		{"message, Clef", "account_signData", []any{"text/plain", sess.Signer, "0x00"}, "4001 messageNotAllowed"},
		{"clique header", "account_signData", []any{"application/x-clique-header", sess.Signer, "0x00"},
			"4001 messageNotAllowed"},
		{"contract creation", "eth_signTransaction", []any{tx(map[string]any{"to": nil})}, "4001 refusedType"},
		{"blob", "eth_signTransaction", []any{tx(map[string]any{"type": "0x3"})}, "4001 refusedType"},
		{"set code", "session_signTransaction", []any{tx(map[string]any{"authorizationList": []any{}})}, "4001 refusedType"},

		{"unknown signer", "eth_signTypedData_v4", []any{testOther, typedData(nil)}, "4100 unknownSigner"},
		{"unknown signer, message", "personal_sign", []any{"0x00", testOther}, "4100 unknownSigner"},
		{"unknown account", "eth_signTransaction", []any{tx(map[string]any{"from": testOther})}, "4100 unknownSigner"},
		{"unknown account, not even complete", "eth_signTransaction", []any{map[string]any{"from": testOther}},
			"4100 unknownSigner"},
		{"unknown session", "session_get", []any{"0123456789abcdef"}, "4100 unknownSigner"},
		{"unknown session, signing", "session_signTransaction", []any{tx(map[string]any{"session": "0123456789abcdef"})},
			"4100 unknownSigner"},
		{"other chain", "eth_signTransaction", []any{tx(map[string]any{"chainId": 5})}, "4001 wrongChain"},

		{"no address", "eth_signTypedData_v4", []any{nil, typedData(nil)}, "-32602 invalidParams"},
		{"parameters swapped", "personal_sign", []any{sess.Signer, "0x00"}, "-32602 invalidParams"},
		{"wrong checksum", "eth_signTypedData_v4", []any{wrongChecksum, typedData(nil)}, "-32602 invalidParams"},
		{"typed data missing", "eth_signTypedData_v4", []any{sess.Signer}, "-32602 invalidParams"},
		{"typed data a number", "eth_signTypedData_v4", []any{sess.Signer, 7}, "-32602 invalidParams"},
		{"typed data in bad hex", "account_signData", []any{"data/typed", sess.Signer, "0xz"}, "-32602 invalidParams"},
		{"mime missing", "account_signData", []any{7, sess.Signer, "0x"}, "-32602 invalidParams"},
		{"dirty address", "eth_signTypedData_v4", []any{sess.Signer,
			typedData(map[string]any{"to": "0x01" + strings.Repeat("00", 20)})}, "-32602 invalidParams"},
		{"factoryDeps [null]", "eth_signTypedData_v4", []any{sess.Signer,
			typedData(map[string]any{"factoryDeps": []any{nil}})}, "-32602 invalidParams"},
		{"unknown field", "eth_signTransaction", []any{tx(map[string]any{"extra": 1})}, "-32602 invalidParams"},
		{"duplicate field", "eth_signTransaction", []any{json.RawMessage(`{"from":"` + testAccount + `","from":"` +
			testOther + `"}`)}, "-32602 invalidParams"},
		{"no object", "eth_signTransaction", []any{"0x00"}, "-32602 invalidParams"},
		{"hooks without the validator", "session_signTransaction", []any{tx(map[string]any{"hooks": []string{testOther}})},
			"-32602 invalidParams"},
		{"hooks twice", "session_signTransaction", []any{tx(map[string]any{"hooks": []any{a.validator, a.validator}})},
			"-32602 invalidParams"},
		{"no hooks", "session_signTransaction", []any{tx(map[string]any{"hooks": []any{}})}, "-32602 invalidParams"},
		{"session and signer", "session_signTransaction",
			[]any{tx(map[string]any{"session": sess.ID, "signer": sess.Signer})}, "-32602 invalidParams"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := a.ask(tt.method, tt.params...); got != tt.want && !(len(tt.want) == 4 && strings.HasPrefix(got, tt.want)) {
				t.Errorf("%s = %s, want %s", tt.method, got, tt.want)
			}
		})
	}
	if _, err := a.operator.RevokeSession(t.Context(), sess.ID); err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"typed data":  a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)),
		"transaction": a.ask("eth_signTransaction", tx(nil)),
		"by id":       a.ask("session_signTransaction", tx(map[string]any{"session": sess.ID})),
	} {
		if !strings.HasPrefix(got, "4001 ") {
			t.Errorf("after the session's end, %s: %s, want 4001", name, got)
		}
	}
}

func TestSignTransactionAGW(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	signed, err := a.app.SignTransaction(t.Context(), tx(nil))
	if err != nil {
		t.Fatal(err)
	}
	checkSigner(t, sess.Signer, signed.Digest, signed.Signature)
	if signed.SessionHash != sess.SessionHash || signed.Session != sess.ID || signed.Raw[0] != 0x71 {
		t.Errorf("signed %+v, want session %s and type 0x71", signed, sess.ID)
	}
	hookData := sess.Session.HookData(signed.PeriodIDs)
	want := zktx.CustomSignature([65]byte(signed.Signature), a.validator, [][]byte{hookData})
	if diff := cmp.Diff(api.Bytes(want), signed.CustomSignature); diff != "" {
		t.Errorf("customSignature (-want +got):\n%s", diff)
	}
	raw, err := json.Marshal(signed.Raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]string{
		"again":           a.ask("eth_signTransaction", tx(nil)),
		"without chainId": a.ask("eth_signTransaction", tx(map[string]any{"chainId": nil})),
	} {
		if got != string(raw) {
			t.Errorf("eth_signTransaction %s = %.80s…, want %.80s…", name, got, raw)
		}
	}
	for name, session := range map[string]any{"id": sess.ID, "signer": sess.Signer} {
		if again, err := a.app.SignTransaction(t.Context(), tx(map[string]any{"session": session})); err != nil ||
			again.Raw.String() != signed.Raw.String() {
			t.Errorf("by the session's %s: %v, %v, want the same", name, again, err)
		}
	}
	var clef struct {
		Raw api.Bytes
		Tx  struct{ Hash policy.Hash }
	}
	if err := a.app.Call(t.Context(), &clef, "account_signTransaction", tx(nil)); err != nil {
		t.Fatal(err)
	}
	if clef.Raw.String() != signed.Raw.String() || clef.Tx.Hash != signed.Hash {
		t.Errorf("account_signTransaction: hash %v, want %v and the same raw transaction", clef.Tx.Hash, signed.Hash)
	}

	hooked, err := a.app.SignTransaction(t.Context(), tx(map[string]any{"hooks": []any{testOther, a.validator}}))
	if err != nil {
		t.Fatal(err)
	}
	want = zktx.CustomSignature([65]byte(signed.Signature), a.validator, [][]byte{nil, hookData})
	if diff := cmp.Diff(api.Bytes(want), hooked.CustomSignature); diff != "" {
		t.Errorf("with two hooks, customSignature (-want +got):\n%s", diff)
	}
}

func TestSimulate(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	transfer := map[string]any{"data": "0x", "value": "60"}
	for range 3 { // counts nothing
		verdict, err := a.app.Simulate(t.Context(), tx(transfer))
		if err != nil || !verdict.Allow || verdict.Session != sess.ID || len(verdict.Charges) != 2 {
			t.Fatalf("Simulate = %+v, %v, want allowed with 2 charges", verdict, err)
		}
	}
	if _, err := a.app.SignTransaction(t.Context(), tx(transfer)); err != nil {
		t.Fatal(err)
	}
	transfer["nonce"] = 2
	verdict, err := a.app.Simulate(t.Context(), tx(transfer))
	if err != nil || verdict.Allow || verdict.Reason != policy.ReasonLifetimeExceeded || verdict.Denial == nil ||
		verdict.Denial.Remaining == nil {
		t.Errorf("Simulate = %+v, %v, want denied by the lifetime limit", verdict, err)
	}
	shown, err := a.app.Session(t.Context(), sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	if len(shown.Limits) == 0 || shown.Outstanding == nil || *shown.Outstanding != 1 {
		t.Errorf("session_get = %+v, want limits and 1 outstanding", shown)
	}
	bySigner, err := a.app.Session(t.Context(), sess.Signer.String())
	if err != nil || bySigner.ID != sess.ID {
		t.Errorf("by signer: %+v, %v", bySigner, err)
	}
	list, err := a.app.Sessions(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != sess.ID || list[0].Validator == nil ||
		*list[0].Validator != a.validator {
		t.Errorf("Sessions = %v, %v", list, err)
	}
}
