package cardsim

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// pinentry answers as a person who knows both PINs: gpg-agent asks it for one at a time.
const pinentry = `#!/bin/sh
echo OK
while read -r command text; do
	case $command in
	SETDESC | SETPROMPT) case $text in *Admin*) pin=` + OpenPGPAdminPIN + ` ;; *) pin=` + OpenPGPUserPIN + ` ;; esac ;;
	GETPIN) echo "D $pin" ;;
	esac
	echo OK
	[ "$command" != BYE ] || exit 0
done
`

// gnupg runs gpg, its agent and its scdaemon in a home of their own. They end with the test.
func gnupg(t *testing.T, p *PCSCD) (run func(name string, args ...string) string) {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg") // short: there are sockets in it
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "GNUPGHOME="+home, SocketEnv+"="+p.Socket, "LC_ALL=C.UTF-8")
	run = func(name string, args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), name, args...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%s %s: %v", name, strings.Join(args, " "), err)
		}
		return string(out)
	}
	t.Cleanup(func() {
		cmd := exec.Command("gpgconf", "--kill", "all")
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("gpgconf --kill all: %v\n%s", err, out)
		}
		os.RemoveAll(home)
	})
	for name, content := range map[string]string{
		"scdaemon.conf":  "disable-ccid\n",
		"gpg-agent.conf": "pinentry-program " + filepath.Join(home, "pinentry") + "\n",
		"pinentry":       pinentry,
	} {
		if err := os.WriteFile(filepath.Join(home, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return run
}

// TestGPGAcceptsOpenPGP: gpg knows the card for what it is, changes it, and generates
// keys on it and signs with them.
func TestGPGAcceptsOpenPGP(t *testing.T) {
	p := StartPCSCD(t)
	app := NewOpenPGP(OpenPGPConfig{Serial: 12345678})
	p.Insert(t, 0, NewCard(app))
	run := gnupg(t, p)
	wantIn := func(out string, wants ...string) {
		t.Helper()
		for _, want := range wants {
			if !strings.Contains(out, want) {
				t.Fatalf("gpg does not say %q:\n%q", want, out)
			}
		}
	}
	wantIn(run("gpg", "--card-status"),
		"Serial number ....: 12345678", "Version ..........: 3.4", "Manufacturer .....: Yubico",
		"PIN retry counter : 3 0 3", "Key attributes ...: rsa2048 rsa2048 rsa2048",
		"Signature key ....: [none]", "KDF setting ......: off", "Signature PIN ....: forced")
	for _, curve := range []string{"nistp256", "secp256k1"} {
		wantIn(run("gpg-connect-agent",
			"SCD SETATTR KEY-ATTR --force 1 19 "+curve, "SCD SETATTR KEY-ATTR --force 3 19 "+curve,
			"SCD SETATTR DISP-NAME Lovelace<<Ada", "SCD SETATTR UIF-3 %02%20",
			"SCD GENKEY --force 1", "SCD GENKEY --force 3", "/bye"),
			"S KEY-DATA q 04")
		digest := strings.Repeat("5A", 32)
		const sha256Info = "3031300D060960864801650304020105000420" // which scdaemon cuts off again
		for command, data := range map[string]string{"PKSIGN OPENPGP.1": digest, "PKAUTH OPENPGP.3": sha256Info + digest} {
			if out := run("gpg-connect-agent", "SCD SETDATA "+data, "SCD "+command, "/bye"); !strings.Contains(out, "D ") {
				t.Errorf("%s: gpg has no signature by %s: %q", curve, command, out)
			}
		}
		wantIn(run("gpg", "--card-status"), "Name of cardholder: Ada Lovelace", "Key attributes ...: "+curve+" rsa2048 "+
			curve,
			"Signature counter : 1", "PIN retry counter : 3 0 3")
	}
	if user, admin := app.Tries(); user != 3 || admin != 3 {
		t.Errorf("tries left: %d and %d, want 3 and 3", user, admin)
	}
}
