package socket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// slowDevice has every signature wait until the returned function is called.
func (a *agent) slowDevice() (goOn func()) {
	gate := make(chan struct{})
	a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		<-gate
		return nil, nil
	}
	var once sync.Once
	goOn = func() { once.Do(func() { close(gate) }) }
	a.t.Cleanup(goOn)
	return goOn
}

// inDevice waits until the device works on n signatures of the session.
func (a *agent) inDevice(id string, n int) {
	a.t.Helper()
	waitFor(a.t, fmt.Sprintf("%d signatures in the device", n),
		func() bool { return a.Signer.Sessions.InDevice(session.ID(id)) == n })
}

// failures counts the sign.failed records by their verdict's reason.
func (a *agent) failures() map[string]int {
	a.t.Helper()
	data, err := os.ReadFile(a.auditPath)
	if err != nil {
		a.t.Fatal(err)
	}
	found := map[string]int{}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		var rec struct {
			Event   string
			Verdict struct{ Reason string }
		}
		if err := json.Unmarshal([]byte(line), &rec); err != nil {
			a.t.Fatal(err)
		}
		if rec.Event == "sign.failed" {
			found[rec.Verdict.Reason]++
		}
	}
	return found
}

// Whatever stops a session, a signature that its device makes later is not released, on any way to ask for one.
func TestNothingIsReleasedAfterTheEnd(t *testing.T) {
	for _, end := range []struct {
		name, want, reason string
		do                 func(a *agent, id string) error
	}{
		{"revoke", "4001 sessionNotActive", "revoked", func(a *agent, id string) error {
			sess, err := a.operator.RevokeSession(a.t.Context(), id)
			if err == nil && (sess.InDevice == nil || *sess.InDevice != 4) {
				a.t.Errorf("revoke answered inDevice %v, want 4", sess.InDevice)
			}
			return err
		}},
		{"close", "4001 sessionNotActive", "closed", func(a *agent, id string) error {
			_, err := a.operator.CloseSession(a.t.Context(), id)
			return err
		}},
		{"expiry", "4001 sessionExpired", "expired", func(a *agent, _ string) error {
			a.ahead.Store(int64(100 * 365 * 24 * time.Hour))
			return nil
		}},
		{"lock", "-32000 lockedByOperator", "locked", func(a *agent, _ string) error {
			begun := time.Now()
			_, err := a.operator.Lock(a.t.Context(), api.Lock{})
			if took := time.Since(begun); took > 2*time.Second {
				a.t.Errorf("the lock was answered after %v, want 2 s at most", took)
			}
			return err
		}},
		{"lock and unlock", "-32000 lockedByOperator", "locked", func(a *agent, _ string) error {
			if _, err := a.operator.Lock(a.t.Context(), api.Lock{}); err != nil {
				return err
			}
			return a.operator.Unlock(a.t.Context(), "", nil)
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			a := startAgent(t)
			sess := a.session("agw", testSpec)
			goOn := a.slowDevice()
			answers := make(chan string, 3)
			go func() { answers <- a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)) }()
			go func() { answers <- a.ask("session_signTransaction", tx(map[string]any{"nonce": 2})) }()
			go func() { answers <- a.askHTTP("eth_signTransaction", tx(map[string]any{"nonce": 3})) }()
			batch := make(chan []string, 1)
			go func() {
				batch <- a.askBatch("eth_accounts", nil, "eth_signTransaction", tx(map[string]any{"nonce": 4}))
			}()
			a.inDevice(sess.ID, 4)
			if err := end.do(a, sess.ID); err != nil {
				t.Fatal(err)
			}
			goOn()
			for range 3 {
				if got := <-answers; got != end.want {
					t.Errorf("a signature that was in the device: %.80s, want %s", got, end.want)
				}
			}
			if got := <-batch; !strings.HasPrefix(got[0], "[") || got[1] != end.want {
				t.Errorf("in a batch: %.80s, want the accounts and %s", got, end.want)
			}
			if got := a.failures(); got[end.reason] != 4 {
				t.Errorf("sign.failed records by reason: %v, want 4 of %q", got, end.reason)
			}
		})
	}
}

// askHTTP is ask over HTTP.
func (a *agent) askHTTP(method string, params ...any) string {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		a.t.Error(err)
	}
	resp, err := httpClient(a.appPath).Post("http://agent/", "application/json", strings.NewReader(string(body)))
	if err != nil {
		a.t.Error(err)
		return ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		a.t.Error(resp.Status, err)
	}
	return outcome(a.t, text)
}

// askBatch sends two calls in one message and returns their outcomes, in that order.
func (a *agent) askBatch(method1 string, param1 any, method2 string, param2 any) []string {
	call := func(id int, method string, param any) map[string]any {
		m := map[string]any{"jsonrpc": "2.0", "id": id, "method": method}
		if param != nil {
			m["params"] = []any{param}
		}
		return m
	}
	nc, err := net.Dial("unix", a.appPath)
	if err != nil {
		a.t.Error(err)
		return []string{"", ""}
	}
	defer nc.Close()
	if err := json.NewEncoder(nc).Encode([]any{call(0, method1, param1), call(1, method2, param2)}); err != nil {
		a.t.Error(err)
	}
	var replies []json.RawMessage
	if err := json.NewDecoder(nc).Decode(&replies); err != nil || len(replies) != 2 {
		a.t.Error(replies, err)
		return []string{"", ""}
	}
	return []string{outcome(a.t, replies[0]), outcome(a.t, replies[1])}
}

// outcome is a reply's result as JSON, or the error's code and reason.
func outcome(t *testing.T, reply []byte) string {
	var r struct {
		Result json.RawMessage
		Error  *struct {
			Code int
			Data struct{ Reason string }
		}
	}
	if err := json.Unmarshal(reply, &r); err != nil {
		t.Errorf("%s: %v", reply, err)
	}
	if r.Error != nil {
		return fmt.Sprintf("%d %s", r.Error.Code, r.Error.Data.Reason)
	}
	return string(r.Result)
}

// A signature that waits behind answers that its client does not read is replaced as well. The revoke
// is answered within its second although that client's write hangs.
func TestRevokeReachesQueuedAnswers(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	nc, err := net.Dial("unix", a.appPath)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	send := func(id int, method string, params ...any) {
		t.Helper()
		m := map[string]any{"jsonrpc": "2.0", "id": id, "method": method, "params": append([]any{}, params...)}
		if err := json.NewEncoder(nc).Encode(m); err != nil {
			t.Fatal(err)
		}
	}
	for id := 0; !a.writeHangs(); id++ { // until the kernel's buffer is full
		send(id, "rpc_discover")
	}
	granted := a.Signer.Counts().Granted
	send(100, "eth_signTypedData_v4", sess.Signer, typedData(nil))
	waitFor(t, "the signature", func() bool { return a.Signer.Counts().Granted == granted+1 })
	begun := time.Now()
	if _, err := a.operator.RevokeSession(t.Context(), sess.ID); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("revoke took %v", took)
	}
	r := bufio.NewReader(nc)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			t.Fatalf("no answer to the request: %v", err)
		}
		if strings.Contains(string(line), `"id":100`) {
			if got := outcome(t, line); got != "4001 sessionNotActive" {
				t.Errorf("after the revoke: %.80s", got)
			}
			return
		}
	}
}

// writeHangs reports whether a write to a client of agent.sock has found the kernel's buffer full. It goes on once the
// client reads.
func (a *agent) writeHangs() bool {
	stacks := make([]byte, 4<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Contains(stacks, []byte("internal/poll.(*pollDesc).waitWrite"))
}
