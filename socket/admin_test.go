package socket

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
	goclient "github.com/keyward/keyward/socket/client"
)

func TestAdminLifecycle(t *testing.T) {
	a := startAgent(t)
	ctx := t.Context()
	sess := a.session("agw", testSpec)
	if sess.Status != "active" || !strings.HasPrefix(sess.CreateSessionCalldata, "0x5a0694d2") || sess.Limits == nil ||
		sess.Protection != "resident" {
		t.Errorf("session %+v, want it active, with calldata and limits", sess)
	}
	other := a.session("eoa", testSpec)
	if other.Account != other.Signer || other.CreateSessionCalldata != "" || other.Validator != nil {
		t.Errorf("eoa session %+v, want it to be its own account", other)
	}
	if got, err := a.operator.Session(ctx, sess.Signer.String()); err != nil || got.ID != sess.ID {
		t.Errorf("by signer: %v, %v, want %s", got, err, sess.ID)
	}
	ended, err := a.operator.RevokeSession(ctx, sess.ID)
	if err != nil || ended.Status != "revoked" || ended.EndedAt == nil {
		t.Errorf("RevokeSession = %+v, %v", ended, err)
	}
	if ended, err = a.operator.CloseSession(ctx, other.ID); err != nil || ended.Status != "closed" {
		t.Errorf("CloseSession = %+v, %v", ended, err)
	}
	if apps, err := a.app.Sessions(ctx); err != nil || len(apps) != 0 {
		t.Errorf("an app sees %v, %v after the end, want nothing", apps, err)
	}
	if all, err := a.operator.AllSessions(ctx); err != nil || len(all) != 2 || all[0].ID != sess.ID {
		t.Errorf("AllSessions = %v, %v, want both, oldest first", all, err)
	}
	keys, err := a.operator.Keys(ctx)
	if err != nil || len(keys) != 2 || keys[0].Session != sess.ID || keys[0].Status != "revoked" {
		t.Errorf("Keys = %v, %v", keys, err)
	}
	if _, err := a.device.Generate(ctx, backends.KeyAttributes{Label: "keyward-left"}); err != nil {
		t.Fatal(err)
	}
	if keys, err = a.operator.Keys(ctx); err != nil || len(keys) != 3 || keys[2].Session != "" {
		t.Errorf("Keys = %v, %v, want one that no session has", keys, err)
	}
	if err := a.device.Destroy(ctx, keys[0].URI); err != nil { // by another program
		t.Fatal(err)
	}
	if keys, err = a.operator.Keys(ctx); err != nil || len(keys) != 3 || !keys[0].Lost || keys[1].Lost || keys[2].Lost {
		t.Errorf("Keys = %v, %v, want the first of them lost", keys, err)
	}
}

func TestAdminMistakes(t *testing.T) {
	a := startAgent(t)
	for _, tt := range []struct{ method, params, want string }{
		{"admin_createSession", `[]`, "-32602"},
		{"admin_createSession", `[{"spec":{},"chain":"abstract","clients":["uid:0"]}]`, "-32602"},
		{"admin_createSession", `[{"spec":` + testSpec + `,"chain":"moon","clients":["uid:0"]}]`, "-32602"},
		{"admin_createSession", `[{"spec":` + testSpec + `,"chain":"abstract","clients":["root"]}]`, "-32602"},
		{"admin_createSession", `[{"spec":` + testSpec + `,"chain":"abstract","clients":["uid:0"]}]`, "-32602"}, // no account
		{"admin_createSession", `[{"spec":` + testSpec + `,"chain":"5","account":"` + testAccount + `","clients":["uid:0"]}]`,
			"-32602"},
		{"admin_createSession", `[{"spec":` + testSpec + `,"chain":"abstract","kind":"x","clients":["uid:0"]}]`, "-32602"},
		{"admin_createSession", `[{"Spec":` + testSpec + `,"chain":"abstract","clients":["uid:0"]}]`, "-32602"},
		{"admin_createSession", `[{"chain":"abstract","chain":"5"}]`, "-32602"},
		{"admin_revokeSession", `["0123456789abcdef"]`, "-32602"},
		{"admin_revokeSession", `[{"id":"0123456789abcdef"}]`, "4100"},
		{"admin_revokeSession", `[{"id":7}]`, "-32602"},
		{"admin_keys", `[{"backend":"moon"}]`, "-32602"},
		{"admin_unlock", `[{"backend":"memory"}]`, "-32602"}, // has no PIN
		{"admin_unlock", `[{"pin":"1234"}]`, "-32602"},
		{"admin_unlock", `[{"pin":"1234","adminPin":true}]`, "-32602"},
		{"admin_unlock", `[{"backend":"memory","pin":"1234","adminPin":true}]`, "-32602"}, // has no admin PIN
		{"admin_reload", `[]`, "-32000"},
		{"eth_accounts", `[]`, "-32601"},
		{"eth_sendTransaction", `[]`, "-32601"},
	} {
		var params []any
		if one := tt.params[1 : len(tt.params)-1]; one != "" {
			params = []any{json.RawMessage(one)}
		}
		err := a.operator.Call(t.Context(), nil, tt.method, params...)
		reply := goclient.Details(err)
		if reply == nil || fmt.Sprint(reply.Code) != tt.want {
			t.Errorf("%s %s: %v, want code %s", tt.method, tt.params, err, tt.want)
		}
	}
	if all, err := a.operator.AllSessions(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("sessions were made all the same: %v, %v", all, err)
	}
}

