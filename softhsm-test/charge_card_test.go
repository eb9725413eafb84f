package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/swtpm"
	"github.com/keyward/keyward/internal/testbin"
)

// Instructions of cards: ISO 7816-4, OpenPGP card 3.4 and SP 800-73-4.
const (
	insVerify = 0x20
	insPSO    = 0x2A
	insPIV    = 0x87
	insSelect = 0xA4
)

// TestChargesOfAnOpenPGPCard: certain is what fails before the signing command, and what the card itself refuses.
func TestChargesOfAnOpenPGPCard(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	writePIN(t, filepath.Join(credentials, "yubi-admin-pin"), "83920175")
	a, _, card := agentWithCard(t, pcscd, "472911", "83920175", `admin_pin_credential = "yubi-admin-pin"`)
	insert := func() { pcscd.AwaitEmpty(t, 0); pcscd.Insert(t, 0, card) }
	unlock := func() { card.Heal(); a.Keyward("unlock", "--backend", "yubi") }
	failures := []failure{
		{"no card", func() { pcscd.Remove(0); pcscd.AwaitEmpty(t, 0) }, insert, true},
		{"no application", fails(card, cardsim.Fault{INS: insSelect, Do: cardsim.Status, SW: 0x6A82, Times: -1}), card.Heal,
			true},
		{"the PIN is not checked", fails(card, cardsim.Fault{INS: insVerify, Do: cardsim.Status, SW: cardsim.SWInternal}),
			unlock, true},
		{"61xx for ever", fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.Endless}), card.Heal, false},
		{"half an answer", fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.Short}), card.Heal, false},
		{"no status word", fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.NoStatus}), card.Heal, false},
		{"garbage", fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.Garbage}), card.Heal, false},
		{"taken out while it signs", fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.UnplugDuring}), insert, false},
	}
	for sw, certain := range map[uint16]bool{ // one of each kind; TestWhatIsCertainlyNotSigned has them all
		0x6600: true, 0x6982: true, 0x6985: true, 0x6A80: true, 0x6400: false, 0x6581: false, 0x6F00: false, 0x6C40: false,
	} {
		fault := fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.Status, SW: sw, Times: -1})
		failures = append(failures, failure{fmt.Sprintf("%04X", sw), fault, card.Heal, certain})
	}
	failures = append(failures, failure{"it hangs while it signs",
		fails(card, cardsim.Fault{INS: insPSO, Do: cardsim.Hang}),
		func() { card.Heal(); pcscd.AwaitFree(t, 0); a.Keyward("unlock", "--backend", "yubi") }, false})
	a.charges(t, a.activeSessionOn("yubi", transferSpec(100)), failures)
}

func fails(card *cardsim.Card, f cardsim.Fault) func() { return func() { card.Fail(f) } }

// TestChargesOfASealingCard: a PIV card only opens the key, whatever goes wrong with that. (Of a card that hangs its
// process says so before the agent stops waiting, unless the machine is busy: TestChildAnswersInTime.)
func TestChargesOfASealingCard(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 4711)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey()
	a.configureIn("backends.yubikey", `timeout = "3s"`)
	a.Start()
	insert := func() { pcscd.AwaitEmpty(t, 0); pcscd.Insert(t, 0, card) }
	heal := func() { card.Heal(); pcscd.AwaitFree(t, 0) }
	a.charges(t, a.activeSessionOn("yubikey", transferSpec(100)), []failure{
		{"no card", func() { pcscd.Remove(0); pcscd.AwaitEmpty(t, 0) }, insert, true},
		{"refused", fails(card, cardsim.Fault{INS: insPIV, Do: cardsim.Status, SW: 0x6985, Times: -1}), heal, true},
		{"an error of the card", fails(card, cardsim.Fault{INS: insPIV, Do: cardsim.Status, SW: 0x6F00, Times: -1}), heal,
			true},
		{"garbage", fails(card, cardsim.Fault{INS: insPIV, Do: cardsim.Garbage, Times: -1}), heal, true},
		{"half an answer", fails(card, cardsim.Fault{INS: insPIV, Do: cardsim.Short, Times: -1}), heal, true},
		{"taken out while it opens the key", fails(card, cardsim.Fault{INS: insPIV, Do: cardsim.UnplugDuring}), insert, true},
	})
}

// TestChargesOfATPM: a TPM only opens the key, too.
func TestChargesOfATPM(t *testing.T) {
	tpm := swtpm.Start(t)
	a := newAgent(t, testbin.Race, tempDir(t))
	a.Keyward("init", "--tpm", "--tpm-device", tpm.Socket)
	config := filepath.Join(a.Dir, "config.toml")
	text, err := os.ReadFile(config)
	a.must(err)
	held := regexp.MustCompile(`(?m)^key_hold = .*$`) // an open key needs no TPM
	if !held.Match(text) {
		t.Fatalf("no key_hold in\n%s", text)
	}
	a.must(os.WriteFile(config, held.ReplaceAll(text, []byte(`timeout = "3s"`)), 0o600))
	a.Start()
	t.Cleanup(a.finish)
	signal := func(s syscall.Signal) func() { return func() { a.must(tpm.Process().Signal(s)) } }
	a.charges(t, a.activeSessionOn("tpm", transferSpec(100)), []failure{
		{"no TPM", tpm.Kill, func() { tpm.Run(t) }, true},
		{"it hangs", signal(syscall.SIGSTOP), signal(syscall.SIGCONT), true},
	})
}
