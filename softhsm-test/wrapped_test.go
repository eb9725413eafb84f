package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/socket/api"
)

// From socket to signature with wrapped keys: a key-encryption key is made, sessions are created, sign and meet
// faults, the agent starts again, their keys move to another key-encryption key, and end. The limit afterwards is as
// the class of each fault says.
func TestWrappedKeys(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	tok := NewToken(t)
	kek := pkcs11.KEK{Module: tok.Module, Env: tok.Env(), Token: tok.Label, Label: "kek-1", Movable: true,
		SOPIN: secret.FromFile(tok.SOPINFile)}
	a.must(kek.Make(t.Context()))
	kek.Label = "kek-2"
	a.must(kek.Make(t.Context()))
	faults, control := a.addToken(tok, "faulty", `timeout = "3s"`, `class = "wrapped"`, `kek = "kek-1"`, "objects = 2")
	a.mayWrite(control)
	a.configureIn("session", `key_grace = "0s"`)
	a.Start()
	var sessions []*api.Session
	for range 4 { // more than are unwrapped at a time
		sess := a.activeSessionOn("faulty", transferSpec(100))
		if sess.Protection != "wrapped" {
			t.Fatalf("protection = %q, want wrapped", sess.Protection)
		}
		sessions = append(sessions, sess)
	}
	c := a.Client()
	signs := func(sess *api.Session, nonce uint64) {
		t.Helper()
		if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err != nil {
			t.Fatalf("nonce %d: %v\n%s", nonce, err, a.log)
		}
	}
	for nonce := range uint64(2) {
		for _, sess := range sessions {
			signs(sess, nonce)
		}
	}
	const deviceError, deviceMemory = 0x30, 0x31
	for i, f := range []struct {
		function string
		kind     FaultKind
		rv       uint64
		pass     uint64 // calls that pass first
		charged  int    // once the request has failed
	}{
		{"UnwrapKey", Return, deviceError, 0, 0},
		{"UnwrapKey", Lose, deviceError, 0, 0}, // the answer is lost: to unwrap is no signature
		{"UnwrapKey", Return, deviceMemory, 0, 0},
		{"SignInit", Return, deviceError, 0, 0},
		{"Sign", Lose, deviceError, 0, 0}, // of another digest, by which the unwrapped key is tried
		{"Sign", Lose, deviceError, 1, 1}, // of the transaction's: in doubt
	} {
		sess, nonce := sessions[i%2], uint64(10+i)
		signs(sessions[2], nonce) // so that sess's key is not unwrapped
		signs(sessions[3], nonce)
		before := used(t, c, sess)
		faults.On(f.function).SetAfter(f.pass, f.kind, f.rv, 1_000_000)
		if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err == nil {
			t.Errorf("C_%s: it is signed", f.function)
		}
		faults.On(f.function).Set(Return, 0, 0)
		if n := used(t, c, sess) - before; n != f.charged {
			t.Errorf("C_%s, kind %d, 0x%x after %d calls: the limit afterwards has %d used more, want %d", f.function, f.kind,
				f.rv, f.pass, n, f.charged)
		}
		waitFor(t, "the token to sign again", func() bool {
			_, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce))
			return err == nil
		})
		if n := used(t, c, sess) - before; n != 1 {
			t.Errorf("C_%s: one transaction is charged %d times", f.function, n)
		}
	}
	a.rewrapsTo("kek-2", len(sessions))
	c = a.Client()
	for _, sess := range sessions {
		signs(sess, 90)
	}
	a.Keyward("session", "revoke", sessions[0].ID)
	file := filepath.Join(a.Dir, "state", "keys", "faulty", strings.TrimPrefix(sessions[0].KeyURI, "wrapped:signer=")+
		".key")
	waitFor(t, "the key to be destroyed", func() bool { _, err := os.Stat(file); return os.IsNotExist(err) })
}

// rewrapsTo has another key-encryption key take over the keys of all sessions.
func (a *Agent) rewrapsTo(kek string, sessions int) {
	a.t.Helper()
	a.Stop()
	path := filepath.Join(a.Dir, "config.toml")
	conf, err := os.ReadFile(path)
	a.must(err)
	a.must(os.WriteFile(path, []byte(strings.Replace(string(conf), `kek = "kek-1"`, fmt.Sprintf("kek = %q", kek), 1)),
		0o600))
	a.Start()
	want := fmt.Sprintf("%d keys encrypted with the device key of now, 0 were already, 0 failed", sessions)
	if out := a.Keyward("key", "rewrap"); !strings.Contains(out, want) {
		a.t.Errorf("key rewrap says %q, want %q", out, want)
	}
	if out := a.Keyward("backend", "check", "faulty"); !strings.Contains(out, "wrapped") ||
		strings.Contains(out, "FAILED") {
		a.t.Errorf("backend check says %q", out)
	}
}
