package softhsmtest

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/socket/api"
)

// The whole agent on a YubiKey: a session's key is sealed to it, the card is pulled and comes
// back, the process that talks to it is killed, the agent is killed.
func TestAgentOnPIV(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 4711)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.addPIV(4711)
	a.Start()
	sess := a.sessionOn("yubikey")
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
	if out := a.Keyward("status"); !strings.Contains(out, "not plugged in") {
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

// addPIV makes the card ready for use and adds a backend "yubikey" on it.
func (a *Agent) addPIV(serial uint32) {
	a.t.Helper()
	const pin = "271828"
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
	s := &piv.Setup{Serial: serial, Roots: roots}
	a.must(s.ChangePIN([]byte(piv.DefaultPIN), []byte(pin)))
	key, err := s.Generate(piv.DefaultManagementKey(), 0x9d, piv.PINOnce, piv.TouchNever, false)
	a.must(err)
	for name, data := range map[string][]byte{"att.pem": key.MarshalPEM(), "roots.pem": roots, "piv-pin": []byte(pin)} {
		a.must(os.WriteFile(filepath.Join(a.Dir, name), data, 0o600))
	}
	file := filepath.Join(a.Dir, "config.toml")
	conf, err := os.ReadFile(file)
	a.must(err)
	conf = fmt.Appendf(conf, `
[backends.yubikey]
type = "piv"
attestation = "att.pem"
attestation_roots = "roots.pem"
serial = %d
slot = "9d"
pin_file = "piv-pin"
timeout = "30s"
`, serial)
	a.must(os.WriteFile(file, conf, 0o600))
}

func (a *Agent) must(err error) {
	a.t.Helper()
	if err != nil {
		a.t.Fatal(err)
	}
}

// sessionOn is ActiveSession with a key in that backend.
func (a *Agent) sessionOn(backend string) *api.Session {
	a.t.Helper()
	file := filepath.Join(a.t.TempDir(), "spec.json")
	a.must(os.WriteFile(file, []byte(transferSpec(1000)), 0o600))
	out := a.Keyward("session", "create", "--spec", file, "--account", userAccount, "--chain", "abstract-testnet", "--backend", backend, "--json")
	sess := new(api.Session)
	a.must(json.Unmarshal([]byte(out), sess))
	a.Keyward("session", "activate", sess.ID)
	return sess
}
