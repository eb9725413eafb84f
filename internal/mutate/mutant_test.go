package main

import (
	"bytes"
	"go/parser"
	"go/token"
	"testing"
)

// A seed draws the same mutants each time, no line twice, and each is Go that differs from the original.
func TestDraw(t *testing.T) {
	dirs := []string{".", "../durable", "../../policy"}
	sample, err := draw(3, 200, dirs)
	if err != nil {
		t.Fatal(err)
	}
	again, err := draw(3, 200, dirs)
	if err != nil || len(sample) != 200 || len(again) != 200 {
		t.Fatalf("%d and %d mutants, %v, want 200", len(sample), len(again), err)
	}
	other, err := draw(4, 200, dirs)
	if err != nil {
		t.Fatal(err)
	}
	type fileLine struct {
		file string
		line int
	}
	seen, same := map[fileLine]bool{}, 0
	for i, m := range sample {
		if m.String() != again[i].String() {
			t.Errorf("mutant %d is %v, and then %v", i, m, again[i])
		}
		if m.String() == other[i].String() {
			same++
		}
		if at := (fileLine{m.file, m.line}); seen[at] {
			t.Errorf("two mutants of %v", at)
		} else {
			seen[at] = true
		}
		if bytes.Equal(m.source(), m.text) {
			t.Errorf("%v changes nothing", m)
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, m.source(), 0); err != nil {
			t.Errorf("%v: %v", m, err)
		}
	}
	if same > 100 {
		t.Errorf("another seed draws %d of the same mutants", same)
	}
}
