package command

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/policy"
)

const vectors = "../../policy/testdata/session-vectors.jsonl.gz"

// What the command prints is what the contract decided, for all recorded steps.
func TestSimulateAgreesWithTheContract(t *testing.T) {
	var out, errs bytes.Buffer
	tool := &tool{stdin: os.Stdin, stdout: &out, stderr: &errs}
	if code := tool.run(t.Context(), []string{"policy", "simulate", "--json", "--cases", vectors}); code != exitOK {
		t.Fatalf("exit code %d: %s", code, &errs)
	}
	lines := json.NewDecoder(&out)
	lines.DisallowUnknownFields()
	recorded := recordedSteps(t)
	for _, want := range recorded {
		var got simulated
		if err := lines.Decode(&got); err != nil {
			t.Fatalf("step %d of %s: %v", want.Step, want.Case, err)
		}
		if want.Digest == (policy.Hash{}) { // not recorded for this step
			want.Digest = got.Digest
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("step %d of %s (-want +got):\n%s", want.Step, want.Case, d)
		}
	}
	if lines.More() || len(recorded) != 5717 {
		t.Errorf("compared %d steps, want 5717; more lines: %v", len(recorded), lines.More())
	}
}

// recordedSteps is what the contract decided, as the command should print it.
func recordedSteps(t *testing.T) (steps []simulated) {
	t.Helper()
	f, err := os.Open(vectors)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	scanner := bufio.NewScanner(unpacked)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var c struct {
			Name        string
			SessionHash policy.Hash
			Steps       []struct {
				Allow  bool
				Reason string
				Digest policy.Hash
			}
		}
		if err := json.Unmarshal(scanner.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		for i, s := range c.Steps {
			steps = append(steps, simulated{c.Name, i, s.Allow, s.Reason, c.SessionHash, s.Digest})
		}
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return steps
}
