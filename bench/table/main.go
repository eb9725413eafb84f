// Command table turns what go test -bench prints on stdin into Markdown, one table for each benchmark, and puts it
// into a document between the lines that say so (make bench).
package main

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Of the document, what is between these lines is replaced.
const (
	begin = "<!-- make bench: begin -->\n"
	end   = "<!-- make bench: end -->\n"
)

func main() {
	doc := flag.String("doc", "", "`FILE` to put the tables into (default: print them)")
	commit := flag.String("commit", "unknown", "that was measured")
	load := flag.String("load", "unknown", "average `LOAD` of the machine before")
	flag.Parse()
	if err := run(*doc, *commit, *load, time.Now()); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(doc, commit, load string, now time.Time) error {
	res, err := parse(os.Stdin)
	if err != nil {
		return err
	}
	text := res.markdown(commit, load, now)
	if doc == "" {
		_, err := os.Stdout.Write(text)
		return err
	}
	old, err := os.ReadFile(doc)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(old, []byte(begin))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		return fmt.Errorf("%s has no lines %q and %q", doc, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(doc, slices.Concat(before, []byte(begin), text, []byte(end), after), 0o644)
}

// results are those of all benchmarks, in the order in which they ran.
type results struct {
	cpu  string
	list []*benchmark
}

// benchmark is one with all its sub-benchmarks.
type benchmark struct {
	name  string
	units []string // of its metrics, sorted by the testing package
	rows  []*row
}

// row is one sub-benchmark.
type row struct {
	name    string               // "conns=1"; "": there are none
	metrics map[string][]float64 // by unit; several with -count
}

// line is a line of the benchmark format (go.dev/design/14313-benchmark-format).
var line = regexp.MustCompile(`^Benchmark([^/\s-]+)(?:/(\S+?))?(?:-\d+)?\s+\d+\s+(.*)$`)

// parse reads what go test -bench prints. A failure in it is an error.
func parse(r io.Reader) (*results, error) {
	res := &results{}
	in := bufio.NewScanner(r)
	for in.Scan() {
		text := in.Text()
		if cpu, ok := strings.CutPrefix(text, "cpu: "); ok {
			res.cpu = strings.TrimSpace(cpu)
		}
		if strings.HasPrefix(text, "FAIL") || strings.HasPrefix(text, "--- FAIL") {
			return nil, fmt.Errorf("a benchmark failed: %s", text)
		}
		if m := line.FindStringSubmatch(text); m != nil {
			if err := res.add(m[1], m[2], strings.Fields(m[3])); err != nil {
				return nil, fmt.Errorf("%q: %w", text, err)
			}
		}
	}
	if len(res.list) == 0 && in.Err() == nil {
		return nil, fmt.Errorf("there is no benchmark's result on stdin")
	}
	return res, in.Err()
}

// add takes in one line: values and units in turn.
func (r *results) add(name, sub string, values []string) error {
	i := slices.IndexFunc(r.list, func(b *benchmark) bool { return b.name == name })
	if i < 0 {
		i, r.list = len(r.list), append(r.list, &benchmark{name: name})
	}
	b := r.list[i]
	j := slices.IndexFunc(b.rows, func(w *row) bool { return w.name == sub })
	if j < 0 {
		j, b.rows = len(b.rows), append(b.rows, &row{name: sub, metrics: map[string][]float64{}})
	}
	for ; len(values) >= 2; values = values[2:] {
		v, err := strconv.ParseFloat(values[0], 64)
		if err != nil {
			return err
		}
		unit := values[1]
		if !slices.Contains(b.units, unit) {
			b.units = append(b.units, unit)
		}
		b.rows[j].metrics[unit] = append(b.rows[j].metrics[unit], v)
	}
	return nil
}

func (r *results) markdown(commit, load string, now time.Time) []byte {
	var w bytes.Buffer
	fmt.Fprintf(&w, "\nMeasured %s at commit %s on %s, %d processors. The load average before was %s.\n",
		now.UTC().Format("2006-01-02 15:04 UTC"), commit, r.cpu, runtime.NumCPU(), load)
	for _, b := range r.list {
		fmt.Fprintf(&w, "\n**%s**\n\n| | %s |\n|---|%s\n", b.name, strings.Join(b.units, " | "),
			strings.Repeat("---:|", len(b.units)))
		for _, row := range b.rows {
			fmt.Fprintf(&w, "| %s |", strings.ReplaceAll(row.name, "/", ", "))
			for _, unit := range b.units {
				fmt.Fprintf(&w, " %s |", median(row.metrics[unit]))
			}
			w.WriteByte('\n')
		}
	}
	w.WriteByte('\n')
	return w.Bytes()
}

// median writes the middle one of values, "" if there is none.
func median(values []float64) string {
	if len(values) == 0 {
		return ""
	}
	slices.Sort(values)
	v := values[len(values)/2]
	switch {
	case v < 10:
		return strconv.FormatFloat(v, 'f', 2, 64)
	case v < 100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 0, 64)
}
