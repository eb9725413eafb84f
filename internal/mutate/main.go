// Command mutate measures what the tests notice: it changes one place of the code at a time and runs the package's
// tests on it. A mutant that the tests do not notice survives: it is a gap, or equal to the original.
//
//	go run ./internal/mutate -seed 1 -n 400 ./session ./policy
//
// Where a change goes is drawn by lines of code, so that a large package gets more of them. The state is kept in a
// file; a run with the same seed and number goes on where the last one ended. The sources are never changed: each build
// is an overlay (go help build).
//
// A package is built once with all its mutants, of which an environment variable turns one on. Each test is run alone
// once, which says what it covers and how long it takes; a mutant meets the tests that cover it, quick ones first.
//
// Survivors that are equal to the original are in a list, each with its reason.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// result is what became of a mutant: one line of the state file.
type result struct {
	Mutant string `json:"mutant"`       // see [mutant.String]
	Result string `json:"result"`       // "killed", "timed out", "does not build" or "survived"
	By     string `json:"by,omitempty"` // the test that noticed
}

// options are the flags.
type options struct {
	seed    uint64
	n       int
	state   string
	limit   time.Duration
	jobs    int
	again   bool
	reasons string
}

func main() {
	var o options
	flag.Uint64Var(&o.seed, "seed", 1, "draws the sample")
	flag.IntVar(&o.n, "n", 400, "how many mutants")
	flag.StringVar(&o.state, "state", "mutate.jsonl", "file of what was tried before")
	flag.DurationVar(&o.limit, "limit", time.Minute, "for the tests of one mutant, beside 10 times what they take alone")
	flag.IntVar(&o.jobs, "jobs", 2, "mutants that are tried side by side")
	flag.BoolVar(&o.again, "again", false, "try survivors again, with every test of the package")
	flag.StringVar(&o.reasons, "survivors", "internal/mutate/survivors.txt",
		"list of mutants that are equal to the original")
	flag.Parse()
	if err := o.run(flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func (o *options) run(dirs []string) error {
	sample, err := draw(o.seed, o.n, dirs)
	if err != nil {
		return err
	}
	reasons, err := readReasons(o.reasons)
	if err != nil {
		return err
	}
	tried, err := readState(o.state)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(o.state, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	r := &runner{options: o, tried: tried, out: json.NewEncoder(out), all: len(sample)}
	for _, dir := range dirs {
		var mutants []*mutant
		for _, m := range sample {
			was := tried[m.String()]
			if filepath.Dir(m.file) == filepath.Clean(dir) &&
				(was == "" || was == "survived" && o.again && reasons[m.id()] == "") {
				mutants = append(mutants, m)
			}
		}
		if len(mutants) == 0 {
			continue
		}
		if err := r.tryAll(filepath.Clean(dir), mutants); err != nil {
			return err
		}
	}
	report(o.seed, sample, tried, reasons)
	return nil
}

// runner tries mutants and writes what becomes of them.
type runner struct {
	*options
	all int

	mu    sync.Mutex // guards what is below
	tried map[string]string
	out   *json.Encoder
}

func (r *runner) done(m *mutant, res, by string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tried[m.String()] = res
	fmt.Printf("%d/%d %s: %s %s\n", len(r.tried), r.all, m, res, by)
	return r.out.Encode(result{m.String(), res, by})
}

// tryAll tries mutants of one package.
func (r *runner) tryAll(dir string, mutants []*mutant) error {
	s, err := measure(dir, fmt.Sprintf("%s.%s", r.state, strings.ReplaceAll(dir, "/", "-")))
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	numbers := map[*mutant]int{}
	var inside []*mutant
	for i, m := range mutants {
		numbers[m] = i
		if m.fn != nil {
			inside = append(inside, m)
		}
	}
	slices.SortStableFunc(inside, func(a, b *mutant) int {
		return cmp.Or(strings.Compare(a.file, b.file), a.from-b.from)
	})
	binary := filepath.Join(tmp, "mutants.test")
	broken, err := buildSwitched(dir, binary, inside, numbers)
	if err != nil {
		return err
	}
	work := make(chan *mutant)
	errs := make([]error, r.jobs)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for m := range work {
				res, by := r.tryOne(s, m, numbers[m], binary, broken[m])
				errs[i] = errors.Join(errs[i], r.done(m, res, by))
			}
		})
	}
	for _, m := range mutants {
		work <- m
	}
	close(work)
	wg.Wait()
	return errors.Join(errs...)
}

func (r *runner) tryOne(s *suite, m *mutant, number int, binary string, broken bool) (res, by string) {
	if broken {
		return "does not build", ""
	}
	if m.fn == nil { // the value of a variable: a build of its own
		binary = fmt.Sprintf("%s.%d", binary, number)
		if !m.build(binary) {
			return "does not build", ""
		}
		defer os.Remove(binary)
	}
	tests := s.covering(m)
	if r.again {
		tests = s.Tests
	}
	return s.try(binary, number, tests, r.limit)
}

// build builds the tests of the mutant's package with this one change.
func (m *mutant) build(binary string) bool {
	changed, overlay := binary+".go", binary+".json"
	path, err := filepath.Abs(m.file)
	if err != nil {
		return false
	}
	text, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return false
	}
	if err := errors.Join(os.WriteFile(changed, m.source(), 0o600), os.WriteFile(overlay, text, 0o600)); err != nil {
		return false
	}
	_, err = goTool("test", "-c", "-overlay", overlay, "-o", binary, "./"+filepath.Dir(m.file))
	return err == nil
}

func readState(path string) (tried map[string]string, err error) {
	tried = map[string]string{}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return tried, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, lines.Text(), err)
		}
		tried[r.Mutant] = r.Result
	}
	return tried, lines.Err()
}
