package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// suite is what is known of the tests of a package.
type suite struct {
	dir   string
	Hash  string // of the package's Go files
	Tests []*test
	// Blocks are all that the coverage tool tells apart, by file name. Some places are in none, such as a case's
	// condition.
	Blocks map[string][]block
}

// test is a test, an example or a fuzz target with its seeds.
type test struct {
	Name string
	Time time.Duration // alone, on the original
	// Covered lists the blocks of code that the test runs, by file name. A child process of the test adds none: tests
	// in a file that starts the test binary are run for each mutant.
	Covered map[string][]block
	Always  bool
}

// place is a line and a column in bytes, both counted from 1.
type place struct{ Line, Col int }

func before(a, b place) bool { return a.Line < b.Line || a.Line == b.Line && a.Col < b.Col }

// block is a range of places.
type block struct{ From, To place }

func (b block) has(p place) bool { return !before(p, b.From) && !before(b.To, p) }

// place is that of a byte of the mutant's file.
func (m *mutant) place(offset int) place {
	return place{1 + bytes.Count(m.text[:offset], []byte("\n")), offset - bytes.LastIndexByte(m.text[:offset], '\n')}
}

// measure runs each test of the package in dir alone, or reads what an earlier run wrote to cache.
func measure(dir, cache string) (*suite, error) {
	s := &suite{dir: dir}
	hash, starters, err := scanFiles(dir)
	if err != nil {
		return nil, err
	}
	if text, err := os.ReadFile(cache); err == nil {
		if err := json.Unmarshal(text, s); err == nil && s.Hash == hash {
			return s, nil
		}
	}
	s.Hash, s.Tests = hash, nil
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	binary := filepath.Join(tmp, "cover.test")
	if out, err := goTool("test", "-c", "-cover", "-o", binary, "./"+dir); err != nil {
		return nil, fmt.Errorf("building the tests of %s: %w\n%s", dir, err, out)
	}
	names, err := run(binary, dir, 0, time.Minute, "-test.list=.")
	if err != nil {
		return nil, err
	}
	for _, match := range testName.FindAllSubmatch(names, -1) {
		name := string(match[0])
		t := &test{Name: name, Always: starters[name]}
		profile := filepath.Join(tmp, "profile")
		start := time.Now()
		if out, err := run(binary, dir, 0, 15*time.Minute, "-test.run=^"+name+"$", "-test.coverprofile="+
			profile); err != nil {
			return nil, fmt.Errorf("%s fails without a mutant: %w\n%s", name, err, out)
		}
		t.Time = time.Since(start)
		if s.Blocks, t.Covered, err = readProfile(profile); err != nil {
			return nil, err
		}
		s.Tests = append(s.Tests, t)
		fmt.Printf("%s: %s %s\n", dir, name, t.Time.Round(time.Millisecond))
	}
	slices.SortStableFunc(s.Tests, func(a, b *test) int { return int(a.Time - b.Time) })
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	return s, os.WriteFile(cache, text, 0o644)
}

