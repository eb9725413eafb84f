package softhsmtest

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
)

// The whole agent on a YubiKey: a session's key is sealed to it, the card is pulled and comes
// back, the process that talks to it is killed, the agent is killed.
func TestAgentOnPIV(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 4711)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey()
	a.Start()
	sess := a.activeSessionOn("yubikey", transferSpec(1000))
	if !strings.HasPrefix(sess.KeyURI, "sealed:") {
		t.Errorf("the key is %q, want a sealed one", sess.KeyURI)
	}
	nonce := uint64(0)
	sign := func() error {
		nonce++
		_, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		return err
	}
	signs := func(what string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			err := sign()
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %v\n%s", what, err, a.log)
			}
		}
	}
	signs("at first")

	pcscd.Remove(0)
	pcscd.AwaitEmpty(t, 0)
	if err := sign(); err == nil {
		t.Error("it signs without the card")
	}
	if out := a.Status(); !strings.Contains(out, "not plugged in") {
		t.Errorf("status does not say that the card is missing:\n%s", out)
	}
	pcscd.Insert(t, 0, card)
	signs("after the card came back")

	out, err := exec.Command("pgrep", "-P", fmt.Sprint(a.cmd.Process.Pid)).Output()
	if err != nil {
		t.Fatalf("the agent has no child: %v", err)
	}
	for _, pid := range strings.Fields(string(out)) {
		if err := exec.Command("kill", "-9", pid).Run(); err != nil {
			t.Fatal(err)
		}
	}
	signs("after its process was killed")
	a.Kill()
	a.Start()
	signs("after the agent was killed")
	for _, try := range card.PINTries() {
		if try.SW != cardsim.SWOK {
			t.Errorf("a PIN was refused: %+v", try)
		}
	}
	pcscd.AwaitFree(t, 0)
}

func (a *Agent) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}