// pinned is a backend with a PIN.
type pinned struct {
	*soft.Backend
	pin    string
	locked bool
	tries  []string
}

func (p *pinned) Unlock(_ context.Context, pin []byte) error {
	p.tries = append(p.tries, string(pin))
	if pin != nil && string(pin) != p.pin {
		return backends.ErrPINIncorrect
	}
	p.locked = false
	return nil
}

func (p *pinned) Lock(context.Context) error { p.locked = true; return nil }

func TestLockAndUnlock(t *testing.T) {
	a := startAgent(t)
	ctx := t.Context()
	device := &pinned{Backend: a.device, pin: `12"34`}
	a.Backends["memory"] = Backend{Backend: device, Type: "soft"}
	sess := a.session("agw", testSpec)
	if _, err := a.operator.Lock(ctx, api.Lock{}); err != nil {
		t.Fatal(err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); got != "-32000 lockedByOperator" ||
		!device.locked {
		t.Errorf("locked: %s, device locked %v", got, device.locked)
	}
	if got := a.ask("eth_accounts"); !strings.HasPrefix(got, `["0x`) {
		t.Errorf("locked, reading: %s", got)
	}
	if status, err := a.operator.Status(ctx); err != nil || status.State != "locked" {
		t.Errorf("Status = %+v, %v, want locked", status, err)
	}
	err := a.operator.Unlock(ctx, "memory", []byte("0000"))
	if reply := goclient.Details(err); reply == nil || reply.Details().Reason != "pinIncorrect" {
		t.Errorf("Unlock with a wrong PIN: %v", err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); got != "-32000 lockedByOperator" {
		t.Errorf("after a wrong PIN: %s", got)
	}
	if err := a.operator.Unlock(ctx, "", []byte(device.pin)); err != nil {
		t.Fatal(err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); len(got) != 134 {
		t.Errorf("unlocked: %s", got)
	}
	if err := a.operator.Unlock(ctx, "memory", nil); err != nil {
		t.Error(err)
	}
	if diff := cmp.Diff([]string{"0000", `12"34`, ""}, device.tries); diff != "" {
		t.Errorf("PINs tried (-want +got):\n%s", diff)
	}
}

// administered is a backend with an admin PIN too.
type administered struct {
	*pinned
	admin string // what was given
}

func (p *administered) UnlockAdmin(_ context.Context, pin []byte) error {
	p.admin = string(pin)
	return nil
}

// An admin PIN goes to its backend alone, is no PIN to sign with, and unlocks nothing.
func TestAdminPIN(t *testing.T) {
	a := startAgent(t)
	device := &administered{pinned: &pinned{Backend: a.device}}
	a.Backends["memory"] = Backend{Backend: device, Type: "soft"}
	if _, err := a.operator.Lock(t.Context(), api.Lock{}); err != nil {
		t.Fatal(err)
	}
	if err := a.operator.UnlockAdmin(t.Context(), "memory", []byte("12345678")); err != nil {
		t.Fatal(err)
	}
	if device.admin != "12345678" || len(device.tries) != 0 || !device.locked || !a.Signer.Locked() {
		t.Errorf("the device has admin PIN %q, was unlocked with %q, is locked: %v, and the agent is: %v", device.admin,
			device.tries, device.locked, a.Signer.Locked())
	}
	if err := a.operator.UnlockAdmin(t.Context(), "memory", nil); err == nil {
		t.Error("UnlockAdmin without a PIN succeeded")
	}
}

// refusing is a backend whose errors name it, as those of a backend do.
type refusing struct{ *soft.Backend }

var errRefusing = fmt.Errorf("piv memory: unlocking: %w", backends.ErrPINIncorrect)

func (*refusing) Unlock(context.Context, []byte) error      { return errRefusing }
func (*refusing) Lock(context.Context) error                { return nil }
func (*refusing) UnlockAdmin(context.Context, []byte) error { return errRefusing }

// The operator reads once which backend refuses.
func TestUnlockNamesTheBackendOnce(t *testing.T) {
	a := startAgent(t)
	a.Backends["memory"] = Backend{Backend: &refusing{a.device}, Type: "soft"}
	for what, err := range map[string]error{
		"Unlock":      a.operator.Unlock(t.Context(), "memory", []byte("1")),
		"UnlockAdmin": a.operator.UnlockAdmin(t.Context(), "memory", []byte("1")),
	} {
		if reply := goclient.Details(err); reply == nil || reply.Message != errRefusing.Error() {
			t.Errorf("%s = %v, want %q alone", what, err, errRefusing)
		}
	}
}

func TestStatusAndClients(t *testing.T) {
	a := startAgent(t)
	ctx := t.Context()
	reloads := 0
	a.Reload = func(context.Context) (*api.Reloaded, error) {
		reloads++
		return &api.Reloaded{OK: true, Changed: []string{"limits"}}, nil
	}
	sess := a.session("agw", testSpec)
	a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil))
	a.ask("personal_sign", "0x00", sess.Signer)
	reloaded, err := a.operator.Reload(ctx)
	if err != nil || reloads != 1 || !slices.Equal(reloaded.Changed, []string{"limits"}) {
		t.Errorf("Reload = %+v, %v, %d times, want that the limits have changed", reloaded, err, reloads)
	}
	status, err := a.operator.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if status.State != "ready" || status.Version != "1.2.3" || status.PID != os.Getpid() ||
		status.Sessions["active"] != 1 ||
		status.Granted != 1 || status.Denied != 1 || status.Connections != 1 || len(status.Backends) != 1 ||
		status.Backends[0].Type != "soft" {
		t.Errorf("Status = %+v", status)
	}
	head, err := a.operator.AuditHead(ctx)
	if err != nil || head != status.AuditHead || head.Seq < 5 {
		t.Errorf("AuditHead = %+v, %v, want that of Status, %+v", head, err, status.AuditHead)
	}
	clients, err := a.operator.Clients(ctx)
	if err != nil || len(clients) != 2 {
		t.Fatalf("Clients = %+v, %v, want this process on both sockets", clients, err)
	}
	for i, want := range []string{"agent", "admin"} {
		if c := clients[i]; c.Socket != want || int(c.PID) != os.Getpid() || c.Connections != 1 || c.InFlight != i {
			t.Errorf("client %+v, want this process on %s", c, want)
		}
	}
}

// What the operator does is in the audit trail, with who it was.
func TestAdminAudit(t *testing.T) {
	a := startAgent(t)
	a.Reload = func(context.Context) (*api.Reloaded, error) { return &api.Reloaded{OK: true}, nil }
	reload := func() error { _, err := a.operator.Reload(t.Context()); return err }
	lock := func() error { _, err := a.operator.Lock(t.Context(), api.Lock{}); return err }
	for _, err := range []error{lock(), a.operator.Unlock(t.Context(), "", nil), reload()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	file, err := os.Open(filepath.Join(filepath.Dir(a.appPath), "audit"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var events []string
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var rec struct {
			Event string
			Peer  *struct{ UID int }
		}
		if err := json.Unmarshal(lines.Bytes(), &rec); err != nil {
			t.Fatal(err)
		}
		if rec.Peer != nil && rec.Peer.UID == os.Getuid() {
			events = append(events, rec.Event)
		}
	}
	if diff := cmp.Diff([]string{"agent.locked", "agent.unlocked", "agent.reloaded"}, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// A backend that fails is the operator's to know in full, and an app's only by kind.
func TestDeviceErrors(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		return nil, fmt.Errorf("token %q in slot 3: %w", "hsm1", backends.ErrUnavailable)
	}
	err := a.app.Call(t.Context(), nil, "eth_signTypedData_v4", sess.Signer, typedData(nil))
	var reply *api.Error
	if !errors.As(err, &reply) || reply.Code != api.CodeUnavailable || !reply.Details().Retryable ||
		strings.Contains(reply.Message, "hsm1") {
		t.Errorf("device absent: %v, want -32000, retryable, without its name", err)
	}
}

// TestBackendCheckAndLock: a check is a signature like any other to a lock, which waits for the one that is
// under way, so that its key is destroyed while the device still takes orders, and then lets none begin.
func TestBackendCheckAndLock(t *testing.T) {
	a := startAgent(t)
	ctx := t.Context()
	reached, release := make(chan struct{}), make(chan struct{})
	a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		close(reached)
		<-release
		return nil, nil
	}
	device := &pinned{Backend: a.device}
	a.Backends["memory"] = Backend{Backend: device, Type: "soft"}
	checked := make(chan error, 1)
	go func() {
		test, err := a.operator.CheckBackend(ctx, "memory")
		if err == nil && (!test.OK || len(test.Steps) != 4) {
			err = fmt.Errorf("test %+v", test)
		}
		checked <- err
	}()
	<-reached
	locked := make(chan error, 1)
	go func() { _, err := a.operator.Lock(ctx, api.Lock{Wait: true}); locked <- err }()
	gate := &a.Server.signing
	gate.mu.Lock()
	inside := gate.inside
	gate.mu.Unlock()
	if inside != 1 {
		t.Errorf("%d calls are inside the gate while a key signs, want 1: Lock would not wait for it", inside)
	}
	waitFor(t, "the lock to close the gate", gate.Closed)
	close(release)
	if err := <-checked; err != nil {
		t.Error(err)
	}
	if err := <-locked; err != nil || !device.locked {
		t.Errorf("Lock = %v, device locked %v", err, device.locked)
	}
	if keys, err := a.device.Keys(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v are left", keys, err)
	}
	_, err := a.operator.CheckBackend(ctx, "memory")
	if reply := goclient.Details(err); reply == nil || reply.Code != api.CodeUnavailable ||
		reply.Details().Reason != "lockedByOperator" {
		t.Errorf("CheckBackend of a locked agent = %v, want lockedByOperator", err)
	}
	if keys, err := a.device.Keys(ctx, ""); err != nil || len(keys) != 0 {
		t.Errorf("keys %v, %v were made while locked", keys, err)
	}
}

// An end in milliseconds makes no session, new or renewed; the answer says which field it is, and the seconds.
func TestAdminMilliseconds(t *testing.T) {
	a := startAgent(t)
	account := policy.Address{}
	if err := account.UnmarshalText([]byte(testAccount)); err != nil {
		t.Fatal(err)
	}
	_, created := a.operator.CreateSession(t.Context(), &api.CreateSession{
		Spec:  json.RawMessage(strings.Replace(testSpec, "4000000000", "4000000000000", 1)),
		Chain: "abstract", Account: &account, Clients: []string{"uid:0"},
	})
	sess := a.session("agw", testSpec)
	_, renewed := a.operator.RenewSession(t.Context(), &api.RenewSession{
		ID: sess.ID, ExpiresAt: policy.Decimal(*uint256.NewInt(4_000_000_000_000)), Unchecked: true,
	})
	for what, err := range map[string]error{"created": created, "renewed": renewed} {
		reply := goclient.Details(err)
		if reply == nil || reply.Code != api.CodeInvalidParams || reply.Details().Path != "expiresAt" ||
			!strings.Contains(reply.Message, "if it is in milliseconds, write 4000000000 (2096-10-02 07:06:40 UTC)") {
			t.Errorf("%s: %v, want -32602 at expiresAt with the seconds", what, err)
		}
	}
	if all, err := a.operator.AllSessions(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("AllSessions = %d sessions, %v, want 1", len(all), err)
	}
}
