package softhsmtest

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

// edit replaces text in the agent's configuration, which may be running.
func (a *Agent) edit(pairs ...string) {
	a.t.Helper()
	file := filepath.Join(a.Dir, "config.toml")
	data, err := os.ReadFile(file)
	if err != nil {
		a.t.Fatal(err)
	}
	text := strings.NewReplacer(pairs...).Replace(string(data))
	if text == string(data) {
		a.t.Fatalf("nothing to replace of %q in\n%s", pairs, data)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// Under load, the configuration is replaced again and again: limits, margins, chains, metrics, and the backend itself,
// which is opened again each time. Bad files come between. No request is refused, and every signature is in the trail.
func TestReloadUnderLoad(t *testing.T) {
	const workers, rounds = 4, 3
	a := NewPlainAgent(t, t.TempDir())
	a.configureIn("backends.softhsm", "timeout = \"10s\"")
	a.configureIn("limits", "depth = 64")
	a.configureIn("metrics", "listen = [\"m0.sock\"]")
	a.Keyward("reload")
	sess := a.ActiveSession(transferSpec(1_000_000_000), userAccount)
	var signed atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for w := range workers {
		load.Go(func() {
			c, err := client.Dial(t.Context(), a.Socket())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			for nonce := uint64(w) << 24; ; nonce++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := c.SignTransaction(t.Context(), transferTx(sess.ID, nonce)); err != nil {
					t.Errorf("worker %d, nonce %d: %v", w, nonce, err)
					return
				}
				signed.Add(1)
			}
		})
	}
	for i := range rounds {
		before := signed.Load()
		a.edit(fmt.Sprintf("timeout = \"%ds\"\n", 10+i), fmt.Sprintf("timeout = \"%ds\"\n", 11+i),
			fmt.Sprintf("depth = %d", 64+i), fmt.Sprintf("depth = %d", 65+i), fmt.Sprintf("m%d.sock", i),
			fmt.Sprintf("m%d.sock", i+1))
		if out := a.Keyward("reload", "--json"); !strings.Contains(out, `"changed":["backends.softhsm","limits","metrics"]`) {
			t.Errorf("reload printed %s", out)
		}
		if _, err := os.Stat(filepath.Join(a.Dir, fmt.Sprintf("m%d.sock", i))); err == nil {
			t.Errorf("round %d: the metrics' old socket is still there", i)
		}
		a.edit("[limits]\n", "[limits]\nnonsense = 1\n")
		if out, err := a.try("reload"); err == nil || !strings.Contains(err.Error(), "config.toml:") ||
			!strings.Contains(err.Error(), `unknown key "nonsense"`) {
			t.Errorf("a bad file: %s, %v, want its place and the key", out, err)
		}
		a.edit("[limits]\nnonsense = 1\n", "[limits]\n")
		waitFor(t, "signatures after the reload", func() bool { return signed.Load() >= before+workers || t.Failed() })
	}
	close(stop)
	load.Wait()
	a.Keyward("audit", "verify")
	if used := a.transferred(sess.ID); int64(used) != signed.Load() {
		t.Errorf("%d signatures of 1 wei each arrived, %d wei are counted", signed.Load(), used)
	}
	t.Logf("%d signatures over %d reloads", signed.Load(), rounds)
}

// What a running process can't change is refused as a whole, with its place and the reason, and so is a backend that is
// not what the file says.
func TestReloadRefuses(t *testing.T) {
	a := NewAgent(t)
	sess := a.ActiveSession(transferSpec(1000), userAccount)
	config, err := os.ReadFile(filepath.Join(a.Dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	section := "[backends.softhsm]\n"
	_, own, _ := strings.Cut(string(config), section)
	own, _, _ = strings.Cut(own, "\n\n")
	library := filepath.Join(t.TempDir(), "lib.so")
	if err := os.WriteFile(library, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		replace []string
		want    string
	}{
		"a socket": {[]string{"# socket = \"agent.sock\"", `socket = "other.sock"`},
			"agent.socket: a change takes effect only when the agent is started again"},
		"what it gave up": {[]string{"# system_calls = true", "system_calls = false"},
			"confine.system_calls: a change takes effect only"},
		"a backend with live sessions": {[]string{section, "[backends.other]\n"}, sess.ID},
		"a token that is not there":    {[]string{"token = ", "token = \"nowhere\"\n# "}, `backend "softhsm": `},
		"a wrong PIN":                  {[]string{"pin_file = \"", "pin_file = \"wrong-"}, `backend "softhsm": `},
		"a PIN from the environment": {[]string{section, "[backends.second]\n" +
			strings.Replace(own, "pin_file", "pin_env", 1) + "\n\n" + section}, "backends.second.pin_env"},
		"a library it gave up": {[]string{section, "[backends.second]\ntype = \"pkcs11\"\nmodule = \"" + library +
			"\"\ntoken = \"x\"\npin_prompt = true\n\n" + section}, "gave up"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(filepath.Join(a.Dir, "wrong-pin"), []byte("000000\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			a.edit(tt.replace...)
			defer func() {
				if err := os.WriteFile(filepath.Join(a.Dir, "config.toml"), config, 0o600); err != nil {
					t.Fatal(err)
				}
			}()
			_, err := a.try("reload")
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "config.toml:") {
				t.Errorf("reload: %v, want %q and its place", err, tt.want)
			}
			if _, err := a.Client().SignTransaction(t.Context(), transferTx(sess.ID, uint64(len(name)))); err != nil {
				t.Errorf("after the refused reload: %v", err)
			}
		})
	}
	if keys := a.Keyward("key", "list", "--json"); strings.Count(keys, `"keyUri"`) != 1 {
		t.Errorf("keys are left of the tests of backends:\n%s", keys)
	}
}

// A backend that is added is used without a restart, and one that no session needs goes.
func TestReloadAddsAndRemovesABackend(t *testing.T) {
	a := NewAgent(t)
	config, err := os.ReadFile(filepath.Join(a.Dir, "config.toml"))
	if err != nil {
		t.Fatal(err)
	}
	section := "[backends.softhsm]\n"
	_, own, _ := strings.Cut(string(config), section)
	own, _, _ = strings.Cut(own, "\n\n")
	a.edit(section, "[backends.second]\n"+own+"\n\n"+section)
	a.Keyward("reload")
	spec := filepath.Join(t.TempDir(), "spec.json")
	if err := os.WriteFile(spec, []byte(transferSpec(1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	var sess api.Session
	out := a.Keyward("session", "create", "--spec", spec, "--account", userAccount, "--chain", "abstract-testnet",
		"--backend", "second", "--json")
	if err := json.Unmarshal([]byte(out), &sess); err != nil || sess.Backend != "second" {
		t.Fatalf("session create printed %s: %v", out, err)
	}
	if err := os.WriteFile(filepath.Join(a.Dir, "config.toml"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := a.try("reload"); err == nil || !strings.Contains(err.Error(),
		`backend "second" is missing, and 1 sessions`) {
		t.Errorf("removing a backend with a session: %v", err)
	}
	a.Keyward("session", "revoke", sess.ID)
	a.Keyward("reload")
	if status := a.Status(); strings.Contains(status, "second") {
		t.Errorf("status after the removal:\n%s", status)
	}
	if out := a.Keyward("audit", "tail", "-n", "3"); !strings.Contains(out, "agent.reloaded") {
		t.Errorf("the trail ends with\n%s", out)
	}
}
