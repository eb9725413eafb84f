package socket

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

const (
	testChain     = 2741
	ethereumChain = 5
	testAccount   = "0x6352cb2ca1e45d5a5b8b19c85d15cd0cd5447cd1"
	testGame      = "0x9976C0267aE33ef761b6Ad01313c2f8f2024C0DD"
	testOther     = "0x00000000000000000000000000000000000000aa"
)

// testSpec allows mint(address,uint256) on testGame, and up to 100 wei to it.
const testSpec = `{"expiresAt":"4000000000","feeLimit":{"limitType":1,"limit":"1000000000","period":"0"},
"callPolicies":[{"target":"` + testGame + `","selector":"0x40c10f19","maxValuePerUse":"0","valueLimit":{"limitType":0,"limit":"0","period":"0"},"constraints":[]}],
"transferPolicies":[{"target":"` + testGame + `","maxValuePerUse":"60","valueLimit":{"limitType":1,"limit":"100","period":"0"}}]}`

// agent is a whole agent, with keys in memory.
type agent struct {
	*Server
	t         *testing.T
	device    *soft.Backend
	validator policy.Address
	app       *goclient.Client
	operator  *goclient.Client
	appPath   string
	auditPath string
	ahead     atomic.Int64 // of the real time, in ns, is the sessions' clock
}

func startAgent(t *testing.T) *agent {
	t.Helper()
	return startBoundedAgent(t, Limits{})
}

func startBoundedAgent(t *testing.T, limits Limits) *agent {
	t.Helper()
	return startLoggingAgent(t, limits, nil)
}

