// Package structure tests what holds for the whole tree: which way imports go, and how long files are.
package structure

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyward/keyward"

// layers has every package, from what imports nothing of ours to the program. A package imports packages of layers
// before its own, or of its own if they are named before it.
var layers = [][]string{
	{"internal/confine", "internal/durable", "internal/owned", "internal/suggest", "internal/syncbuf", "internal/userdb"},
	{"policy", "internal/zktx", "rules"},
	{"audit", "chain"},
	{"backends", "backends/internal/keyfile", "backends/internal/kmscall", "internal/secret", "internal/pcsc",
		"backends/sealed", "backends/*"},
	{"session", "shared"},
	{"socket/api", "socket/client", "socket/client/ethsigner", "socket"},
	{"internal/config", "internal/backup", "internal/*"},
	{"internal/repair", "internal/command"},
	{"cmd/*", "examples/*"},
}

// tests has the packages that only tests and benchmarks use, and tools of developers. They import what they need, and
// no package above imports one of them.
var tests = []string{"backends/awskms/kmsfake", "backends/awskms/kmsfake/serve", "backends/azurekv/kvfake",
	"backends/gcpkms/kmsfake",
	"backends/transit/transitfake", "backends/backendtest", "backends/soft", "bench", "bench/table", "chain/chaintest",
	"deploy",
	"deploy/installtest/load", "internal/cardsim", "internal/cardsim/cmd/cardsim", "internal/fuzzed", "internal/lossyfs",
	"internal/mutate",
	"internal/simdisk", "internal/pgtest", "internal/structure", "internal/swtpm", "internal/testbin", "internal/testca",
	"softhsm-test"}

// place is where in layers a package is; its own name wins over a pattern. ok is false for a package that is nowhere.
func place(pkg string) (layer, index int, ok bool) {
	for _, match := range []func(name string) bool{
		func(name string) bool { return name == pkg },
		func(name string) bool {
			return strings.HasSuffix(name, "/*") && name[:len(name)-2] == filepath.Dir(pkg)
		},
	} {
		for layer, names := range layers {
			if index := slices.IndexFunc(names, match); index >= 0 {
				return layer, index, true
			}
		}
	}
	return 0, 0, false
}

// upward says what is wrong with the import of a package by another; "" is fine.
func upward(pkg, imported string) string {
	if slices.Contains(tests, pkg) {
		return ""
	}
	if slices.Contains(tests, imported) {
		return "it is for tests"
	}
	layer, index, ok := place(pkg)
	if !ok {
		return pkg + " is in no layer"
	}
	if l, i, ok := place(imported); !ok {
		return imported + " is in no layer"
	} else if l > layer || l == layer && i >= index {
		return "it is not below"
	}
	return ""
}

func TestImportsGoDown(t *testing.T) {
	list, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	arrows := 0
	for line := range strings.Lines(string(list)) {
		names := strings.Fields(line)
		pkg := strings.TrimPrefix(names[0], module+"/")
		for _, name := range names[1:] {
			imported, ours := strings.CutPrefix(name, module+"/")
			if !ours {
				continue
			}
			arrows++
			if wrong := upward(pkg, imported); wrong != "" {
				t.Errorf("%s imports %s: %s", pkg, imported, wrong)
			}
		}
	}
	if arrows < 100 {
		t.Errorf("only %d imports were looked at", arrows)
	}
}

func TestUpward(t *testing.T) {
	for _, arrow := range []struct {
		pkg, imported string
		fine          bool
	}{
		{"session", "audit", true},
		{"audit", "session", false},
		{"backends/piv", "backends/sealed", true},
		{"backends/sealed", "backends/piv", false},
		{"backends/piv", "backends/openpgp", false},
		{"session", "internal/zktx", true},
		{"socket", "internal/cardsim", false},
		{"internal/cardsim", "socket", true},
		{"policy", "internal/zktx", false},
		{"nowhere", "policy", false},
		{"session", "nowhere", false},
	} {
		if wrong := upward(arrow.pkg, arrow.imported); (wrong == "") != arrow.fine {
			t.Errorf("%s imports %s: %q", arrow.pkg, arrow.imported, wrong)
		}
	}
}

// Nobody reads a file of more than 400 lines in one go.
func TestFilesAreShort(t *testing.T) {
	const most = 400
	files := 0
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git" || d.Name() == "dist" || d.Name() == "bin") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if lines := bytes.Count(text, []byte("\n")); lines > most {
			t.Errorf("%s has %d lines, want %d at most", path, lines, most)
		}
		return err
	})
	if err != nil || files < 500 {
		t.Errorf("%d files were looked at: %v", files, err)
	}
}
