package command

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// print writes data for a person or a shell.
func (t *tool) print(format string, args ...any) { fmt.Fprintf(t.stdout, format+"\n", args...) }

// note says something beside the data.
func (t *tool) note(format string, args ...any) {
	fmt.Fprintf(t.stderr, "keyward: "+format+"\n", args...)
}

// hint says what to type next, as it can be typed here.
func (t *tool) hint(format string, args ...any) {
	if hint := t.forHere(fmt.Sprintf(format, args...)); hint != "" {
		t.note("hint: %s", hint)
	}
}

// forHere makes a hint of an agent, which does not know how it is reached, one that can be typed here: none to do
// again what has just failed, and with the --dir that was given.
func (t *tool) forHere(hint string) string {
	switch {
	case hint == t.command:
		return ""
	case t.dir != "" && strings.HasPrefix(hint, "keyward ") && !strings.ContainsAny(hint, ",;(") && !strings.Contains(hint, "--dir"):
		return hint + " --dir " + t.dir
	}
	return hint
}

// printJSON writes v as one line.
func (t *tool) printJSON(v any) error {
	enc := json.NewEncoder(t.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows in columns. The first row is the heading.
func (t *tool) table(rows [][]string) error {
	w := tabwriter.NewWriter(t.stdout, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.TrimRight(strings.Join(row, "\t"), "\t"))
	}
	return w.Flush()
}

// facts writes names and values in two columns, leaving out empty values.
func (t *tool) facts(pairs ...[2]string) error {
	w := tabwriter.NewWriter(t.stdout, 0, 8, 2, ' ', 0)
	for _, p := range pairs {
		if p[1] != "" {
			fmt.Fprintf(w, "%s\t%s\n", p[0], p[1])
		}
	}
	return w.Flush()
}

// when writes a time for a person, in their own zone; "" for none.
func when(at *time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05 MST")
}

// maxInput bounds a spec or transaction given to a command, in bytes.
const maxInput = 16 << 20

// readInput reads a whole file, or stdin for "-".
func (t *tool) readInput(name string) ([]byte, error) {
	in := t.stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if len(data) > maxInput {
		return nil, fmt.Errorf("reading %s: more than %d bytes", name, maxInput)
	}
	return data, nil
}

// inFile says which input is wrong.
func inFile(name string, err error) error {
	if name == "-" {
		name = "stdin"
	}
	return fmt.Errorf("%s: %w", name, err)
}
