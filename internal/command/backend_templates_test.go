package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyward/keyward/internal/config"
)

// The template of each backend that is known by name passes keyward config check. Its page links it and says what was
// tried.
func TestBackendTemplates(t *testing.T) {
	const docs = "../../docs/backends"
	templates, err := filepath.Glob(docs + "/templates/*.toml")
	if err != nil || len(templates) == 0 {
		t.Fatalf("no templates: %v", err)
	}
	pages := map[string]bool{}
	for _, template := range templates {
		name := strings.TrimSuffix(filepath.Base(template), ".toml")
		pages[name] = true
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(template)
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
			var stdout, stderr bytes.Buffer
			if code := (&tool{stdout: &stdout, stderr: &stderr}).run(t.Context(),
				[]string{"config", "check", file}); code != exitOK {
				t.Errorf("config check exits with %d:\n%s", code, &stderr)
			}
			conf, err := config.Load(file)
			if err != nil {
				t.Fatal(err)
			}
			if b := conf.Backends["hsm"]; b == nil || b.Type != "pkcs11" {
				t.Errorf("backends are %v, want a PKCS#11 backend hsm", conf.Backends)
			}
			page, err := os.ReadFile(filepath.Join(docs, name+".md"))
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range []string{"(templates/" + name + ".toml)", "\n## Setup\n", "\n## What was tried\n"} {
				if !strings.Contains(string(page), want) {
					t.Errorf("the page has no %q", want)
				}
			}
		})
	}
	for _, name := range []string{"yubihsm2", "cloudhsm", "luna", "nshield", "utimaco", "opencryptoki", "wolfpkcs11",
		"nitrokey", "p11-kit"} {
		if !pages[name] {
			t.Errorf("there is no template for %s", name)
		}
	}
}
