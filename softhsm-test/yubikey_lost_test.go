package softhsmtest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/pcsc"
)

// TestYubiKeySetupGivesNoBackendUp: a key that is a backend's is overwritten only when the operator has removed that
// backend, which the refusals say how to do.
func TestYubiKeySetupGivesNoBackendUp(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	file := filepath.Join(b.Dir, "config.toml")
	before, err := os.ReadFile(file)
	b.must(err)
	b.setUpYubiKey()
	attestation := filepath.Join(b.Dir, "yubikey-attestation.pem")
	giveUp := []string{
		`to give up the key of backend "yubikey", with all that is sealed to it`,
		"remove [backends.yubikey] from " + file + " and the file " + attestation,
	}
	b.refuses(append(giveUp, `has a backend "yubikey" already`, "choose another name with --name"), "--replace")
	b.refuses(append(giveUp, `backend "yubikey" has its key in slot 9d of YubiKey 4711`,
		"choose another slot with --slot"), "--name", "second", "--replace")
	if stderr := b.refuses([]string{"choose another slot with --slot"}, "--name", "second"); strings.Contains(stderr,
		"give up") {
		t.Errorf("who has not said --replace is told how to lose a key:\n%s", stderr)
	}

	b.must(os.WriteFile(file, before, 0o600))
	b.must(os.Remove(attestation))
	b.setUpYubiKey("--replace")
	if out := b.Keyward("yubikey", "status"); !strings.Contains(out, `; backend "yubikey"`) {
		t.Errorf("yubikey status:\n%s", out)
	}
	b.works("yubikey")
}

// TestYubiKeyStatusOfALostKey: the slot that a backend has its key in was overwritten with the same policies, or reset.
func TestYubiKeyStatusOfALostKey(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	b.setUpYubiKey("--slot", "82")
	s := &piv.Setup{Serial: pivSerial, Roots: attestationRoots()}
	management, err := s.ManagementKey([]byte(pivPIN))
	b.must(err)
	_, err = s.Generate(management, 0x82, piv.PINOnce, piv.TouchNever, true)
	b.must(err)
	const lost = `which is lost with all that is sealed to it`
	if out := b.Keyward("yubikey", "status"); !strings.Contains(out, `ANOTHER KEY THAN THAT OF backend "yubikey", `+
		lost) || strings.Contains(out, `; backend "yubikey"`) {
		t.Errorf("yubikey status of a slot that was overwritten:\n%s", out)
	}
	if out := b.Keyward("yubikey", "status", "--json"); !strings.Contains(out, `"lost":["yubikey"]`) {
		t.Errorf("yubikey status --json of a slot that was overwritten:\n%s", out)
	}
	b.refuses([]string{`slot 82 of YubiKey 4711 is that of backend "yubikey", whose key is lost`,
		"remove [backends.yubikey]"}, "--name", "second", "--slot", "82", "--adopt")
	b.card.FactoryReset()
	if out := b.Keyward("yubikey", "status"); !strings.Contains(out, "PIV slot 82") ||
		!strings.Contains(out, `EMPTY; the key of backend "yubikey" is lost`) {
		t.Errorf("yubikey status of a slot that is empty:\n%s", out)
	}
}

// TestYubiKeyInUse: who holds the card may be this configuration's agent, for any of the backends that are on no other
// card.
func TestYubiKeyInUse(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	b.setUpYubiKey()
	b.setUpYubiKey("--name", "second", "--slot", "82")
	c, err := pcsc.Dial()
	b.must(err)
	defer c.Close()
	_, err = c.Open(cardsim.ReaderName + " 00 00")
	b.must(err)

	const both = "in use: by the agent, for one of its backends second, yubikey, or by another program (gpg's " +
		"scdaemon, a browser)\n"
	if out := b.Keyward("yubikey", "status"); !strings.Contains(out, both) || strings.Count(out, "in use: by") != 1 {
		t.Errorf("yubikey status of a card that is in use:\n%s", out)
	}
	if stderr := b.refuses([]string{`00 00": ` + both, "keyward status"}, "--name", "third"); strings.Contains(stderr,
		"no YubiKey is plugged in") {
		t.Errorf("yubikey setup with a card that is in use:\n%s", stderr)
	}

	b.must(c.Close())
	b.pcscd.AwaitFree(t, 0)
	other := cardsim.NewYubiKey(cardsim.Firmware571, pivSerial+1)
	b.pcscd.Insert(t, 1, other)
	b.setUpYubiKey("--name", "other", "--serial", "4712")
	held, err := pcsc.Dial()
	b.must(err)
	defer held.Close()
	_, err = held.Open(cardsim.ReaderName + " 00 01")
	b.must(err)
	if out := b.Keyward("yubikey", "status"); !strings.Contains(out,
		"in use: by the agent, for its backend other, or by another program") {
		t.Errorf("yubikey status with one of two cards in use:\n%s", out)
	}
}
