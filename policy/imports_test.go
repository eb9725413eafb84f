package policy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// allowedImports is all that this package needs: nothing that reads a file, a socket or
// the environment, and no package of ours. io is there for the io.Reader that a caller hands in.
var allowedImports = map[string]bool{
	"bufio": true, "bytes": true, "encoding/binary": true, "encoding/hex": true, "encoding/json": true,
	"errors": true, "fmt": true, "io": true, "iter": true, "math": true, "slices": true, "strconv": true,
	"strings": true, "time": true, "unicode/utf16": true, "unicode/utf8": true,
	"github.com/holiman/uint256": true,
	"golang.org/x/crypto/sha3":   true,
}

// allowedTime is what may be used of package time: dates of a number of seconds, no clock.
var allowedTime = map[string]bool{"Unix": true}

func TestPackageIsPure(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		checked++
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !allowedImports[path] || spec.Name != nil {
				t.Errorf("%s imports %s", name, spec.Path.Value)
			}
		}
		ast.Inspect(file, func(n ast.Node) bool { return checkImpure(t, name, n) })
	}
	if checked == 0 {
		t.Error("no files were checked")
	}
}

// checkImpure reports uses of the clock and of standard output.
func checkImpure(t *testing.T, file string, n ast.Node) bool {
	t.Helper()
	use, ok := n.(*ast.SelectorExpr)
	if !ok {
		return true
	}
	pkg, ok := use.X.(*ast.Ident)
	if !ok {
		return true
	}
	if pkg.Name == "time" && !allowedTime[use.Sel.Name] {
		t.Errorf("%s uses time.%s", file, use.Sel.Name)
	}
	if pkg.Name == "fmt" && (strings.HasPrefix(use.Sel.Name, "Print") || strings.HasPrefix(use.Sel.Name, "Scan")) {
		t.Errorf("%s uses fmt.%s", file, use.Sel.Name)
	}
	return true
}
