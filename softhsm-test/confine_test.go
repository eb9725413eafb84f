package softhsmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestConfined: a library that was taken over, in a process of its own or in the agent's, changes no file but its
// token's, starts no program, and reaches no other process and nothing of the system. Without confinement the same
// tries succeed.
func TestConfined(t *testing.T) {
	for _, tt := range []struct {
		process  string
		confined bool
	}{{"own", true}, {"agent", true}, {"own", false}} {
		t.Run(fmt.Sprintf("process %s, confined %t", tt.process, tt.confined),
			func(t *testing.T) { testConfined(t, tt.process, tt.confined) })
	}
}

func testConfined(t *testing.T, process string, confined bool) {
	a := NewAgent(t)
	a.Stop()
	out := t.TempDir()
	files := []string{"/etc/shadow", filepath.Join(out, "file"), filepath.Join(a.Dir, "config.toml"),
		"/usr/lib/keyward-test"}
	if process == "own" { // the agent itself changes its state
		files = append(files, filepath.Join(a.Dir, "state", "audit.jsonl"), filepath.Join(a.Dir, "state", "locked"))
	}
	if !confined { // of these, only what a test may change
		files = []string{filepath.Join(out, "file"), filepath.Join(a.Dir, "config.toml"),
			filepath.Join(a.Dir, "state", "audit.jsonl")}
	}
	faults := a.addFaulty(fmt.Sprintf("process = %q", process))
	config := filepath.Join(a.Dir, "config.toml")
	data, err := os.ReadFile(config)
	a.must(err)
	text := strings.Replace(string(data), `"FAULT_CONTROL"`,
		fmt.Sprintf(`"FAULT_FILES" = %q, "FAULT_CONTROL"`, strings.Join(files, " ")), 1)
	a.must(os.WriteFile(config, []byte(text), 0o600))
	if !confined {
		a.configureIn("confine", "files = false\nsystem_calls = false")
	}
	a.Start()
	session := a.activeSessionOn("faulty", transferSpec(1_000_000))
	faults.On("Sign").Set(Intrude, 0, 1)
	if _, err := a.Client().SignTransaction(t.Context(), transferTx(session.ID, 0)); err != nil {
		t.Fatalf("the library signs nothing: %v\n%s", err, a.log)
	}
	did, tried := faults.Intruded.Load(), faults.Tried.Load()
	if want := uint64(len(files) + 9); tried != want {
		t.Fatalf("%d tries, want %d", tried, want)
	}
	const calls = 3 // programs, signals and keys: what every user may do
	possible := uint64(1)<<(len(files)+calls) - 1
	if confined && did != 0 {
		t.Errorf("tries %b of %v, a program, a signal, keyctl, userfaultfd, a packet socket, ptrace, mount, bpf, unshare "+
			"succeeded", did, files)
	}
	if !confined && did&possible != possible {
		t.Errorf("unconfined, tries %b succeeded, want at least %b: the tries are wrong", did, possible)
	}
	status := a.Keyward("status")
	for _, word := range []string{"landlock", "seccomp"} {
		if strings.Contains(status, word) != confined || confined && !strings.Contains(a.log.String(), word) {
			t.Errorf("confined %t: status and log on %s:\n%s%s", confined, word, status, a.log)
		}
	}
	for _, word := range []string{"no core dumps", "no new privileges"} {
		if !strings.Contains(status, word) {
			t.Errorf("status does not say %q:\n%s", word, status)
		}
	}
}
