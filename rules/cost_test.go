package rules

import (
	"strings"
	"testing"

	"github.com/keyward/keyward/internal/zktx"
)

// TestLongArgumentIsTooCostly gives an expression that is cheap for the size that is assumed an argument that is far
// larger. The rule can't be evaluated, and denies.
func TestLongArgumentIsTooCostly(t *testing.T) {
	s, err := Compile([]Rule{{Name: "note", Function: "note(string text)",
		When: `args.text.contains("steal") || args.text.contains("drain")`}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := parseFunction("note(string text)")
	if err != nil {
		t.Fatal(err)
	}
	judge := func(text string) *Verdict {
		args, err := f.inputs.Pack(text)
		if err != nil {
			t.Fatal(err)
		}
		return s.Judge(&Input{Tx: &zktx.Transaction{Data: append(f.selector[:], args...)}})
	}
	if v := judge("hello"); v.Denied != nil {
		t.Errorf("a short text: %v", v.Denied)
	}
	if v := judge(strings.Repeat("a", 1<<20)); v.Denied == nil ||
		!strings.Contains(v.Denied.Detail, "cost limit exceeded") {
		t.Errorf("a text of 1 MiB: %+v", v.Denied)
	}
}
