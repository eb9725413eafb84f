package softhsmtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/cardsim"
)

// TestAgentOnPIVWithoutPIN: a key that needs no PIN needs no source of one, and the card is shown none.
func TestAgentOnPIVWithoutPIN(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 4711)
	pcscd.Insert(t, 0, card)
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey("--pin-policy", "never")
	before := len(card.PINTries())
	a.Start()
	sess := a.activeSessionOn("yubikey", transferSpec(1000))
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, 1)); err != nil {
		t.Errorf("SignTransaction = %v", err)
	}
	a.Keyward("unlock", "--backend", "yubikey")
	a.Keyward("lock")
	a.Keyward("unlock")
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, 2)); err != nil {
		t.Errorf("after lock and unlock, SignTransaction = %v", err)
	}
	if n := len(card.PINTries()) - before; n != 0 {
		t.Errorf("the card was shown %d PINs", n)
	}
}

// TestChildIsHardened: neither the agent nor the process that talks to its card dumps core, makes files for
// others, or can be read by another process of its user.
func TestChildIsHardened(t *testing.T) {
	pcscd := cardsim.StartPCSCD(t)
	pcscd.Insert(t, 0, cardsim.NewYubiKey(cardsim.Firmware543, 4711))
	a := NewAgent(t)
	a.Stop()
	a.setUpYubiKey()
	a.server = unprivileged(t, a.server)
	a.Start()
	children := a.children()
	if len(children) == 0 {
		t.Fatal("the agent has no child")
	}
	for _, pid := range append(children, fmt.Sprint(a.cmd.Process.Pid)) {
		if limits := strings.Fields(afterLine(procFile(t, pid, "limits"), "Max core file size")); len(limits) < 2 ||
			limits[0] != "0" || limits[1] != "0" {
			t.Errorf("process %s may dump core: %v", pid, limits)
		}
		if mask := strings.TrimSpace(afterLine(procFile(t, pid, "status"), "Umask:")); mask != "0077" {
			t.Errorf("process %s has umask %s", pid, mask)
		}
		if readable(t, pid) {
			t.Errorf("process %s can be read by others of its user", pid)
		}
	}

	// What the above is worth: a process that does not harden itself is readable.
	other := exec.Command(unprivileged(t, "sleep"), "60")
	a.must(other.Start())
	defer func() { other.Process.Kill(); other.Wait() }()
	for !strings.HasPrefix(procFile(t, fmt.Sprint(other.Process.Pid), "cmdline"), "sleep") {
		time.Sleep(time.Millisecond) // exec is not over
	}
	if !readable(t, fmt.Sprint(other.Process.Pid)) {
		t.Error("no process can be read: the test shows nothing")
	}
}

// children are the agent's processes that talk to devices.
func (a *Agent) children() (pids []string) {
	out, _ := exec.Command("pgrep", "-P", fmt.Sprint(a.cmd.Process.Pid)).Output() // which fails if there is none
	return strings.Fields(string(out))
}

// TestChildrenHaveNoPIN: PINs that are in the environment are in that of no backend's process, also not of another one.
func TestChildrenHaveNoPIN(t *testing.T) {
	a := NewAgent(t)
	a.Stop()
	conf, err := os.OpenFile(filepath.Join(a.Dir, "config.toml"), os.O_APPEND|os.O_WRONLY, 0)
	a.must(err)
	for _, name := range []string{"one", "two"} {
		t.Setenv("TEST_PIN_"+name, "secret-"+name)
		_, err := fmt.Fprintf(conf, "\n[backends.%s]\ntype = \"openpgp\"\nserial = 1\npin_env = \"TEST_PIN_%[1]s\"\n", name)
		a.must(err)
	}
	a.must(conf.Close())
	a.Start()
	children := a.children()
	if len(children) != 3 { // the SoftHSM backend has one too
		t.Fatalf("processes %q, want one of each backend", children)
	}
	for _, pid := range children {
		if env := procFile(t, pid, "environ"); strings.Contains(env, "secret-") || !strings.Contains(env, "PATH=") {
			t.Errorf("process %s has %q", pid, env)
		}
	}
}

func procFile(t *testing.T, pid, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// afterLine is the rest of the line that begins so.
func afterLine(text, start string) string {
	_, rest, _ := strings.Cut(text, start)
	rest, _, _ = strings.Cut(rest, "\n")
	return rest
}

// unprivileged is a program that runs the one of that name without the right to read any process, which root has.
func unprivileged(t *testing.T, program string) string {
	t.Helper()
	setpriv := ""
	if os.Getuid() == 0 {
		setpriv = "setpriv --bounding-set -sys_ptrace "
	}
	script := filepath.Join(t.TempDir(), "run")
	if err := os.WriteFile(script, fmt.Appendf(nil, "#!/bin/sh\nexec %s%s \"$@\"\n", setpriv, program),
		0o700); err != nil {
		t.Fatal(err)
	}
	return script
}

// readable reports whether another process of the same user gets what ptrace(2) guards, for which
// /proc/PID/exe stands.
func readable(t *testing.T, pid string) bool {
	t.Helper()
	return exec.Command(unprivileged(t, "readlink"), "/proc/"+pid+"/exe").Run() == nil
}
