package isolated

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// crashes counts the children that ended without being asked to. Its zero value is ready.
type crashes struct {
	n    int
	last time.Time
	how  string
}

// String says how often, when and how; "" if never.
func (c *crashes) String() string {
	if c.n == 0 {
		return ""
	}
	times := "once"
	if c.n > 1 {
		times = fmt.Sprintf("%d times", c.n)
	}
	return fmt.Sprintf("restarted %s, last at %s: %s", times, c.last.UTC().Format(time.RFC3339), c.how)
}

// lastWords passes on what a child writes to its standard error, and keeps the line that says which signal or
// Go error ended it: the exit code of a Go program does not.
type lastWords struct {
	to io.Writer

	mu   sync.Mutex
	line []byte // the one that is being written, its beginning
	said string // "": nothing of a crash
}

const maxLine = 200 // bytes that are kept of a line

func (w *lastWords) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for rest := p; len(rest) > 0; {
		text, after, ended := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, text[:min(len(text), maxLine-len(w.line))]...)
		if ended {
			w.judge(string(w.line))
			w.line = w.line[:0]
		}
		rest = after
	}
	return w.to.Write(p)
}

// judge keeps the first line that the Go runtime begins its report of a crash with.
func (w *lastWords) judge(line string) {
	for _, start := range []string{"SIG", "panic: ", "fatal error: "} {
		if w.said == "" && strings.HasPrefix(line, start) && strings.Contains(line, ": ") {
			w.said = line
		}
	}
}

// String is the line; "" if there is none.
func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.said
}
