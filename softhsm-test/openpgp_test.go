package softhsmtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// TestOpenPGPCard runs the whole agent on a session key in the OpenPGP application of a YubiKey, through
// the real pcscd: made, used within its policy and not beyond, with the card out and in again.
func TestOpenPGPCard(t *testing.T) {
	const userPIN, adminPIN = "472911", "83920175"
	pcscd := cardsim.StartPCSCD(t)
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	writePIN(t, filepath.Join(credentials, "yubi-admin-pin"), adminPIN)
	a, app, card := agentWithCard(t, pcscd, userPIN, adminPIN, `admin_pin_credential = "yubi-admin-pin"`)

	sess := a.activeSessionOn("yubi", transferSpec(3))
	if !strings.HasPrefix(a.Keyward("key", "list", "--json"), "[") ||
		!strings.Contains(a.Keyward("key", "list"), "openpgp:serial=05555555;slot=sig;signer=0x") {
		t.Errorf("key list: %s", a.Keyward("key", "list"))
	}
	c := a.Client()
	sign := func(nonce uint64) error {
		_, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		return err
	}
	if err := sign(0); err != nil {
		t.Fatalf("signing: %v", err)
	}
	pcscd.AwaitFree(t, 0) // for gpg
	if app.Verified() {
		t.Error("a PIN is still verified")
	}

	// gpg's scdaemon takes the card and keeps it until it is told to let go.
	gpg := gnupg(t)
	if out := gpg("gpg", "--card-status"); !strings.Contains(out, "Serial number ....: 05555555") {
		t.Errorf("gpg --card-status: %q", out)
	}
	if err := sign(1); err == nil {
		t.Error("a signature while scdaemon has the card")
	}
	if status := a.Status(); !strings.Contains(status, "scdaemon") {
		t.Errorf("the status does not say who has the card:\n%s", status)
	}
	gpg("gpgconf", "--kill", "all")
	pcscd.AwaitFree(t, 0)

	// The card hangs, while it signs or is shown the PIN: the call ends, and the process that made it, with all it held.
	for _, ins := range []byte{0x2A, 0x20} {
		hung := a.children()
		card.Fail(cardsim.Fault{INS: ins, Do: cardsim.Hang})
		if err := sign(1); err == nil {
			t.Error("a signature by a card that hangs")
		}
		await(t, "the process that hangs is ended", func() bool { return !slices.Equal(a.children(), hung) })
		card.Heal()
		pcscd.AwaitFree(t, 0)
		a.Keyward("unlock", "--backend", "yubi")
	}

	pcscd.Remove(0)
	pcscd.AwaitEmpty(t, 0)
	if err := sign(1); err == nil {
		t.Error("a signature without the card")
	}
	pcscd.Insert(t, 0, card)
	if err := sign(1); err != nil {
		t.Errorf("signing with the card back: %v", err)
	}
	if err := sign(2); err != nil {
		t.Errorf("signing: %v", err)
	}
	var refusal *client.Error
	if err := sign(3); !errors.As(err, &refusal) || refusal.Code != api.CodeDenied {
		t.Errorf("a transfer beyond the limit: %v, want a denial", err)
	}

	// A full card: the slot of a session that has ended is not free yet.
	ended := a.activeSessionOn("yubi", transferSpec(1))
	a.Keyward("session", "revoke", ended.ID)
	spec := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(spec, []byte(transferSpec(1)), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := a.try("session", "create", "--backend", "yubi", "--spec", spec, "--account", userAccount, "--chain",
		"abstract-testnet")
	if text := fmt.Sprint(err); !strings.Contains(text, "no free slot") ||
		!strings.Contains(text, "the key of session "+ended.ID+", which has ended") {
		t.Errorf("session create with a full card says %v, want whose slot is freed", err)
	}
	if user, admin := app.Tries(); user != 3 || admin != 3 {
		t.Errorf("tries left: %d and %d, want 3 and 3", user, admin)
	}
	if log := a.log.String(); strings.Contains(log, userPIN) || strings.Contains(log, adminPIN) {
		t.Errorf("a PIN is in the log:\n%s", log)
	}
}

// TestOpenPGPLostKey: a card that was reset has lost its key. status says so, as a signature does, also after a restart
// of the agent.
func TestOpenPGPLostKey(t *testing.T) {
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	writePIN(t, filepath.Join(credentials, "yubi-admin-pin"), "83920175")
	a, app, _ := agentWithCard(t, cardsim.StartPCSCD(t), "472911", "83920175", `admin_pin_credential = "yubi-admin-pin"`)
	sess := a.activeSessionOn("yubi", transferSpec(3))
	if st := a.backendStatus("yubi"); st.State != "ready" {
		t.Errorf("status with the key = %+v, want ready", st)
	}
	app.FactoryReset()
	app.SetPINs("472911", "83920175")
	lost := func() {
		t.Helper()
		if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, 0)); reason(err) != "keyNotFound" {
			t.Errorf("signing: %v, want keyNotFound", err)
		}
		st := a.backendStatus("yubi")
		if st.State != "unavailable" || !strings.Contains(st.Detail, "the key of session "+sess.ID+" is lost") {
			t.Errorf("status = %+v, want unavailable and the lost key", st)
		}
		if out := a.Keyward("key", "list"); !strings.Contains(out, "KEY LOST") {
			t.Errorf("key list does not say that the key is lost:\n%s", out)
		}
	}
	lost()
	a.Stop()
	a.Start()
	lost()
}

