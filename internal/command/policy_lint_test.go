package command

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const registryVectors = "../../policy/testdata/registry-vectors.jsonl.gz"

// What the command prints is what the SDK decided, for all recorded cases, and exactly four keys a line.
func TestLintAgreesWithTheSDK(t *testing.T) {
	var out, errs bytes.Buffer
	tool := &tool{stdin: os.Stdin, stdout: &out, stderr: &errs}
	if code := tool.run(t.Context(), []string{"policy", "lint", "--json", "--cases", registryVectors}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	f, err := os.Open(registryVectors)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	type verdict struct {
		Case     string
		OK       bool
		Error    string
		Warnings []struct{ Code, Path, Reason string }
	}
	lines := json.NewDecoder(&out)
	lines.DisallowUnknownFields()
	compared := 0
	for recorded := bufio.NewScanner(unpacked); recorded.Scan(); compared++ {
		var want struct {
			Name  string
			OK    bool
			Error string
		}
		if err := json.Unmarshal(recorded.Bytes(), &want); err != nil {
			t.Fatal(err)
		}
		var got verdict
		if err := lines.Decode(&got); err != nil {
			t.Fatalf("%s: %v", want.Name, err)
		}
		if got.Warnings == nil {
			t.Errorf("%s: warnings are null, want a list", want.Name)
		}
		got.Warnings = nil
		if d := cmp.Diff(verdict{Case: want.Name, OK: want.OK, Error: want.Error}, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", want.Name, d)
		}
	}
	if lines.More() || compared != 162 {
		t.Errorf("compared %d cases, want 162; more lines: %v", compared, lines.More())
	}
}
