package socket

import (
	"context"
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
	a := &agent{t: t, device: &soft.Backend{}, appPath: filepath.Join(dir, "agent.sock"),
		auditPath: filepath.Join(dir, "audit")}
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
	req := &api.CreateSession{Kind: kind, Spec: json.RawMessage(spec), Chain: chain, Unchecked: true,
		Clients: []string{fmt.Sprintf("uid:%d", os.Getuid())}}
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
		"txType": "113", "from": asInteger(testAccount), "to": asInteger(testGame), "gasLimit": "20000",
		"gasPerPubdataByteLimit": "50000",
		"maxFeePerGas":           "10", "maxPriorityFeePerGas": "0", "paymaster": "0", "nonce": "1", "value": "0",
		"data": "0x40c10f19" + strings.Repeat("00", 64), "factoryDeps": []string{}, "paymasterInput": "0x",
	}
	for k, v := range changes {
		message[k] = v
	}
	var fields []map[string]string
	for _, f := range strings.Split("uint256 txType,uint256 from,uint256 to,uint256 gasLimit,uint256 "+
		"gasPerPubdataByteLimit,uint256 maxFeePerGas,uint256 maxPriorityFeePerGas,uint256 paymaster,uint256 nonce,uint256 "+
		"value,bytes data,bytes32[] factoryDeps,bytes paymasterInput", ",") {
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
