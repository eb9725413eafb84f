package softhsmtest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/syncbuf"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// The whole agent on a YubiKey that wants a touch for each use of its key.
func TestTouchPIV(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 4711)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey("--touch-policy", "always")
	a.Start()
	// what does not open signs nothing, so the charge is taken back
	testTouch(t, a, card, "yubikey", "waiting for a touch of YubiKey 4711")
}

// The same of its OpenPGP application.
func TestTouchOpenPGP(t *testing.T) {
	const userPIN, adminPIN = "472911", "83920175"
	pcscd := cardsim.StartPCSCD(t)
	app := cardsim.NewOpenPGP(cardsim.OpenPGPConfig{Serial: 4711})
	app.SetPINs(userPIN, adminPIN)
	card := cardsim.NewCard(app)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	for name, pin := range map[string]string{"user": userPIN, "admin": adminPIN} {
		a.must(os.WriteFile(filepath.Join(a.Dir, name), []byte(pin), 0o600))
	}
	a.configure(`
[backends.yubi]
type = "openpgp"
serial = "4711"
touch = "on"
pin_file = "user"
admin_pin_file = "admin"
`)
	a.Start()
	testTouch(t, a, card, "yubi", "waiting for a touch of YubiKey 4711")
}

// testTouch has a session's requests wait for a touch that comes, and for one that does not. want is in
// what is said meanwhile.
func testTouch(t *testing.T, a *Agent, card *cardsim.Card, backend, want string) {
	card.AutoTouch(true)
	sess := a.activeSessionOn(backend, transferSpec(3))
	card.AutoTouch(false)
	card.SetTouchTimeout(time.Minute)

	// One request waits for the touch, another one behind it: both are told, and so is who asks.
	command := a.start("sign", "--session", sess.ID, "--tx", a.txFile(sess.ID, 0))
	a.must(card.AwaitBlink(t.Context()))
	c, told := a.listeningClient()
	signed := make(chan error, 1)
	sign := func(nonce uint64) {
		_, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		signed <- err
	}
	go sign(1)
	await(t, "the queued request is told", func() bool { return len(told) == 1 })
	if what := <-told; !strings.Contains(what, want) {
		t.Errorf("the queued request is told %q, want %q", what, want)
	}
	await(t, "the command says it", func() bool { return strings.Contains(command.stderr.String(), "keyward: "+want) })
	if status := a.Keyward("status"); !strings.Contains(status, want) {
		t.Errorf("the status while the card blinks lacks %q:\n%s", want, status)
	}
	if shown, err := a.Client().Session(t.Context(), sess.ID); err != nil || !strings.Contains(shown.Waiting, want) {
		t.Errorf("session_get while the card blinks: %+v, %v, want %q in waiting", shown, err, want)
	}
	if shown := a.Keyward("session", "show", sess.ID); !strings.Contains(shown, want) {
		t.Errorf("session show while the card blinks lacks %q:\n%s", want, shown)
	}
	if log := a.log.String(); !strings.Contains(log, want) {
		t.Errorf("the log lacks %q:\n%s", want, log)
	}
	card.Touch()
	if err := command.cmd.Wait(); err != nil || !strings.HasPrefix(command.stdout.String(), "0x71") {
		t.Errorf("keyward sign after the touch: %v, %q\n%s", err, &command.stdout, &command.stderr)
	}
	a.must(card.AwaitBlink(t.Context()))
	card.Touch()
	a.must(<-signed)
	if status := a.Keyward("status"); strings.Contains(status, want) {
		t.Errorf("the status after the touch still has %q:\n%s", want, status)
	}

	// Nobody touches it: it is certain that nothing was signed, so the charge is taken back.
	drain(told)
	card.SetTouchTimeout(time.Second)
	sign(2)
	reply := client.Details(<-signed)
	if reply == nil || reply.Code != api.CodeUnavailable || reply.Details().Reason != "notTouched" ||
		!reply.Details().Retryable {
		t.Errorf("without a touch: %+v, want -32000, notTouched and retryable", reply)
	}
	if got := drain(told); len(got) != 2 || !strings.Contains(got[0], want) || got[1] != "" {
		t.Errorf("without a touch the request was told %q", got)
	}
	if used := a.used(sess.ID); used != "2" {
		t.Errorf("%s are counted after three requests, want the 2 that were touched", used)
	}
	card.SetTouchTimeout(time.Minute)
	go sign(2)
	a.must(card.AwaitBlink(t.Context()))
	card.Touch()
	if err := <-signed; err != nil || a.used(sess.ID) != "3" {
		t.Errorf("the next try: %v, and %s are counted, want 3", err, a.used(sess.ID))
	}
}

// command is a keyward command that runs.
type command struct {
	cmd            *exec.Cmd
	stdout, stderr syncbuf.Buffer
}

// start runs a command on the agent's directory, which is ended with the test.
func (a *Agent) start(args ...string) *command {
	a.t.Helper()
	c := &command{cmd: exec.Command(a.bin, append(args, "--dir", a.Dir)...)}
	c.cmd.Env = testbin.Env()
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	a.must(c.cmd.Start())
	a.t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			c.cmd.Process.Kill()
			c.cmd.Wait() // reports the signal
		}
	})
	return c
}

// txFile is a file with a transfer.
func (a *Agent) txFile(session string, nonce uint64) string {
	a.t.Helper()
	tx := transferTx(session, nonce)
	delete(tx, "session") // which the command's flag says
	data, err := json.Marshal(tx)
	a.must(err)
	file := filepath.Join(a.t.TempDir(), "tx.json")
	a.must(os.WriteFile(file, data, 0o600))
	return file
}

// listeningClient is a Client that keeps what it was told.
func (a *Agent) listeningClient() (*client.Client, chan string) {
	a.t.Helper()
	c, told := a.Client(), make(chan string, 16)
	c.OnWaiting = func(what string) { told <- what }
	return c, told
}

// used is what is counted against the limit on transfers.
func (a *Agent) used(session string) string {
	a.t.Helper()
	sess, err := a.Client().Session(a.t.Context(), session)
	a.must(err)
	i := slices.IndexFunc(sess.Limits, func(l api.Limit) bool { return l.Limit.String() == "3" })
	if i < 0 {
		a.t.Fatalf("no limit of 3 in %+v", sess.Limits)
	}
	return sess.Limits[i].Used.String()
}

// drain is what a client was told since.
func drain(told chan string) (list []string) {
	for {
		select {
		case what := <-told:
			list = append(list, what)
		default:
			return list
		}
	}
}

// await waits until something holds that should soon.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}