// TestOpenPGPAdminPIN has the operator give the admin PIN, for one key after the other.
func TestOpenPGPAdminPIN(t *testing.T) {
	const userPIN, adminPIN, wrongPIN = "472911", "83920175", "11112222"
	a, app, _ := agentWithCard(t, cardsim.StartPCSCD(t), userPIN, adminPIN, "admin_pin_prompt = true")
	a.Stop()
	config := filepath.Join(a.Dir, "config.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("[session]\n"), []byte("[session]\nkey_grace = \"0s\"\n"), 1)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	a.Start()
	spec := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(spec, []byte(transferSpec(3)), 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(what, says string, tries int) {
		t.Helper()
		_, err := a.try("session", "create", "--backend", "yubi", "--spec", spec, "--account", userAccount, "--chain",
			"abstract-testnet")
		if text := fmt.Sprint(err); !strings.Contains(text, says) ||
			!strings.Contains(text, "keyward unlock --backend yubi --admin-pin") {
			t.Errorf("%s: session create says %v, want %q and what to type", what, err, says)
		}
		if _, admin := app.Tries(); admin != tries {
			t.Errorf("%s: %d tries of the admin PIN are left, want %d", what, admin, tries)
		}
	}
	give := func(pin string) {
		t.Helper()
		// $ keyward unlock --backend yubi --admin-pin
		a.Keyward("unlock", "--backend", "yubi", "--admin-pin", "--pinentry", pinentry(t, pin))
	}
	refused("none was given", "it needs its admin PIN", 3)
	give(adminPIN)
	sess := a.activeSessionOn("yubi", transferSpec(3))
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, 0)); err != nil {
		t.Fatalf("signing: %v", err)
	}
	refused("it was used", "it needs its admin PIN", 3)
	give(adminPIN)
	a.Keyward("lock")
	a.Keyward("unlock")
	refused("it was given before a lock", "it needs its admin PIN", 3)
	give(wrongPIN)
	for range 2 {
		refused("a wrong one was given", "not tried again", 2)
	}
	give(adminPIN)
	a.Keyward("session", "close", sess.ID)
	for deadline := time.Now().Add(30 * time.Second); strings.Contains(a.Keyward("key", "list"), "openpgp:"); {
		if time.Now().After(deadline) {
			t.Fatalf("the key is still there:\n%s", a.log)
		}
		time.Sleep(10 * time.Millisecond)
	}
	refused("a key was destroyed with it", "it needs its admin PIN", 3)
	if n := strings.Count(a.Keyward("audit", "tail", "-n", "100"), "backend.adminPinGiven"); n != 4 {
		t.Errorf("the audit trail has %d admin PINs, want 4", n)
	}
	for _, pin := range []string{userPIN, adminPIN, wrongPIN} {
		if log := a.log.String(); strings.Contains(log, pin) {
			t.Errorf("a PIN is in the log:\n%s", log)
		}
	}
}

// agentWithCard starts an agent with a card as its backend "yubi". config says where the admin PIN is from.
func agentWithCard(t *testing.T, pcscd *cardsim.PCSCD, userPIN, adminPIN, config string) (*Agent, *cardsim.OpenPGP,
	*cardsim.Card) {
	t.Helper()
	app := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: 5555555})
	app.SetPINs(userPIN, adminPIN)
	card := cardsim.NewCard(app)
	pcscd.Insert(t, 0, card)
	a := newAgent(t, testbin.Race, tempDir(t))
	a.Keyward("init", "--softhsm")
	writePIN(t, filepath.Join(a.Dir, "yubi-pin"), userPIN)
	a.configure(`
[backends.yubi]
type = "openpgp"
serial = "5555555"
timeout = "3s"
pin_file = "` + filepath.Join(a.Dir, "yubi-pin") + `"
` + config + "\n")
	a.Start()
	t.Cleanup(a.finish)
	return a, app, card
}

func writePIN(t *testing.T, path, pin string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(pin+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// pinentry is a program that gives pin, whoever asks.
func pinentry(t *testing.T, pin string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pinentry")
	script := "#!/bin/sh\necho OK\nwhile read -r line; do\n[ \"$line\" != GETPIN ] || echo D " + pin + "\necho OK\ndone\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// gnupg runs gpg and its daemons in a home of their own.
func gnupg(t *testing.T) func(name string, args ...string) string {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, "scdaemon.conf"), []byte("disable-ccid\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(name string, args ...string) string {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Env = append(os.Environ(), "GNUPGHOME="+home, "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	t.Cleanup(func() {
		run("gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	return run
}

// configure adds to the configuration file.
func (a *Agent) configure(text string) {
	a.t.Helper()
	f, err := os.OpenFile(filepath.Join(a.Dir, "config.toml"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		a.t.Fatal(err)
	}
	_, err = f.WriteString(text)
	if err := errors.Join(err, f.Close()); err != nil {
		a.t.Fatal(err)
	}
}

// activeSessionOn is ActiveSession with a key in that backend.
func (a *Agent) activeSessionOn(backend, spec string, more ...string) *api.Session {
	a.t.Helper()
	file := filepath.Join(a.t.TempDir(), "spec.json")
	if err := os.WriteFile(file, []byte(spec), 0o600); err != nil {
		a.t.Fatal(err)
	}
	// $ keyward session create --backend yubi …
	out := a.Keyward(append([]string{"session", "create", "--backend", backend, "--spec", file, "--account", userAccount,
		"--chain", "abstract-testnet", "--json"}, more...)...)
	sess := new(api.Session)
	if err := json.Unmarshal([]byte(out), sess); err != nil {
		a.t.Fatalf("session create printed %q: %v", out, err)
	}
	a.Keyward("session", "activate", sess.ID)
	return sess
}
