package socket

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// statementsFile names, for each sentence of the documents that apps are written by, the tests that fail when it is
// false. A sentence that states no rule has "none" and the reason instead.
const statementsFile = "testdata/statements.txt"

// Each sentence and each table row of docs/protocol.md and docs/app-guide.md has a test, or states no rule. So no
// statement is added or changed without a test for it being named.
func TestEveryStatementHasATest(t *testing.T) {
	for document, named := range readStatements(t) {
		found := statementsOf(t, document)
		for _, s := range found {
			if _, ok := named[s]; !ok {
				t.Errorf("%s says: %s\nName a test that fails when that is false, in socket/%s", document, s, statementsFile)
			}
		}
		for _, s := range slices.Sorted(maps.Keys(named)) {
			if !slices.Contains(found, s) {
				t.Errorf("socket/%s has a statement that is not in %s any more: %s", statementsFile, document, s)
			}
			for _, test := range named[s] {
				checkTestExists(t, test)
			}
		}
	}
}

// readStatements reads, for each document, the tests of each statement.
func readStatements(t *testing.T) map[string]map[string][]string {
	t.Helper()
	text, err := os.ReadFile(statementsFile)
	if err != nil {
		t.Fatal(err)
	}
	documents := map[string]map[string][]string{}
	var document map[string][]string
	statement := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "# "):
			document = map[string][]string{}
			documents[line[2:]] = document
		case strings.HasPrefix(line, "\t"):
			document[statement] = append(document[statement], line[1:])
		case line != "":
			if _, ok := document[line]; ok {
				t.Errorf("%s has this statement twice: %s", statementsFile, line)
			}
			statement = line
			document[statement] = nil
		}
	}
	for name, statements := range documents {
		for s, tests := range statements {
			if len(tests) == 0 {
				t.Errorf("%s: %s: no test is named for: %s", statementsFile, name, s)
			}
		}
	}
	if len(documents) != 2 {
		t.Fatalf("%s has %d documents, want 2", statementsFile, len(documents))
	}
	return documents
}

var (
	sentenceEnd = regexp.MustCompile("[.?] +[A-Z`*\"0-9(\\[]")
	tableRule   = regexp.MustCompile(`^\|[-| ]+\|$`)
	listItem    = regexp.MustCompile(`^(- |\d+\. )`)
	spaces      = regexp.MustCompile(`\s+`)
)

// statementsOf splits a document into sentences and table rows. It leaves out headings, code, and what lies between marks: the
// generated reference, and tables that a test reads from the document.
func statementsOf(t *testing.T, document string) (found []string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", document))
	if err != nil {
		t.Fatal(err)
	}
	paragraph, skip, code := "", false, false
	flush := func() {
		rest := strings.TrimSpace(spaces.ReplaceAllString(paragraph, " "))
		for rest != "" {
			end := len(rest)
			if at := sentenceEnd.FindStringIndex(rest); at != nil {
				end = at[0] + 1
			}
			found = append(found, rest[:end])
			rest = strings.TrimSpace(rest[end:])
		}
		paragraph = ""
	}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "<!-- end"):
			skip = false
		case strings.HasPrefix(line, "<!--"):
			flush()
			skip = true
		case strings.HasPrefix(line, "```"):
			flush()
			code = !code
		case skip, code:
		case line == "", strings.HasPrefix(line, "#"):
			flush()
		case strings.HasPrefix(line, "|"):
			flush()
			if tableRule.MatchString(line) {
				found = found[:len(found)-1] // the row above it is the table's heading
			} else {
				found = append(found, line)
			}
		default:
			if listItem.MatchString(line) {
				flush()
				line = listItem.ReplaceAllString(line, "")
			}
			paragraph += " " + line
		}
	}
	flush()
	return found
}

// checkTestExists checks a name in the file: "none: REASON", "DIR.TestName", a script's path, or "PATH.test.js: TITLE".
func checkTestExists(t *testing.T, name string) {
	t.Helper()
	if reason, ok := strings.CutPrefix(name, "none: "); ok && reason != "" {
		return
	}
	if path, title, ok := strings.Cut(name, ": "); ok {
		if source, err := os.ReadFile(filepath.Join("..", path)); err != nil || !strings.Contains(string(source), title) {
			t.Errorf("%s: there is no test %q: %v", path, title, err)
		}
		return
	}
	if dir, test, ok := strings.Cut(name, ".Test"); ok {
		files, err := filepath.Glob(filepath.Join("..", dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			source, err := os.ReadFile(file)
			if err == nil && strings.Contains(string(source), "\nfunc Test"+test+"(t *testing.T) {") {
				return
			}
		}
		t.Errorf("there is no test Test%s in %s", test, dir)
		return
	}
	if _, err := os.Stat(filepath.Join("..", name)); err != nil {
		t.Errorf("no test: %v", err)
	}
}