func startLoggingAgent(t *testing.T, limits Limits, log *slog.Logger) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{t: t, device: &soft.Backend{}, appPath: filepath.Join(dir, "agent.sock"), auditPath: filepath.Join(dir, "audit")}
	sessions, err := session.Open(session.Config{
		LedgerPath: filepath.Join(dir, "ledger"), AuditPath: a.auditPath, LockPath: filepath.Join(dir, "locked"),
		Backends: map[string]backends.Backend{"memory": a.device}, ExpiryMargin: time.Minute, KeyGrace: time.Hour,
		Now: func() time.Time { return time.Now().Add(time.Duration(a.ahead.Load())) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.validator.UnmarshalText([]byte("0x34ca1501FAE231cC2ebc995CE013Dbe882d7d081")); err != nil {
		t.Fatal(err)
	}
	a.Server = New(Config{
		Signer: &session.Signer{Sessions: sessions, Rules: map[uint64]zktx.ChainRules{
			testChain: {Kind: zktx.KindZKsync}, ethereumChain: {Kind: zktx.KindEthereum, Fork: "osaka"},
		}},
		Backends: map[string]Backend{"memory": {Backend: a.device, Type: "soft"}},
		Chains:   map[string]Chain{"abstract": {testChain, a.validator}, "other": {ID: ethereumChain}},
		Version:  "1.2.3", Started: time.Now(), Limits: limits, Logger: log,
	})
	adminPath := filepath.Join(dir, "admin.sock")
	served := make(chan error, 1)
	app, operator := a.listen(a.appPath), a.listen(adminPath)
	go func() { served <- a.Serve(context.Background(), app, operator) }()
	a.app, a.operator = a.dial(a.appPath), a.dial(adminPath)
	t.Cleanup(func() {
		if err := a.Shutdown(context.Background()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := sessions.Close(); err != nil {
			t.Errorf("closing the sessions: %v", err)
		}
	})
	return a
}

func (a *agent) lockPath() string { return filepath.Join(filepath.Dir(a.auditPath), "locked") }

func (a *agent) listen(path string) net.Listener {
	a.t.Helper()
	l, err := Listen(path, 0o600)
	if err != nil {
		a.t.Fatal(err)
	}
	return l
}

func (a *agent) dial(path string) *goclient.Client {
	a.t.Helper()
	c, err := goclient.Dial(a.t.Context(), path)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { c.Close() })
	return c
}

// session makes an active session for this process.
func (a *agent) session(kind, spec string) *api.Session {
	a.t.Helper()
	return a.sessionOn("abstract", kind, spec)
}

func (a *agent) sessionOn(chain, kind, spec string) *api.Session {
	a.t.Helper()
	req := &api.CreateSession{Kind: kind, Spec: json.RawMessage(spec), Chain: chain, Unchecked: true, Clients: []string{fmt.Sprintf("uid:%d", os.Getuid())}}
	if kind == "agw" {
		req.Account = new(policy.Address)
		if err := req.Account.UnmarshalText([]byte(testAccount)); err != nil {
			a.t.Fatal(err)
		}
	}
	sess, err := a.operator.CreateSession(a.t.Context(), req)
	if err != nil {
		a.t.Fatal(err)
	}
	if kind == "agw" {
		if sess, err = a.operator.ActivateSession(a.t.Context(), sess.ID); err != nil {
			a.t.Fatal(err)
		}
	}
	return sess
}

// ask calls a method on agent.sock and returns the result as JSON, or the error's code and reason.
func (a *agent) ask(method string, params ...any) string {
	a.t.Helper()
	var result json.RawMessage
	err := a.app.Call(a.t.Context(), &result, method, params...)
	if err == nil {
		return string(result)
	}
	reply := goclient.Details(err)
	if reply == nil {
		a.t.Fatalf("%s: %v", method, err)
	}
	return fmt.Sprintf("%d %s", reply.Code, reply.Details().Reason)
}

// tx is a transaction request with changes; a nil value takes the member away.
func tx(changes map[string]any) map[string]any {
	request := map[string]any{
		"from": testAccount, "to": testGame, "nonce": 1, "gas": "0x4e20", "maxFeePerGas": "10", "value": "0x0",
		"data": "0x40c10f19" + strings.Repeat("00", 64), "chainId": testChain,
	}
	for k, v := range changes {
		request[k] = v
		if v == nil {
			delete(request, k)
		}
	}
	return request
}

// typedData is tx(nil) as typed data, with changes to its message.
func typedData(changes map[string]any) map[string]any {
	message := map[string]any{
		"txType": "113", "from": asInteger(testAccount), "to": asInteger(testGame), "gasLimit": "20000", "gasPerPubdataByteLimit": "50000",
		"maxFeePerGas": "10", "maxPriorityFeePerGas": "0", "paymaster": "0", "nonce": "1", "value": "0",
		"data": "0x40c10f19" + strings.Repeat("00", 64), "factoryDeps": []string{}, "paymasterInput": "0x",
	}
	for k, v := range changes {
		message[k] = v
	}
	var fields []map[string]string
	for _, f := range strings.Split("uint256 txType,uint256 from,uint256 to,uint256 gasLimit,uint256 gasPerPubdataByteLimit,uint256 maxFeePerGas,uint256 maxPriorityFeePerGas,uint256 paymaster,uint256 nonce,uint256 value,bytes data,bytes32[] factoryDeps,bytes paymasterInput", ",") {
		typ, name, _ := strings.Cut(f, " ")
		fields = append(fields, map[string]string{"name": name, "type": typ})
	}
	return map[string]any{
		"types": map[string]any{"Transaction": fields}, "primaryType": "Transaction",
		"domain": map[string]any{"name": "zkSync", "version": "2", "chainId": testChain}, "message": message,
	}
}

// asInteger is an address as typed data has it.
func asInteger(address string) string { return "0x" + strings.ToLower(address[2:]) }

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
		{"not allowed", "eth_signTypedData_v4", []any{sess.Signer, typedData(map[string]any{"to": asInteger(testOther)})}, "4001 callNotAllowed"},
		{"another account", "eth_signTypedData_v4", []any{sess.Signer, typedData(map[string]any{"from": asInteger(testOther)})}, "4001"},
		{"from the signer itself", "eth_signTransaction", []any{tx(map[string]any{"from": sess.Signer})}, "4001"},
		{"foreign typed data", "eth_signTypedData_v4", []any{sess.Signer, foreign}, "4001 messageNotAllowed"},
		{"foreign typed data, Clef", "account_signTypedData", []any{sess.Signer, foreign}, "4001 messageNotAllowed"},
		{"message", "personal_sign", []any{"0x00", sess.Signer}, "4001 messageNotAllowed"},
		{"message with a password", "personal_sign", []any{"0x00", sess.Signer, "x"}, "4001 messageNotAllowed"},
		{"message, old style", "eth_sign", []any{sess.Signer, "0x" + strings.Repeat("00", 32)}, "4001 messageNotAllowed"},
		{"message, Clef", "account_signData", []any{"text/plain", sess.Signer, "0x00"}, "4001 messageNotAllowed"},
		{"clique header", "account_signData", []any{"application/x-clique-header", sess.Signer, "0x00"}, "4001 messageNotAllowed"},
		{"contract creation", "eth_signTransaction", []any{tx(map[string]any{"to": nil})}, "4001 refusedType"},
		{"blob", "eth_signTransaction", []any{tx(map[string]any{"type": "0x3"})}, "4001 refusedType"},
		{"set code", "session_signTransaction", []any{tx(map[string]any{"authorizationList": []any{}})}, "4001 refusedType"},

		{"unknown signer", "eth_signTypedData_v4", []any{testOther, typedData(nil)}, "4100 unknownSigner"},
		{"unknown signer, message", "personal_sign", []any{"0x00", testOther}, "4100 unknownSigner"},
		{"unknown account", "eth_signTransaction", []any{tx(map[string]any{"from": testOther})}, "4100 unknownSigner"},
		{"unknown account, not even complete", "eth_signTransaction", []any{map[string]any{"from": testOther}}, "4100 unknownSigner"},
		{"unknown session", "session_get", []any{"0123456789abcdef"}, "4100 unknownSigner"},
		{"unknown session, signing", "session_signTransaction", []any{tx(map[string]any{"session": "0123456789abcdef"})}, "4100 unknownSigner"},
		{"other chain", "eth_signTransaction", []any{tx(map[string]any{"chainId": 5})}, "4001 wrongChain"},

		{"no address", "eth_signTypedData_v4", []any{nil, typedData(nil)}, "-32602 invalidParams"},
		{"parameters swapped", "personal_sign", []any{sess.Signer, "0x00"}, "-32602 invalidParams"},
		{"wrong checksum", "eth_signTypedData_v4", []any{wrongChecksum, typedData(nil)}, "-32602 invalidParams"},
		{"typed data missing", "eth_signTypedData_v4", []any{sess.Signer}, "-32602 invalidParams"},
		{"typed data a number", "eth_signTypedData_v4", []any{sess.Signer, 7}, "-32602 invalidParams"},
		{"typed data in bad hex", "account_signData", []any{"data/typed", sess.Signer, "0xz"}, "-32602 invalidParams"},
		{"mime missing", "account_signData", []any{7, sess.Signer, "0x"}, "-32602 invalidParams"},
		{"dirty address", "eth_signTypedData_v4", []any{sess.Signer, typedData(map[string]any{"to": "0x01" + strings.Repeat("00", 20)})}, "-32602 invalidParams"},
		{"factoryDeps [null]", "eth_signTypedData_v4", []any{sess.Signer, typedData(map[string]any{"factoryDeps": []any{nil}})}, "-32602 invalidParams"},
		{"unknown field", "eth_signTransaction", []any{tx(map[string]any{"extra": 1})}, "-32602 invalidParams"},
		{"duplicate field", "eth_signTransaction", []any{json.RawMessage(`{"from":"` + testAccount + `","from":"` + testOther + `"}`)}, "-32602 invalidParams"},
		{"no object", "eth_signTransaction", []any{"0x00"}, "-32602 invalidParams"},
		{"hooks without the validator", "session_signTransaction", []any{tx(map[string]any{"hooks": []string{testOther}})}, "-32602 invalidParams"},
		{"hooks twice", "session_signTransaction", []any{tx(map[string]any{"hooks": []any{a.validator, a.validator}})}, "-32602 invalidParams"},
		{"no hooks", "session_signTransaction", []any{tx(map[string]any{"hooks": []any{}})}, "-32602 invalidParams"},
		{"session and signer", "session_signTransaction", []any{tx(map[string]any{"session": sess.ID, "signer": sess.Signer})}, "-32602 invalidParams"},
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
		if again, err := a.app.SignTransaction(t.Context(), tx(map[string]any{"session": session})); err != nil || again.Raw.String() != signed.Raw.String() {
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
	if err != nil || verdict.Allow || verdict.Reason != policy.ReasonLifetimeExceeded || verdict.Denial == nil || verdict.Denial.Remaining == nil {
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
	if err != nil || len(list) != 1 || list[0].ID != sess.ID || list[0].Validator == nil || *list[0].Validator != a.validator {
		t.Errorf("Sessions = %v, %v", list, err)
	}
}
