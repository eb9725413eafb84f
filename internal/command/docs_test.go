package command

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// notExecuted are commands of the documents that no test executes, and why.
var notExecuted = map[string]string{
	"make run":      "runs until somebody ends it; docs/first-hour.txtar does what it does",
	"make test":     "runs this test",
	"make packages": "has a test of its own, which takes minutes: make install-test",
}

// shellBlocks are the blocks of commands in a document.
var shellBlocks = regexp.MustCompile("(?ms)^ *```sh\n(.*?)^ *```")

// ours are commands of this project, and what installs and runs it.
var ours = regexp.MustCompile(`^(keyward|systemctl|apt|usermod|make) `)

// documented are the commands in the documents, without their comments, by document.
func documented(t *testing.T) map[string][]string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"../../README.md", docsDir + "*.md", docsDir + "backends/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		files = append(files, found...)
	}
	commands := map[string][]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, block := range shellBlocks.FindAllStringSubmatch(string(text), -1) {
			for line := range strings.Lines(block[1]) {
				command, _, _ := strings.Cut(line, " #")
				// Other programs' commands prepare what the tests of a backend have a stand-in for.
				if command = strings.TrimSpace(command); ours.MatchString(command) {
					commands[file] = append(commands[file], command)
				}
			}
		}
	}
	return commands
}

// testSources are the texts of the tests that execute commands.
func testSources(t *testing.T) (texts []string) {
	t.Helper()
	files := []string{"../../scripts/install-test"}
	for _, pattern := range []string{"testdata/*.txtar", "testdata/*/*.txtar", "../../softhsm-test/*_test.go"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatalf("%s: %d files, %v", pattern, len(found), err)
		}
		files = append(files, found...)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, strings.NewReplacer(`", "`, " ", "apt-get", "apt").Replace(string(text)))
	}
	return texts
}

// marks are lines of tests that say which command of the documents the next line executes: "# $ keyward status".
var marks = regexp.MustCompile(`(?m)^\s*(?:#|//) \$ (.+)\n\s*(.*)$`)

// executed are the commands of the documents that tests execute, and the lines that do.
func executed(texts []string) map[string][]string {
	by := map[string][]string{}
	for _, text := range texts {
		for _, m := range marks.FindAllStringSubmatch(text, -1) {
			command := strings.ReplaceAll(m[1], "apt-get", "apt")
			by[command] = append(by[command], m[2])
		}
	}
	return by
}

// verb matches what a command does: "session revoke", "systemctl restart", with its flags' names but not what they are
// about.
var verb = regexp.MustCompile(`^[a-z][a-z-]*( [a-z][a-z-]*)*`)

// does is what a command of the documents does, without "keyward".
func does(command string) string {
	return strings.TrimSpace(strings.TrimPrefix(verb.FindString(command), "keyward "))
}

// Every command in the documents is executed by a test, which names it or at least has that command with flags of its
// own, or has a reason. No test names a command that no document has.
func TestDocumentedCommands(t *testing.T) {
	texts := testSources(t)
	all, by := documented(t), executed(texts)
	has := func(lines []string, pattern string) bool {
		re := regexp.MustCompile(pattern)
		return slices.ContainsFunc(lines, re.MatchString)
	}
	seen := map[string]bool{}
	for file, commands := range all {
		for _, command := range commands {
			seen[command] = true
			what := regexp.QuoteMeta(does(command))
			switch lines := by[command]; {
			case lines != nil && !has(lines, what):
				t.Errorf("%s: %q is marked in tests, but what follows are %q", file, command, lines)
			case lines == nil && notExecuted[command] == "" && !has(texts, `(exits \d+|exec keyward|Keyward\(") ?`+what):
				t.Errorf("%s: no test executes %q: mark the line that does with \"# $ %s\"", file, command, command)
			}
		}
	}
	for command := range by {
		if !seen[command] {
			t.Errorf("a test is marked with %q, which no document has", command)
		}
	}
	for command := range notExecuted {
		if !seen[command] {
			t.Errorf("there is a reason for %q, which no document has", command)
		}
	}
}

// The commands of each page are executed in the page's order.
func TestDocumentScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/docs",
		RequireExplicitExec: true,
		Setup:               setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "save": save,
			"begin": begin},
	})
}

// inlineCommands are commands in the middle of a sentence.
var inlineCommands = regexp.MustCompile("(?s)`(keyward [a-z][^`]*)`")

// Commands in sentences exist, with their flags.
func TestInlineCommands(t *testing.T) {
	n := 0
	for file := range documented(t) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range inlineCommands.FindAllStringSubmatch(string(text), -1) {
			n++
			words := strings.Fields(strings.NewReplacer("[", "", "]", "", "…", "x").Replace(m[1]))[1:]
			if i := slices.Index(words, "|"); i >= 0 {
				words = words[:i]
			}
			if _, err := arrange((&tool{}).app(), words); err != nil && !strings.HasSuffix(err.Error(), "needs a value") {
				t.Errorf("%s: `%s`: %v", file, m[1], err)
			}
		}
	}
	if n < 50 {
		t.Errorf("%d commands, want the documents' 50 and more", n)
	}
}
