package softhsmtest

import (
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/transit/transitfake"
	"github.com/keyward/keyward/socket/api"
)

// newTransitAgent starts an agent whose keys a fake Vault seals, with a login by AppRole. Keys of ended sessions are
// destroyed immediately.
func newTransitAgent(t *testing.T) (*kmsAgent, *transitfake.Server) {
	t.Helper()
	fake := &transitfake.Server{Namespace: "admin/team"}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	fake.SetKey("keyward", nil)
	fake.AddRole("approle", "role-1", "secret-1")
	secret := filepath.Join(tempDir(t), "secret-id")
	if err := os.WriteFile(secret, []byte("secret-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := fmt.Sprintf(`session.key_grace = "0s"
[backends.kms]
type = "transit"
address = %q
namespace = "admin/team"
key = "keyward"
auth = "approle"
role = "role-1"
secret_file = %q
timeout = "2s"
`, server.URL, secret)
	return &kmsAgent{Agent: newConfiguredAgent(t, conf), sealKey: "keyward"}, fake
}

// From socket to signature with keys that Vault seals: create, sign, meet each fault, start again, rotate, rewrap,
// destroy. To open a key is no signature, so no fault uses up the limit.
func TestTransit(t *testing.T) {
	a, fake := newTransitAgent(t)
	sess := a.ActiveSession(transferSpec(100), userAccount)
	if sess.Protection != "sealed" {
		t.Errorf("protection = %q, want sealed", sess.Protection)
	}
	c := a.Client()
	a.signs(t, c, sess, 0)
	for i, f := range []struct {
		name      string
		fault     transitfake.Fault
		times     int
		reason    string // "": it is signed
		retryable bool
	}{
		{"throttled", transitfake.Fault{Status: 429}, 2, "", false},
		{"answer lost, asked again", transitfake.Fault{Cut: true}, 1, "", false},
		{"answer lost each time", transitfake.Fault{Cut: true}, -1, "deviceUnavailable", true},
		{"down", transitfake.Fault{CutHard: true}, -1, "deviceUnavailable", true},
		{"sealed", transitfake.Fault{Status: 503, Errors: []string{"Vault is sealed"}}, -1, "deviceUnavailable", true},
		{"denied", transitfake.Fault{Status: 403, Errors: []string{"permission denied"}}, -1, "deviceRefused", false},
		{"key deleted", transitfake.Fault{Status: 400, Errors: []string{"encryption key not found"}}, -1, "keyNotFound",
			false},
		{"garbled", transitfake.Fault{Status: 200, Body: "{"}, -1, "deviceUnavailable", true},
	} {
		before := used(t, c, sess)
		fake.Inject("decrypt", f.times, f.fault)
		tx := transferTx(sess.ID, uint64(10+i))
		_, err := c.SignTransaction(t.Context(), tx)
		if reason(err) != f.reason || retryable(err) != f.retryable {
			t.Errorf("%s: %v with reason %q, retryable %v, want %q, %v", f.name, err, reason(err), retryable(err), f.reason,
				f.retryable)
		}
		charged := used(t, c, sess) - before
		if want := map[bool]int{true: 1, false: 0}[f.reason == ""]; charged != want {
			t.Errorf("%s: the limit afterwards has %d used more, want %d", f.name, charged, want)
		}
		fake.Clear()
		a.signs(t, c, sess, uint64(10+i))
		if n := used(t, c, sess) - before; n != 1 {
			t.Errorf("%s: one transaction is charged %d times", f.name, n)
		}
	}
	a.rotates(t, fake, sess)
	a.Stop()
	a.Start()
	a.signs(t, a.Client(), sess, 90)
	if log := a.log.String(); strings.Contains(log, "secret-1") || strings.Contains(log, "hvs.") {
		t.Errorf("a secret is in the log:\n%s", log)
	}
	a.destroys(t, sess)
}

// rotates has the transit key rotated, and the session's key sealed again.
func (a *kmsAgent) rotates(t *testing.T, fake *transitfake.Server, sess *api.Session) {
	t.Helper()
	const none, one = "0 keys encrypted with the device key of now, 1 were already, 0 failed",
		"1 keys encrypted with the device key of now, 0 were already, 0 failed"
	for _, step := range []struct {
		do   func()
		want string
	}{{func() {}, none}, {func() { fake.Rotate("keyward") }, one}, {func() {}, none}} {
		step.do()
		if out := a.Keyward("key", "rewrap", "--backend", "kms"); !strings.Contains(out, step.want) {
			t.Errorf("key rewrap says %q, want %q", out, step.want)
		}
	}
	fake.SetKey("keyward", func(k *transitfake.Key) { k.MinDecryptionVersion = 2 })
	a.signs(t, a.Client(), sess, 80)
	count := 0
	for _, rec := range a.trail() {
		if rec.Event == "key.rewrapped" && rec.Session == sess.ID {
			count++
		}
	}
	if count != 1 {
		t.Errorf("the audit trail has %d records of the key sealed again, want 1", count)
	}
	fake.SetHealth(503)
	if out, err := a.try("key", "rewrap", sess.ID); err == nil {
		t.Errorf("key rewrap with a sealed Vault: %s", out)
	}
	fake.SetHealth(200)
	a.signs(t, a.Client(), sess, 81)
}
