package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
)

// variable is set to a mutant's number plus one for the tests of that mutant.
const variable = "MUTATE_ON"

// switched is a file with all its mutants. A function that has some begins with a copy of itself for each, which runs
// if the environment says so. Thus one build serves all mutants of a package.
type switched struct {
	text  []byte
	lines map[int]*mutant // the lines of the copies
}

// switchAll returns file's text with the mutants, which all lie in functions; numbers gives their numbers.
func switchAll(text []byte, mutants []*mutant, numbers map[*mutant]int) *switched {
	s := &switched{lines: map[int]*mutant{}}
	line := 1
	add := func(m *mutant, text []byte) {
		s.text = append(s.text, text...)
		for range bytes.Count(text, []byte("\n")) {
			line++
			if m != nil {
				s.lines[line] = m
			}
		}
	}
	at := 0
	for len(mutants) > 0 {
		fn := mutants[0].fn
		add(nil, text[at:fn.from+1])
		for len(mutants) > 0 && mutants[0].fn == fn {
			m := mutants[0]
			add(nil, fmt.Appendf(nil, "\nif mutateOn == %d {", numbers[m]+1))
			s.lines[line] = m
			add(m, m.body(fmt.Sprintf("_%d", numbers[m])))
			if !fn.results {
				add(m, []byte("\nreturn"))
			}
			add(nil, []byte("\n}\n"))
			mutants = mutants[1:]
		}
		at = fn.from + 1
	}
	add(nil, text[at:])
	return s
}

// body is the text of the function with the change, without its braces. Labels get a suffix: a function has each only
// once.
func (m *mutant) body(suffix string) []byte {
	var b []byte
	at := m.fn.from + 1
	changed := false
	change := func() {
		b = append(append(b, m.text[at:m.from]...), m.new...)
		at, changed = m.to, true
	}
	for _, label := range m.fn.labels {
		if label > m.from && !changed {
			change()
		}
		if label < at {
			continue
		}
		b = append(append(b, m.text[at:label]...), suffix...)
		at = label
	}
	if !changed {
		change()
	}
	return append(b, m.text[at:m.fn.to-1]...)
}

var compileError = regexp.MustCompile(`(?m)^(?:\S*/)?([^/\s]+\.go):(\d+):\d+: `)

// buildSwitched builds the tests of the package in dir with all of mutants, sorted by file and place, into binary.
// The mutants that do not build are left out and returned.
func buildSwitched(dir, binary string, mutants []*mutant, numbers map[*mutant]int) (broken map[*mutant]bool,
	err error) {
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	broken = map[*mutant]bool{}
	for {
		byName := map[string]*switched{}
		replace := map[string]string{}
		put := func(path string, text []byte) error {
			abs, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			replace[abs] = filepath.Join(tmp, filepath.Base(path))
			return os.WriteFile(replace[abs], text, 0o600)
		}
		for file, some := range byFile(mutants, broken) {
			s := switchAll(some[0].text, some, numbers)
			byName[filepath.Base(file)] = s
			if err := put(file, s.text); err != nil {
				return nil, err
			}
		}
		name, err := packageName(dir)
		if err != nil {
			return nil, err
		}
		on := fmt.Sprintf("package %s\n\nimport (\n\tmutateOS \"os\"\n\tmutateStrconv \"strconv\"\n)\n\nvar mutateOn, _ = "+
			"mutateStrconv.Atoi(mutateOS.Getenv(%q))\n", name, variable)
		if err := put(filepath.Join(dir, "mutate_on.go"), []byte(on)); err != nil {
			return nil, err
		}
		overlay, err := json.Marshal(map[string]any{"Replace": replace})
		if err != nil {
			return nil, err
		}
		path := filepath.Join(tmp, "overlay.json")
		if err := os.WriteFile(path, overlay, 0o600); err != nil {
			return nil, err
		}
		out, err := goTool("test", "-c", "-overlay", path, "-gcflags=-e", "-ldflags=-s -w", "-o", binary, "./"+dir)
		if err == nil {
			return broken, nil
		}
		before := len(broken)
		for _, e := range compileError.FindAllStringSubmatch(string(out), -1) {
			line, _ := strconv.Atoi(e[2])
			if s := byName[e[1]]; s != nil && s.lines[line] != nil {
				broken[s.lines[line]] = true
			}
		}
		if len(broken) == before {
			return nil, errors.Join(fmt.Errorf("building %s with its mutants: %w", dir, err), errors.New(string(out)))
		}
	}
}

// byFile sorts mutants into their files, without those that are broken.
func byFile(mutants []*mutant, broken map[*mutant]bool) map[string][]*mutant {
	files := map[string][]*mutant{}
	for _, m := range mutants {
		if !broken[m] {
			files[m.file] = append(files[m.file], m)
		}
	}
	return files
}
