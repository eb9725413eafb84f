// Command mutate measures what the tests notice: it changes one place of the code at a time and runs the package's tests on it. A
// mutant that the tests do not notice survives: it is a gap, or equal to the original.
//
//	go run ./internal/mutate -seed 1 -n 400 ./session ./policy
//
// Where a change goes is drawn by lines of code, so that a large package gets more of them. The state is kept in a file; a run with the
// same seed and number goes on where the last one ended. The sources are never changed: each mutant is an overlay (go help build).
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// result is what became of a mutant: one line of the state file.
type result struct {
	Mutant string `json:"mutant"` // see [mutant.String]
	Result string `json:"result"` // "killed", "timed out", "does not build" or "survived"
}

func main() {
	seed := flag.Uint64("seed", 1, "draws the sample")
	n := flag.Int("n", 400, "how many mutants")
	state := flag.String("state", "mutate.jsonl", "file of what was tried before")
	limit := flag.Duration("limit", 3*time.Minute, "for the tests of one mutant")
	flag.Parse()
	if err := run(*seed, *n, *state, *limit, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mutate:", err)
		os.Exit(1)
	}
}

func run(seed uint64, n int, state string, limit time.Duration, dirs []string) error {
	sample, err := draw(seed, n, dirs)
	if err != nil {
		return err
	}
	tried, err := readState(state)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(state, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	for i, m := range sample {
		if tried[m.String()] != "" {
			continue
		}
		res, err := m.try(limit)
		if err != nil {
			return err
		}
		tried[m.String()] = res
		fmt.Printf("%d/%d %s: %s\n", i+1, len(sample), m, res)
		if err := json.NewEncoder(out).Encode(result{m.String(), res}); err != nil {
			return err
		}
	}
	report(seed, sample, tried)
	return nil
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

// try runs the tests of the package on the mutant.
func (m *mutant) try(limit time.Duration) (string, error) {
	dir, err := os.MkdirTemp("", "mutate")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path, err := filepath.Abs(m.file)
	if err != nil {
		return "", err
	}
	changed, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]map[string]string{"Replace": {path: changed}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.WriteFile(changed, m.source(), 0o644), os.WriteFile(overlay, text, 0o644)); err != nil {
		return "", err
	}
	pkg := "./" + filepath.Dir(m.file)
	// Without vet, whose findings in a mutant are neither tests nor the compiler's.
	if _, err := goTool(limit, "test", "-overlay", overlay, "-vet=off", "-run", "^$", pkg); err != nil {
		return "does not build", nil
	}
	_, err = goTool(limit, "test", "-overlay", overlay, "-vet=off", "-failfast", "-timeout", limit.String(), pkg)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "timed out", nil
	case err != nil:
		return "killed", nil
	}
	return "survived", nil
}

// goTool runs the go command; context.DeadlineExceeded if it took longer than limit and a minute.
func goTool(limit time.Duration, args ...string) (out []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.WaitDelay = 10 * time.Second
	out, err = cmd.CombinedOutput()
	if ctx.Err() != nil {
		return out, ctx.Err()
	}
	return out, err
}

// report prints the seed, the score and the survivors.
func report(seed uint64, sample []*mutant, tried map[string]string) {
	count := map[string]int{}
	for _, m := range sample {
		count[tried[m.String()]]++
	}
	noticed, all := count["killed"]+count["timed out"], len(sample)-count["does not build"]
	fmt.Printf("seed %d: %d mutants, %d do not build; of the others %d were noticed (%d by the time limit), %d survived: %.1f %%\n",
		seed, len(sample), count["does not build"], noticed, count["timed out"], count["survived"], 100*float64(noticed)/float64(max(1, all)))
	for _, m := range sample {
		if tried[m.String()] == "survived" {
			fmt.Println("survived:", m)
		}
	}
}
