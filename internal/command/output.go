package command

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"
	"unicode/utf8"
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
	case t.dir != "" && strings.HasPrefix(hint, "keyward ") && !strings.ContainsAny(hint, ",;(") &&
		!strings.Contains(hint, "--dir"):
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

// facts writes names and values in two columns, leaving out empty values. On a terminal, a value that is too wide goes
// on in the next line. It is broken only between words: an address or calldata can be copied as a whole.
func (t *tool) facts(pairs ...[2]string) error {
	name := 0
	for _, p := range pairs {
		if p[1] != "" {
			name = max(name, len(p[0]))
		}
	}
	room := math.MaxInt
	if width := t.terminalWidth(); width > 0 {
		room = max(width-name-len(columnGap), narrowest)
	}
	for _, p := range pairs {
		if p[1] == "" {
			continue
		}
		lines := []string{p[1]}
		if utf8.RuneCountInString(p[1]) > room {
			lines = words(p[1], room)
		}
		for i, line := range lines {
			if i > 0 {
				p[0] = ""
			}
			if _, err := fmt.Fprintf(t.stdout, "%-*s%s%s\n", name, p[0], columnGap, line); err != nil {
				return err
			}
		}
	}
	return nil
}

// words breaks text into lines of at most width columns, but for longer words.
func words(text string, width int) (lines []string) {
	for _, word := range strings.Fields(text) {
		last := len(lines) - 1
		if last >= 0 && utf8.RuneCountInString(lines[last])+1+utf8.RuneCountInString(word) <= width {
			lines[last] += " " + word
		} else {
			lines = append(lines, word)
		}
	}
	return lines
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
