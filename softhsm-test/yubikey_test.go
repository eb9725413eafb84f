package softhsmtest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	pivgo "github.com/go-piv/piv-go/v2/piv"

	"github.com/keyward/keyward/backends/piv"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
)

const (
	pivSerial = 4711
	pivPIN    = "271828"
	pivPUK    = "31415926"
)

// yubiKeyBench is an agent that does not run, and a YubiKey from the factory.
type yubiKeyBench struct {
	*Agent
	pcscd *cardsim.PCSCD
	card  *cardsim.Card
}

func newYubiKeyBench(t *testing.T, firmware cardsim.Firmware) *yubiKeyBench {
	t.Helper()
	b := &yubiKeyBench{pcscd: cardsim.StartPCSCD(t), card: cardsim.NewYubiKey(firmware, pivSerial)}
	b.pcscd.Insert(t, 0, b.card)
	b.Agent = NewAgent(t)
	b.Stop()
	b.writeCardFiles()
	return b
}

// attestationRoots is what attestations of simulated cards lead to, in PEM.
func attestationRoots() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
}

func (a *Agent) writeCardFiles() {
	a.t.Helper()
	for name, data := range map[string]string{"roots.pem": string(attestationRoots()), "piv-pin": pivPIN + "\n",
		"piv-puk": pivPUK + "\n"} {
		a.must(os.WriteFile(filepath.Join(a.Dir, name), []byte(data), 0o600))
	}
}

// setUpYubiKey adds a backend on the YubiKey that is plugged in, by "keyward yubikey setup".
func (a *Agent) setUpYubiKey(args ...string) {
	a.t.Helper()
	a.writeCardFiles()
	if _, stderr, err := a.trySetup(args...); err != nil {
		a.t.Fatalf("yubikey setup %q: %v\n%s", args, err, stderr)
	}
}

