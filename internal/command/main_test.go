package command

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keyward/keyward/backends/isolated"
	"github.com/keyward/keyward/internal/cardsim"
	"github.com/keyward/keyward/internal/testbin"
)

// TestMain is also the command, and the process that the command starts for a card.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == isolated.Arg {
		Main()
	}
	testscript.Main(m, map[string]func(){"keyward": Main})
}

// TestScripts runs the command as its users do. Each script has a directory of its own with
// a spec (spec.json) and a transaction within it (tx.json).
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "save": save, "begin": begin, "answered": answered, "measuring": measuring, "keys": keys,
			"port": port, "shaped": shaped,
		},
	})
}

// TestYubiKeyScripts runs each script with a YubiKey of its own in its factory state. The simulator gives each touch
// immediately.
func TestYubiKeyScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/yubikey/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("there is no script: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) { testYubiKeyScript(t, script) })
	}
}

func testYubiKeyScript(t *testing.T, script string) {
	pcscd := cardsim.StartPCSCD(t)
	card := cardsim.NewYubiKey(cardsim.Firmware543, 12345678)
	card.AutoTouch(true)
	pcscd.Insert(t, 0, card)
	roots := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cardsim.AttestationRoot().Raw})
	testscript.Run(t, testscript.Params{
		Files:               []string{script},
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv(cardsim.SocketEnv, pcscd.Socket)
			return errors.Join(setupScript(env), os.WriteFile(filepath.Join(env.WorkDir, "roots.pem"), roots, 0o600))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "dialogue": dialogue},
	})
}

const day = 24 * time.Hour

func setupScript(env *testscript.Env) error {
	spec := fmt.Sprintf(specJSON, time.Now().Add(30*day).Unix())
	for name, data := range map[string]string{"spec.json": spec, "tx.json": txJSON} {
		if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	if err := plainCommands(env); err != nil {
		return err
	}
	env.Setenv("HOME", env.WorkDir)
	env.Setenv("GORACE", "atexit_sleep_ms=0") // the race detector would pause for a second at each exit
	env.Setenv("TZ", "UTC")
	env.Setenv("UID", strconv.Itoa(os.Getuid()))
	return nil
}

// plainCommands has scripts run the program without the race detector, which makes each start slow, but for commands
// that work in parallel.
func plainCommands(env *testscript.Env) error {
	race, err := exec.LookPath("keyward") // this test's own program
	if err != nil {
		return err
	}
	plain, err := testbin.Plain()
	if err != nil {
		return err
	}
	dir := filepath.Join(env.WorkDir, ".program")
	script := fmt.Sprintf("#!/bin/sh\ncase $1 in serve | bench | top) exec '%s' \"$@\" ;; *) exec '%s' \"$@\" ;; esac\n",
		race, plain)
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "keyward"), []byte(script),
		0o700)); err != nil {
		return err
	}
	env.Setenv("PATH", dir+string(os.PathListSeparator)+env.Getenv("PATH"))
	return nil
}

// exits CODE ARG...: keyward ARG... ends with that exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits code arg...")
	}
	code := 0
	err := ts.Exec("keyward", args[1:]...)
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got := strconv.Itoa(code); got != args[0] {
		ts.Fatalf("exit code %s, want %s", got, args[0])
	}
}

// save NAME KEY: sets the variable NAME to KEY's value in the JSON object on stdout.
func save(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: save name key")
	}
	var members map[string]json.RawMessage
	text := strings.TrimSpace(ts.ReadFile("stdout"))
	if strings.HasPrefix(text, "[") { // a list of one
		text = text[1 : len(text)-1]
	}
	ts.Check(json.Unmarshal([]byte(text), &members))
	ts.Setenv(args[0], strings.Trim(string(members[args[1]]), `"`))
}

// port NAME: sets the variable NAME to a port of the loopback interface that was free a moment ago.
func port(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: port name")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	_, number, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	ts.Check(l.Close())
	ts.Setenv(args[0], number)
}

// begin NAME: sets the variable NAME_BEGIN to the first characters of NAME's value.
func begin(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: begin name")
	}
	ts.Setenv(args[0]+"_BEGIN", ts.Getenv(args[0])[:10])
}

const specJSON = `{
  "expiresAt": "%d",
  "feeLimit": {"limitType": "Lifetime", "limit": "1000000000000000000", "period": "0"},
  "callPolicies": [{
    "target": "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",
    "selector": "0x40c10f19",
    "maxValuePerUse": "0",
    "valueLimit": {"limitType": "Unlimited", "limit": "0", "period": "0"},
    "constraints": [{
      "condition": "LessOrEqual",
      "index": "1",
      "refValue": "0x0000000000000000000000000000000000000000000000000000000000000005",
      "limit": {"limitType": "Lifetime", "limit": "5", "period": "0"}
    }]
  }],
  "transferPolicies": []
}
`

const txJSON = `{
  "from": "0x1111111111111111111111111111111111111111",
  "to": "0xC4822AbB9F05646A9Ce44EFa6dDcda0Bf45595AA",
  "data": "0x40c10f19000000000000000000000000a16081f360e3847006db660bae1c6d1b2e17ec2a0000000000000000000000000000000000000000000000000000000000000003",
  "gas": "300000",
  "maxFeePerGas": "25000000",
  "nonce": 0,
  "chainId": 11124
}
`