var (
	testName   = regexp.MustCompile(`(?m)^(?:Test|Fuzz|Example)\w*$`)
	testFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Example)\w*)\(`)
	selfStarts = regexp.MustCompile(`os\.Args\[0\]|os\.Executable\(|/proc/self/exe`)
)

// scanFiles returns a hash of the Go files in dir, and the tests in files that start the test binary again.
func scanFiles(dir string) (hash string, starters map[string]bool, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return "", nil, err
	}
	h := sha256.New()
	starters = map[string]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", nil, err
		}
		fmt.Fprintf(h, "%s %d\n%s", filepath.Base(file), len(text), text)
		if strings.HasSuffix(file, "_test.go") && selfStarts.Match(text) {
			for _, m := range testFunc.FindAllSubmatch(text, -1) {
				starters[string(m[1])] = true
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)), starters, nil
}

// readProfile reads the blocks, and those that ran, from a coverage profile: "package/file.go:1.2,3.4 STATEMENTS
// COUNT".
func readProfile(path string) (all, covered map[string][]block, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	all, covered = map[string][]block{}, map[string][]block{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, rest, ok := strings.Cut(filepath.Base(lines.Text()), ":")
		var b block
		var statements, count int
		if n, _ := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.From.Line, &b.From.Col, &b.To.Line, &b.To.Col, &statements,
			&count); n != 6 || !ok {
			continue // the line with the mode
		}
		all[name] = append(all[name], b)
		if count > 0 {
			covered[name] = append(covered[name], b)
		}
	}
	return all, covered, lines.Err()
}

// covering returns the tests that may notice the mutant, quick ones first: those that run its block, or if it is in
// none, any block of its function. A mutant outside functions concerns all.
func (s *suite) covering(m *mutant) []*test {
	if m.fn == nil {
		return s.Tests
	}
	name, at := filepath.Base(m.file), m.place(m.from)
	concerns := func(b block) bool { return b.has(at) }
	if !slices.ContainsFunc(s.Blocks[name], concerns) {
		from, to := m.place(m.fn.from), m.place(m.fn.to)
		concerns = func(b block) bool { return !before(b.From, from) && !before(to, b.From) }
	}
	var tests []*test
	for _, t := range s.Tests {
		if t.Always || slices.ContainsFunc(t.Covered[name], concerns) {
			tests = append(tests, t)
		}
	}
	return tests
}

// batches cuts tests into parts that take a second, 4, 16 …, so that what a quick test notices does not wait for slow
// ones.
func batches(tests []*test) (parts [][]*test) {
	limit, sum := time.Second, time.Duration(0)
	var part []*test
	for _, t := range tests {
		if len(part) > 0 && sum+t.Time > limit {
			parts, part = append(parts, part), nil
			limit, sum = 4*limit, 0
		}
		part, sum = append(part, t), sum+t.Time
	}
	if len(part) > 0 {
		parts = append(parts, part)
	}
	return parts
}

// try runs the tests that may notice mutant number n of binary. What one run noticed counts only if a second run of the
// failed tests notices it, too: a test that fails for the machine's load says nothing of the mutant.
func (s *suite) try(binary string, number int, tests []*test, limit time.Duration) (res, by string) {
	for _, part := range batches(tests) {
		for range 3 {
			out, err := s.run(binary, number, part, limit)
			if err == nil {
				break
			}
			suspects := failed(out, part)
			if out, err = s.run(binary, number, suspects, limit); err == nil {
				continue
			}
			by = suspects[0].Name
			if errors.Is(err, context.DeadlineExceeded) || bytes.Contains(out, []byte("panic: test timed out")) {
				return "timed out", by
			}
			return "killed", by
		}
	}
	return "survived", ""
}

var failure = regexp.MustCompile(`(?m)^\s*(?:--- FAIL: |\t|running tests:\n\t)((?:Test|Fuzz|Example)\w*)[ /]`)

// failed returns the tests of part that out names as failed or as running at the end of the time; part if it names
// none.
func failed(out []byte, part []*test) []*test {
	names := map[string]bool{}
	for _, m := range failure.FindAllSubmatch(out, -1) {
		names[string(m[1])] = true
	}
	var tests []*test
	for _, t := range part {
		if names[t.Name] {
			tests = append(tests, t)
		}
	}
	if tests == nil {
		return part
	}
	return tests
}

// run runs tests on mutant number n for limit and 10 times as long as they take alone.
func (s *suite) run(binary string, number int, tests []*test, limit time.Duration) ([]byte, error) {
	var names []string
	for _, t := range tests {
		names = append(names, t.Name)
		limit += 10 * t.Time
	}
	return run(binary, s.dir, number+1, limit, "-test.run=^("+strings.Join(names, "|")+")$", "-test.failfast",
		"-test.parallel=4")
}

// run runs a test binary in dir; context.DeadlineExceeded if it does not end after limit.
func run(binary, dir string, on int, limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append(args, "-test.timeout="+limit.String(), "-test.paniconexit0")...)
	cmd.Dir = dir
	cmd.Env = os.Environ()
	if on > 0 {
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", variable, on))
	}
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return out, err
}

func goTool(args ...string) ([]byte, error) {
	return exec.Command("go", args...).CombinedOutput()
}

func packageName(dir string) (string, error) {
	out, err := goTool("list", "-f", "{{.Name}}", "./"+dir)
	return strings.TrimSpace(string(out)), err
}
