package softhsmtest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
)

// What scripts/devices says of a device. Without it, TestDevice is about a fresh SoftHSM token.
var (
	agentFlag  = flag.String("agent", "", "the agent's program; not given: it is built")
	deviceFlag = flag.String("device", "", "a configuration file with one backend, device")
	breakFlag  = flag.String("break", "", "a command that ends the device's daemon")
	mendFlag   = flag.String("mend", "", "a command that starts it again")
)

// TestDevice is the backends' suite and the whole agent on one device: create a session, sign, give a wrong PIN, lock
// and unlock, lose the device's daemon, be killed, destroy the key. The device needs a user PIN and room for ten keys.
func TestDevice(t *testing.T) {
	conf := *deviceFlag
	if conf == "" {
		conf = softHSMDevice(t)
	}
	parsed, err := config.Load(conf)
	if err != nil {
		t.Fatal(err)
	}
	backend := parsed.Backends["device"]
	if s, ok := backend.Settings.(*config.PKCS11); ok {
		t.Run("suite", func(t *testing.T) {
			backendtest.Run(t, backendtest.Options{}, func(t *testing.T) backends.Backend {
				return emptied(t, Open(t, pkcs11.Config{
					Name: "device", Module: s.Module, Env: s.Env, TokenLabel: s.Token, TokenSerial: s.Serial, Slot: s.Slot,
					PIN: secret.FromFile(s.PIN.File), OpTimeout: backend.Timeout,
				}))
			})
		})
	}
	pinFile := ""
	if pin := backend.PIN(); pin != nil {
		pinFile = pin.File
	}
	t.Run("agent", func(t *testing.T) { deviceSteps(t, conf, pinFile) })
}

