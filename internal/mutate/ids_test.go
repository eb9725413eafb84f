package main

import (
	"path/filepath"
	"testing"
)

// Each mutant of the list is one of the code as it is: a reason does not outlive the line that it is about.
func TestSurvivorsExist(t *testing.T) {
	reasons, err := readReasons("survivors.txt")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(filepath.Join("..", ".."))
	ids := map[string]int{}
	for _, dir := range []string{"internal/durable", "audit", "backends/sealed", "backends/internal/keyfile",
		"internal/zktx", "policy", "internal/secret", "session"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			lines, err := mutantsOf(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range lines {
				for _, m := range line {
					ids[m.id()]++
				}
			}
		}
	}
	for id := range reasons {
		if ids[id] == 0 {
			t.Errorf("there is no such mutant: %s", id)
		}
	}
}
