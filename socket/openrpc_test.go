package socket

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Every schema that is referred to exists, and every one that exists is referred to.
func TestOpenRPCSchemas(t *testing.T) {
	doc, err := OpenRPC(Methods(), "1")
	if err != nil {
		t.Fatal(err)
	}
	var parsed struct {
		OpenRPC    string
		Methods    []struct{ Name string }
		Components struct {
			Schemas map[string]json.RawMessage
			Errors  map[string]json.RawMessage
		}
	}
	if err := json.Unmarshal(doc, &parsed); err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, ref := range regexp.MustCompile(`"\$ref":\s*"#/components/(schemas|errors)/(\w+)"`).FindAllStringSubmatch(string(doc), -1) {
		used[ref[2]] = true
		if parsed.Components.Schemas[ref[2]] == nil && parsed.Components.Errors[ref[2]] == nil {
			t.Errorf("%s %q is used and not there", ref[1], ref[2])
		}
	}
	for name := range parsed.Components.Schemas {
		if !used[name] {
			t.Errorf("schema %q is there and not used", name)
		}
	}
	if parsed.OpenRPC != "1.3.2" {
		t.Errorf("openrpc = %q", parsed.OpenRPC)
	}
}

func TestMethodTable(t *testing.T) {
	seen := make(map[string]bool)
	for _, m := range Methods() {
		if seen[m.Name] {
			t.Errorf("%s is there twice", m.Name)
		}
		seen[m.Name] = true
		if m.do == nil || m.Summary == "" || m.Result.Schema == "" {
			t.Errorf("%s is not complete", m.Name)
		}
		if m.Admin != strings.HasPrefix(m.Name, "admin_") {
			t.Errorf("%s: Admin = %v", m.Name, m.Admin)
		}
		for i := 1; i < len(m.Params); i++ {
			if m.Params[i].Required && !m.Params[i-1].Required {
				t.Errorf("%s: %s is required after one that is not", m.Name, m.Params[i].Name)
			}
		}
	}
	for _, m := range refusedMethods {
		if seen[m.Name] {
			t.Errorf("%s is refused and not", m.Name)
		}
	}
}

// rpc_discover gives the socket's own methods; the reference has all.
func TestDiscover(t *testing.T) {
	a := startAgent(t)
	var app, operator struct{ Methods []struct{ Name string } }
	if err := a.app.Call(t.Context(), &app, "rpc_discover"); err != nil {
		t.Fatal(err)
	}
	if err := a.operator.Call(t.Context(), &operator, "rpc_discover"); err != nil {
		t.Fatal(err)
	}
	reference := Markdown()
	var names []string
	for _, m := range app.Methods {
		names = append(names, m.Name)
		if !strings.Contains(reference, "| `"+m.Name+"`: ") {
			t.Errorf("the reference lacks %s", m.Name)
		}
	}
	var want []string
	for _, m := range agentMethods() {
		want = append(want, m.Name)
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("methods (-want +got):\n%s", diff)
	}
	for _, m := range operator.Methods {
		if !strings.HasPrefix(m.Name, "admin_") && !strings.HasPrefix(m.Name, "rpc_") {
			t.Errorf("admin.sock has %s", m.Name)
		}
	}
}

var update = flag.Bool("update", false, "write the reference in docs")

// The reference in docs is made of the table of methods, and is checked to be what the table says.
func TestReference(t *testing.T) {
	const begin, end = "<!-- made by: go test ./socket -run TestReference -update -->\n", "<!-- end -->\n"
	page, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(page), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatal("docs/protocol.md lacks the marks around the reference")
	}
	doc, err := OpenRPC(Methods(), "1")
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, append(doc, '\n'), "", "  "); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"../docs/protocol.md":  head + begin + "\n" + Markdown() + "\n" + end + tail,
		"../docs/openrpc.json": indented.String(),
	} {
		if *update {
			if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is not what the methods are; run go test ./socket -run TestReference -update (-want +got):\n%s", path,
				diff)
		}
	}
}

// Programs match the reasons of denials, so the app developer's guide has each of them.
func TestGuideHasEveryReason(t *testing.T) {
	guide, err := os.ReadFile("../docs/app-guide.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, dir := range []string{"../policy", "../session"} {
		files, err := filepath.Glob(dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			reasons := regexp.MustCompile(`(?m)^\s*(?:const )?Reason\w+\s*=\s*"(\w+)"|Reason: "(\w+)"|refuse\("(\w+)"`).FindAllStringSubmatch(string(source), -1)
			for _, m := range reasons {
				found++
				if reason := m[1] + m[2] + m[3]; !strings.HasSuffix(file, "_test.go") &&
					!strings.Contains(string(guide), "`"+reason+"`") {
					t.Errorf("docs/app-guide.md lacks the reason %q of %s", reason, file)
				}
			}
		}
	}
	if found < 20 {
		t.Errorf("found %d reasons only: this test looks for the wrong thing", found)
	}
}
