package socket

import (
	"encoding/json"
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
