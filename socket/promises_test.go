package socket

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	inBackquotes = regexp.MustCompile("`([^`]+)`")
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
)

// Each promise of docs/threat-model.md and each fault of docs/reliability.md names a test, and each test that they name exists.
func TestEveryPromiseHasATest(t *testing.T) {
	tests := allTests(t)
	for document, heading := range map[string]string{
		"docs/threat-model.md": "| promise |",
		"docs/reliability.md":  "| fault |",
	} {
		rows := 0
		for _, row := range rowsUnder(t, document, heading) {
			rows++
			cells := strings.Split(strings.Trim(row, "| "), "|")
			named := 0
			for _, name := range inBackquotes.FindAllStringSubmatch(cells[len(cells)-1], -1) {
				if !tests[name[1]] {
					t.Errorf("%s names %s, which is no test: %s", document, name[1], row)
				}
				named++
			}
			if named == 0 {
				t.Errorf("%s names no test: %s", document, row)
			}
		}
		if rows < 30 {
			t.Errorf("%s: found %d rows under %q", document, rows, heading)
		}
	}
}

// rowsUnder returns the rows of all tables whose heading begins with the text.
func rowsUnder(t *testing.T, document, heading string) (rows []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", document))
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, heading):
			inside = true
		case !strings.HasPrefix(line, "|"):
			inside = false
		case inside && !tableRule.MatchString(line):
			rows = append(rows, line)
		}
	}
	return rows
}

// allTests returns the names of the repository's test functions, and the paths of its test scripts.
func allTests(t *testing.T) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return filepath.SkipDir
		case strings.HasSuffix(path, ".txtar"):
			tests[filepath.Base(path)] = true
			tests[strings.TrimPrefix(filepath.ToSlash(path), "../")] = true
		case strings.HasSuffix(path, "_test.go"):
			source, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, f := range testFunction.FindAllSubmatch(source, -1) {
				tests[string(f[1])] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}
