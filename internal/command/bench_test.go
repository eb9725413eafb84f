package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// measuring: waits until a benchmark of backend softhsm has signatures through its agent.
func measuring(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: measuring")
	}
	for range 3000 {
		trail, _ := os.ReadFile(ts.MkAbs("agent/state/bench/softhsm/audit.jsonl")) // not there at first
		if bytes.Count(trail, []byte(`"event":"sign.granted"`)) > 10 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	ts.Fatalf("no signature after 30 s")
}

// keys N: the SoftHSM token holds N key pairs, each of which is two files of its.
func keys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keys number")
	}
	files, err := filepath.Glob(ts.MkAbs("agent/softhsm/tokens/*/*.object"))
	ts.Check(err)
	n := 0
	for _, name := range files {
		if filepath.Base(name) != "token.object" {
			n++
		}
	}
	if got := strconv.Itoa(n / 2); got != args[0] || n%2 != 0 {
		ts.Fatalf("the token has the files of %s keys, want %s:\n%s", got, args[0], strings.Join(files, "\n"))
	}
}

// Every type of backend is either free to make a key in, as a PKCS#11 token is, and a directory of files that a TPM or
// Vault opens, or says what one costs.
func TestBenchKnowsCosts(t *testing.T) {
	for name := range openers {
		if (costs[name] == "") != (name == "pkcs11" || name == "tpm" || name == "transit") {
			t.Errorf("backend type %s: costs %q", name, costs[name])
		}
	}
}