func (a *Agent) trySetup(args ...string) (stdout, stderr string, err error) {
	in := func(name string) string { return filepath.Join(a.Dir, name) }
	cmd := exec.Command(a.bin, append([]string{"yubikey", "setup", "--dir", a.Dir, "--attestation-roots", in("roots.pem"),
		"--pin-file", in("piv-pin"), "--puk-file", in("piv-puk"), "--yes"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = testbin.Env(), &out, &errs
	err = cmd.Run()
	for _, secret := range []string{pivPIN, pivPUK} {
		if strings.Contains(out.String()+errs.String(), secret) {
			a.t.Errorf("yubikey setup prints a PIN:\n%s%s", &out, &errs)
		}
	}
	return out.String(), errs.String(), err
}

// refuses wants setup to fail and to say each of the texts. It returns all that it said.
func (b *yubiKeyBench) refuses(texts []string, args ...string) (stderr string) {
	b.t.Helper()
	conf, err := os.ReadFile(filepath.Join(b.Dir, "config.toml"))
	b.must(err)
	_, stderr, err = b.trySetup(args...)
	if err == nil {
		b.t.Errorf("yubikey setup %q succeeds", args)
	}
	for _, text := range texts {
		if !strings.Contains(stderr, text) {
			b.t.Errorf("yubikey setup %q does not say %q:\n%s", args, text, stderr)
		}
	}
	if now, err := os.ReadFile(filepath.Join(b.Dir, "config.toml")); err != nil || !bytes.Equal(now, conf) {
		b.t.Errorf("the configuration is changed: %v", err)
	}
	return stderr
}

// refusesUnplanned is refuses for what is known before a plan is shown.
func (b *yubiKeyBench) refusesUnplanned(texts []string, args ...string) {
	b.t.Helper()
	if stderr := b.refuses(texts, args...); strings.Contains(stderr, "Keyward is going to") {
		b.t.Errorf("yubikey setup %q shows what it is going to do, and can't:\n%s", args, stderr)
	}
}

func (b *yubiKeyBench) inventory() *piv.Inventory {
	b.t.Helper()
	inv, err := piv.Inspect(pivSerial)
	b.must(err)
	return inv
}

// works starts the agent and has it make, use and destroy a key on the backend.
func (b *yubiKeyBench) works(backend string) {
	b.t.Helper()
	b.Start()
	b.Keyward("backend", "check", backend)
	b.Stop()
	for _, try := range b.card.PINTries() {
		if try.SW != cardsim.SWOK {
			b.t.Errorf("a PIN was refused: %+v", try)
		}
	}
	b.pcscd.AwaitFree(b.t, 0)
}

// TestYubiKeySetup takes a YubiKey from the factory to an attested session key.
func TestYubiKeySetup(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	if out := b.Keyward("yubikey", "status"); strings.Count(out, "THE FACTORY'S") != 3 ||
		!strings.Contains(out, "YubiKey 4711, firmware 5.4.3") {
		t.Errorf("yubikey status of a new card:\n%s", out)
	}
	write := func(name, pin string) { b.must(os.WriteFile(filepath.Join(b.Dir, name), []byte(pin), 0o600)) }
	for _, refused := range []struct{ file, pin, says string }{
		{"piv-pin", "123456", "the PIN is one from the factory, which everybody knows"},
		{"piv-puk", "12345678", "the PUK is one from the factory, which everybody knows"},
		{"piv-puk", pivPIN, "the PUK is the same as the PIN; it is for the day when somebody knows the PIN"},
		{"piv-pin", "12345", "the PIN has 5 characters, want 6 to 8"},
	} {
		write(refused.file, refused.pin)
		b.refuses([]string{" file " + filepath.Join(b.Dir, refused.file) + ": " + refused.says + "; nothing was changed\n"})
		b.writeCardFiles()
	}
	b.refuses([]string{"not confirmed; nothing was changed", "CAN'T BE CHANGED LATER", "PIN policy once",
		"touch policy never"}, "--yes=false")
	if inv := b.inventory(); !inv.PIN.Default || !inv.PUK.Default || !inv.ManagementKey.Default || len(inv.Slots) != 0 ||
		len(b.card.PINTries()) != 0 {
		t.Errorf("the card was changed, or shown a PIN: %+v", inv)
	}

	b.setUpYubiKey("--pin-policy", "always", "--touch-policy", "cached")
	inv := b.inventory()
	if inv.PIN.Default || inv.PUK.Default || inv.ManagementKey.Default || len(inv.Slots) != 1 ||
		inv.Slots[0].PIN != piv.PINAlways || inv.Slots[0].Touch != piv.TouchCached {
		t.Errorf("the card after the setup: %+v", inv)
	}
	if out := b.Keyward("yubikey", "status"); strings.Contains(out, "FACTORY") ||
		!strings.Contains(out, `touch policy cached; backend "yubikey"`) {
		t.Errorf("yubikey status:\n%s", out)
	}
	b.card.AutoTouch(true)
	b.works("yubikey")

	b.Start()
	sess := b.activeSessionOn("yubikey", transferSpec(1000))
	chain := b.Keyward("key", "attest", sess.ID)
	key, err := piv.ParseAttestation([]byte(chain), attestationRoots())
	if err != nil || key.Serial != pivSerial || key.Slot != 0x9d {
		t.Errorf("key attest = %v, %v", key, err)
	}
	at := new(api.Attestation)
	b.must(json.Unmarshal([]byte(b.Keyward("key", "attest", "--json", sess.KeyURI)), at))
	if !at.Verified || at.Chain != chain || at.Protection != "sealed" ||
		!strings.Contains(at.Detail, "PIN policy always, touch policy cached") {
		t.Errorf("key attest --json = %+v", at)
	}
	if out, err := b.try("key", "attest", b.activeSessionOn("softhsm", transferSpec(1000)).ID); err == nil || out != "" ||
		!strings.Contains(err.Error(), `backend "softhsm" (pkcs11) makes no statements`) {
		t.Errorf("key attest of a SoftHSM key: %q, %v", out, err)
	}
}

// TestYubiKeySetupInterrupted pulls the card at each step. The same command does the rest; only when a key was made
// that nobody knows of yet does it ask what to do with that.
func TestYubiKeySetupInterrupted(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware571)
	conf, err := os.ReadFile(filepath.Join(b.Dir, "config.toml"))
	b.must(err)
	for _, at := range []struct {
		what      string
		ins       byte
		skip      int
		generated bool // when it is pulled after the command ran
		says      string
	}{
		{"PIN", 0x24, 0, false, "error: YubiKey 4711: changing the PIN: the card was removed"},
		{"PUK", 0x24, 1, false, "error: YubiKey 4711: changing the PUK: the card was removed"},
		{"storing the management key", 0xdb, 0, false, "error: YubiKey 4711: storing the management key: the card was removed"},
		{"setting the management key", 0xff, 0, false, "error: YubiKey 4711: setting the management key: the card was removed"},
		{"generating", 0x47, 0, true, "error: YubiKey 4711: generating a key: the card was removed"},
		{"attesting", 0xf9, 0, true, "error: YubiKey 4711: a key was generated, but not attested: attesting slot 9d: the " +
			"card was removed"},
	} {
		for _, do := range []cardsim.FaultKind{cardsim.UnplugBefore, cardsim.UnplugDuring} {
			when := map[cardsim.FaultKind]string{cardsim.UnplugBefore: "before", cardsim.UnplugDuring: "during"}[do]
			b.card.FactoryReset()
			b.must(os.WriteFile(filepath.Join(b.Dir, "config.toml"), conf, 0o600))

			b.card.Fail(cardsim.Fault{INS: at.ins, Skip: at.skip, Do: do})
			hint := "keyward: hint: plug it in and run it again in the same way: it does what is left"
			if at.ins == 0xf9 {
				hint = "keyward: hint: plug it in and use the key: the same command with --adopt"
			}
			b.refuses([]string{at.says, hint})
			b.card.Heal()
			b.pcscd.AwaitEmpty(t, 0)
			b.pcscd.Insert(t, 0, b.card)
			var args []string
			if at.generated && !(at.ins == 0x47 && do == cardsim.UnplugBefore) {
				b.refuses([]string{"the slot has a key already", "--adopt"})
				b.refuses([]string{"policies can't be changed"}, "--adopt", "--touch-policy", "always")
				args = []string{"--adopt", "--touch-policy", "never"}
			}
			if _, stderr, err := b.trySetup(args...); err != nil {
				t.Errorf("after %s, pulled %s it: %v\n%s", at.what, when, err, stderr)
				continue
			}
			if inv := b.inventory(); inv.PIN.Default || inv.PUK.Default || inv.ManagementKey.Default || len(inv.Slots) != 1 {
				t.Errorf("after %s, pulled %s it, the card is %+v", at.what, when, inv)
			}
		}
		b.works("yubikey") // with the last one, of which an answer was lost or a key adopted
	}
}

// TestYubiKeySetupRefuses what would lose a key or cost a try too many.
func TestYubiKeySetupRefuses(t *testing.T) {
	b := newYubiKeyBench(t, cardsim.Firmware543)
	b.refuses([]string{"YubiKey 99 is not plugged in"}, "--serial", "99")
	b.refuses([]string{`slot "9a": want 9d, or 82 to 95`}, "--slot", "9a")
	b.refuses([]string{`PIN policy "sometimes"`}, "--pin-policy", "sometimes")
	b.refuses([]string{`name "Yubi"`}, "--name", "Yubi")
	b.refuses([]string{"give one of them"}, "--adopt", "--replace")
	b.refuses([]string{`"Ä" is no serial number`}, "--serial", "Ä")
	b.refuses([]string{`"a/b" is the name of no systemd credential`}, "--pin-credential", "a/b")
	b.refuses([]string{"slot 9d is empty: there is no key to adopt"}, "--adopt")
	b.refuses([]string{"not to be trusted", "--attestation-roots"}, "--attestation-roots=") // Yubico's
	noRoots := filepath.Join(b.Dir, "piv-pin")
	b.refuses([]string{"error: " + noRoots + ": attestation roots: no certificate in there", "certificates in PEM"},
		"--attestation-roots", noRoots)
	b.refuses([]string{"/dev/full/agent"}, "--dir", "/dev/full/agent")
	if inv := b.inventory(); !inv.PIN.Default || !inv.PUK.Default || !inv.ManagementKey.Default || len(inv.Slots) != 0 ||
		len(b.card.PINTries()) != 0 {
		t.Errorf("the card was changed, or shown a PIN: %+v", inv)
	}
	b.setUpYubiKey()
	b.refuses([]string{`has a backend "yubikey" already`})
	b.refuses([]string{`backend "yubikey" has its key in slot 9d`}, "--name", "second", "--replace")
	attestation := filepath.Join(b.Dir, "yubikey-attestation.pem")
	b.must(os.Rename(attestation, attestation+".away"))
	b.refuses([]string{`backend "yubikey" has its key in slot 9d`}, "--name", "second", "--replace")
	b.must(os.Rename(attestation+".away", attestation))
	statement, err := os.ReadFile(attestation)
	b.must(err)
	block, _ := pem.Decode(statement)
	foreign := filepath.Join(b.Dir, "foreign.pem")
	b.must(os.WriteFile(foreign, pem.EncodeToMemory(block), 0o600))
	b.refuses([]string{"not to be trusted", "it leads to none of the certificates in " + foreign}, "--name", "second",
		"--slot", "82", "--attestation-roots", foreign)
	b.testForeignUses()

	// Another key in another slot, made by somebody else; then a wrong PIN.
	s := &piv.Setup{Serial: pivSerial, Roots: attestationRoots()}
	management, err := s.ManagementKey([]byte(pivPIN))
	b.must(err)
	_, err = s.Generate(management, 0x82, piv.PINOnce, piv.TouchNever, false)
	b.must(err)
	b.refuses([]string{"slot 82, P-256", "--replace"}, "--name", "second", "--slot", "82")

	// What can't be attested is not adopted.
	imported, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	b.must(err)
	yk, err := pivgo.Open(cardsim.ReaderName + " 00 00")
	b.must(err)
	slot85, _ := pivgo.RetiredKeyManagementSlot(0x85)
	slot86, _ := pivgo.RetiredKeyManagementSlot(0x86)
	b.must(yk.SetPrivateKeyInsecure(management, slot85, imported,
		pivgo.Key{Algorithm: pivgo.AlgorithmEC256, PINPolicy: pivgo.PINPolicyOnce, TouchPolicy: pivgo.TouchPolicyNever}))
	_, err = yk.GenerateKey(management, slot86, pivgo.Key{Algorithm: pivgo.AlgorithmEC384, PINPolicy: pivgo.PINPolicyOnce,
		TouchPolicy: pivgo.TouchPolicyNever})
	b.must(err)
	b.must(yk.Close())
	b.refuses([]string{"the key in slot 85 was imported"}, "--name", "second", "--slot", "85", "--adopt")
	b.refuses([]string{"the key in slot 86 is P-384, want P-256"}, "--name", "second", "--slot", "86", "--adopt")
	mark := len(b.card.PINTries())
	b.must(os.WriteFile(filepath.Join(b.Dir, "piv-pin"), []byte("000000"), 0o600))
	b.must(os.Chmod(filepath.Join(b.Dir, "piv-pin"), 0o644))
	b.refuses([]string{"chmod 600"}, "--name", "second", "--slot", "82", "--adopt")
	b.must(os.Chmod(filepath.Join(b.Dir, "piv-pin"), 0o600))
	b.refuses([]string{"error: PIN file " + filepath.Join(b.Dir, "piv-pin") +
		": YubiKey 4711: verifying the PIN: PIN incorrect: 2 tries are left; nothing was changed"}, "--name", "second",
		"--slot", "83")
	if n := len(b.card.PINTries()) - mark; n != 1 {
		t.Errorf("the card was shown %d PINs, want 1", n)
	}
	b.refuses([]string{"PIN incorrect: 1 try is left"}, "--name", "second", "--slot", "82", "--adopt")
	b.refusesUnplanned([]string{"last PIN try is not spent"}, "--name", "second", "--slot", "83")
	if n := len(b.card.PINTries()) - mark; n != 2 {
		t.Errorf("the card was shown %d PINs, want 2", n)
	}
	if inv := b.inventory(); len(inv.Slots) != 4 {
		t.Errorf("the card has keys that nobody asked for: %+v", inv.Slots)
	}

	other := cardsim.NewYubiKey(cardsim.Firmware571, pivSerial+1)
	b.pcscd.Insert(t, 1, other)
	b.refuses([]string{"2 YubiKeys are plugged in, 4711 and 4712", "--serial"}, "--name", "second")
}

// testForeignUses: sections that were written by hand, without a serial number or with an attestation under another's
// name, are not in the way of a key or a file being kept.
func (b *yubiKeyBench) testForeignUses() {
	b.t.Helper()
	file := filepath.Join(b.Dir, "config.toml")
	conf, err := os.ReadFile(file)
	b.must(err)
	b.configure("\n[backends.hand]\ntype = \"piv\"\nattestation = \"none.pem\"\npin_prompt = true\n")
	b.refuses([]string{`backend "hand" may have its key in that slot`}, "--name", "second", "--slot", "82", "--replace")
	b.must(os.WriteFile(file, conf, 0o600))
	b.configure("\n[backends.hand]\ntype = \"piv\"\nattestation = \"second-attestation.pem\"\npin_prompt = true\n")
	b.refuses([]string{`second-attestation.pem is the attestation of backend "hand"`}, "--name", "second", "--slot", "82")
	b.must(os.WriteFile(file, conf, 0o600))
}

// TestYubiKeySetupManagementKey: the management key is one that the card does not keep.
func TestYubiKeySetupManagementKey(t *testing.T) {
	for name, firmware := range map[string]cardsim.Firmware{"5.4.3": cardsim.Firmware543,
		"5.2.7, which does not tell what is on it": {5, 2, 7}} {
		t.Run(name, func(t *testing.T) {
			b := newYubiKeyBench(t, firmware)
			s := &piv.Setup{Serial: pivSerial}
			b.must(s.ChangePIN([]byte(piv.DefaultPIN), []byte(pivPIN)))
			b.must(s.ChangePUK([]byte(piv.DefaultPUK), []byte(pivPUK)))
			key := bytes.Repeat([]byte{7}, 24)
			yk, err := pivgo.Open(cardsim.ReaderName + " 00 00")
			b.must(err)
			b.must(yk.SetManagementKey(piv.DefaultManagementKey(), key))
			b.must(yk.Close())

			file := filepath.Join(b.Dir, "management")
			factory := "that is the factory's management key, and this YubiKey has another one"
			if name != "5.4.3" {
				factory = "the management key is the factory's, which everybody knows"
			}
			for text, says := range map[string]string{
				"secret": "not 16, 24 or 32 bytes in hex", "0708": "not 16, 24 or 32 bytes in hex",
				hex.EncodeToString(piv.DefaultManagementKey()): factory,
				fmt.Sprintf("%x", bytes.Repeat([]byte{8}, 24)): "wrong management key",
			} {
				b.must(os.WriteFile(file, []byte(text), 0o600))
				b.refuses([]string{"error: management key file " + file + ": ", says, "; nothing was changed"},
					"--management-key-file", file)
			}
			b.refuses([]string{"--management-key-file"})
			b.must(os.WriteFile(file, []byte(hex.EncodeToString(key)+"\n"), 0o600))
			b.setUpYubiKey("--management-key-file", file)
			b.works("yubikey")
		})
	}
}