// softHSMDevice is the configuration of a fresh SoftHSM token.
func softHSMDevice(t *testing.T) string {
	t.Helper()
	tok := NewToken(t)
	var env []string
	for name, value := range tok.Env() {
		env = append(env, fmt.Sprintf("%s = %q", name, value))
	}
	file := filepath.Join(tok.Dir, "device.toml")
	text := fmt.Sprintf("[backends.device]\ntype = \"pkcs11\"\nmodule = %q\ntoken = %q\npin_file = %q\nenv = { %s }\n",
		tok.Module, tok.Label, tok.PINFile, strings.Join(env, ", "))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// emptied destroys the keys that b has.
func emptied(t *testing.T, b *pkcs11.Backend) backends.Backend {
	t.Helper()
	keys, err := b.Keys(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		if err := b.Destroy(t.Context(), k.Key.URI()); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// deviceSteps is the agent's part. Steps depend on those before them, so the first that fails is the last.
func deviceSteps(t *testing.T, conf, pinFile string) {
	a, faults := newDeviceAgent(t, conf)
	var sess *api.Session
	nonce := uint64(0)
	sign := func() error {
		nonce++
		_, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, nonce))
		return err
	}
	signs := func(t *testing.T) { a.signsWithin(t, t.Name(), time.Minute, sign) }
	step := func(name string, do func(t *testing.T)) {
		if t.Failed() {
			return
		}
		t.Run(name, func(step *testing.T) {
			a.t = step
			defer func() { a.t = t }()
			do(step)
		})
	}
	step("check", func(t *testing.T) { a.Keyward("backend", "check", "device") })
	step("create", func(t *testing.T) { sess = a.activeSessionOn("device", transferSpec(1_000_000)) })
	step("sign", func(t *testing.T) {
		a.must(sign())
		const n = 200
		began := time.Now()
		for range n {
			a.must(sign())
		}
		t.Logf("%.0f signatures a second, one at a time", n/time.Since(began).Seconds())
	})
	if pinFile != "" && faults != nil {
		step("wrong PIN", func(t *testing.T) { a.wrongPIN(t, pinFile, faults); signs(t) })
	}
	step("lock and unlock", func(t *testing.T) {
		for range 2 {
			a.Keyward("lock", "--wait")
			if err := sign(); reason(err) != "lockedByOperator" {
				t.Errorf("it is locked: %v, want a refusal", err)
			}
			a.Keyward("unlock")
			signs(t)
		}
	})
	if *breakFlag != "" {
		step("daemon killed", func(t *testing.T) {
			shell(t, *breakFlag)
			if err := sign(); err != nil {
				wantRetryable(t, "without the daemon", err)
			}
			shell(t, *mendFlag)
			signs(t)
		})
	}
	step("agent killed", func(t *testing.T) { a.Kill(); a.Start(); signs(t) })
	step("destroy", func(t *testing.T) {
		a.Keyward("session", "revoke", sess.ID)
		waitFor(t, "the key to be destroyed", func() bool { return !strings.Contains(a.Keyward("key", "list"), sess.KeyURI) })
	})
}

// newDeviceAgent starts an agent with that configuration and keys that are destroyed when their session ends. A PKCS#11
// module is behind the fault module, which counts what is asked of it; faults is nil for other devices.
func newDeviceAgent(t *testing.T, conf string) (a *Agent, faults *Faults) {
	t.Helper()
	text, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	if regexp.MustCompile(`(?m)^module = `).Match(text) {
		text, faults = behindFaults(t, string(text))
	}
	a = newAgent(t, testbin.Race, tempDir(t))
	if *agentFlag != "" {
		a.bin, a.server = *agentFlag, *agentFlag
	}
	a.must(os.Mkdir(a.Dir, 0o700))
	a.must(os.WriteFile(filepath.Join(a.Dir, "config.toml"), append([]byte("session.key_grace = \"0s\"\n"), text...),
		0o600))
	a.Start()
	t.Cleanup(a.finish)
	return a, faults
}

// behindFaults puts the fault module before the module of a configuration.
func behindFaults(t *testing.T, conf string) ([]byte, *Faults) {
	t.Helper()
	shim, err := faultModule()
	if err != nil {
		t.Fatal(err)
	}
	faults, control := newFaults(t)
	line := regexp.MustCompile(`(?m)^module = (".*")$`)
	module := line.FindStringSubmatch(conf)[1]
	env := fmt.Sprintf("FAULT_MODULE = %s, FAULT_CONTROL = %q", module, control)
	conf = line.ReplaceAllLiteralString(conf, fmt.Sprintf("module = %q", shim))
	if strings.Contains(conf, "env = {") {
		conf = strings.Replace(conf, "env = {", "env = { "+env+",", 1)
	} else {
		conf = strings.Replace(conf, "type = ", fmt.Sprintf("env = { %s }\ntype = ", env), 1)
	}
	if strings.Contains(conf, "\nwrite = [") {
		conf = strings.Replace(conf, "\nwrite = [", fmt.Sprintf("\nwrite = [%q, ", control), 1)
	} else {
		conf += fmt.Sprintf("[confine]\nwrite = [%q]\n", control)
	}
	return []byte(conf), faults
}

// wrongPIN has the device be shown a wrong one: one try, which is refused, and none more by restarts and by what only
// looks. Then the right one.
func (a *Agent) wrongPIN(t *testing.T, file string, faults *Faults) {
	right, err := os.ReadFile(file)
	a.must(err)
	tries := func(what string, want uint64, do func()) {
		before := faults.On("Login").Calls()
		do()
		if got := faults.On("Login").Calls() - before; got != want {
			t.Errorf("%s: %d tries of the PIN, want %d", what, got, want)
		}
	}
	a.Keyward("lock", "--wait")
	a.must(os.WriteFile(file, []byte("999999\n"), 0o600))
	tries("unlock with a wrong PIN", 1, func() {
		if out, err := a.try("unlock"); err == nil {
			t.Errorf("unlock with a wrong PIN: %s", out)
		} else if !strings.Contains(err.Error(), "PIN incorrect") {
			t.Errorf("unlock with a wrong PIN: %v", err)
		}
	})
	tries("after a wrong PIN", 0, func() {
		for range 3 {
			a.Kill()
			a.Start()
			for _, args := range [][]string{{"status"}, {"backend", "list"}, {"key", "list"}} {
				_, _ = a.try(args...) // which may say that the device is locked
			}
		}
	})
	a.must(os.WriteFile(file, right, 0o600))
	tries("unlock with the right PIN", 1, func() { a.Keyward("unlock") })
}

func shell(t *testing.T, command string) {
	t.Helper()
	if out, err := exec.Command("sh", "-c", command).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// TestFaultModule: the module is built once, and then found, so that it can be used where there is no Go.
func TestFaultModule(t *testing.T) {
	module, err := faultModule()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(module); err != nil {
		t.Error(err)
	}
}
