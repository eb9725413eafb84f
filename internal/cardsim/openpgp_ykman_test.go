package cardsim

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestYkmanAcceptsOpenPGP: Yubico's own tool takes it for the OpenPGP application of a YubiKey.
func TestYkmanAcceptsOpenPGP(t *testing.T) {
	p := StartPCSCD(t)
	app := NewOpenPGP(OpenPGPConfig{Serial: 12345678})
	p.Insert(t, 0, NewYubiKey(Firmware543, 12345678, app))
	ykman := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "ykman", append([]string{"--device", "12345678", "openpgp"}, args...)...)
		cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("ykman openpgp %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	out := ykman("info")
	for _, want := range []string{"OpenPGP version: 3.4", "Application version: 5.4.3", "PIN tries remaining: 3",
		"Admin PIN tries remaining: 3"} {
		if !strings.Contains(out, want) {
			t.Errorf("ykman openpgp info does not say %q:\n%s", want, out)
		}
	}
	ykman("keys", "set-touch", "aut", "on", "--admin-pin", OpenPGPAdminPIN, "--force")
	ykman("access", "set-retries", "5", "5", "5", "--admin-pin", OpenPGPAdminPIN, "--force")
	if user, admin := app.Tries(); user != 5 || admin != 5 {
		t.Errorf("tries left: %d and %d, want 5 and 5", user, admin)
	}
	ykman("reset", "--force") // blocks both PINs by wrong ones, terminates and activates
	if user, admin := app.Tries(); user != 3 || admin != 3 {
		t.Errorf("tries left after the reset: %d and %d, want 3 and 3", user, admin)
	}
}
