package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Of a package with known gaps, the run finds these. Changes in copies of functions with labels, with results and
// without, in one line build, and the value of a variable gets a build of its own.
func TestRun(t *testing.T) {
	dir := t.TempDir()
	o := &options{seed: 1, n: 100, state: filepath.Join(dir, "state"), limit: 5 * time.Second, jobs: 2,
		reasons: "survivors.txt"}
	sample := filepath.Join("testdata", "sample")
	if err := o.run([]string{sample}); err != nil {
		t.Fatal(err)
	}
	tried, err := readState(o.state)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{ // by line, each with the one change that seed 1 draws
		"4":  "killed",
		"9":  "killed",
		"11": "killed",
		"13": "survived",
		"16": "killed",
		"22": "does not build",
		"26": "survived",
		"27": "survived",
	}
	for m, res := range tried {
		if line := strings.Split(m, ":")[1]; want[line] != res {
			t.Errorf("%s: %s, want %q", m, res, want[line])
		}
	}
	if len(tried) != len(want) {
		t.Errorf("%d mutants, want %d", len(tried), len(want))
	}

	// A second run with the same state tries nothing.
	before, err := os.ReadFile(o.state)
	if err != nil {
		t.Fatal(err)
	}
	if err := o.run([]string{sample}); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(o.state); err != nil || string(after) != string(before) {
		t.Errorf("the second run changed the state to %s, %v", after, err)
	}
}

// Tests run quick ones first, in parts that grow; what fails is found in a test's output.
func TestBatches(t *testing.T) {
	var tests []*test
	for i, ms := range []int{100, 300, 900, 2000, 9000, 9000} {
		tests = append(tests, &test{Name: "Test" + string(rune('A'+i)), Time: time.Duration(ms) * time.Millisecond})
	}
	var sizes []int
	for _, part := range batches(tests) {
		sizes = append(sizes, len(part))
	}
	if want := []int{2, 2, 1, 1}; !slices.Equal(sizes, want) {
		t.Errorf("batches of %v, want %v", sizes, want)
	}
	for out, want := range map[string]string{
		"--- FAIL: TestB (0.00s)\n    --- FAIL: TestB/TestC (0.00s)\n":              "TestB",
		"panic: test timed out after 1s\n\trunning tests:\n\t\tTestC/x (1s)\n":      "TestC",
		"panic: runtime error\n\ngoroutine 1 [running]:\nexample.TestNot(...)\n\tx": "TestA TestB",
	} {
		var names []string
		for _, f := range failed([]byte(out), tests[:2+strings.Count(want, "C")]) {
			names = append(names, f.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("failed(%q) = %s, want %s", out, got, want)
		}
	}
}

func TestReadReasons(t *testing.T) {
	path := filepath.Join(t.TempDir(), "reasons")
	read := func(text string) (map[string]string, error) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return readReasons(path)
	}
	got, err := read("# comment\n\na.go: x < y: \"<\" → \"<=\"\n\tx is never y,\n\tnor more.\n")
	if err != nil || len(got) != 1 || got["a.go: x < y: \"<\" → \"<=\""] != "x is never y, nor more." {
		t.Errorf("got %q, %v", got, err)
	}
	for _, bad := range []string{"\treason\n", "a\n", "a\n\tr\na\n\tr\n"} {
		if _, err := read(bad); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
