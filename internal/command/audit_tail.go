package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
)

func (t *tool) auditTail(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Int("n") < 0 {
		return usageError("-n: %d is less than 0", c.Int("n"))
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	trail, err := audit.OpenSegments(p.dirs.AuditTrail())
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(fmt.Errorf("no audit trail yet: %w", err), "%s", startCommand(p.dirs))
	}
	if err != nil {
		return err
	}
	defer trail.Close()
	filter, err := readFilter(c)
	if err != nil {
		return err
	}
	if filter.any() {
		if err := trail.SeekLast(c.Int("n")); err != nil {
			return fmt.Errorf("reading audit trail: %w", err)
		}
	}
	print := t.printRecord
	if c.Bool("json") {
		print = func(line []byte) error { t.print("%s", line); return nil }
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if filter.any() {
		return follow(ctx, trail, c.Bool("f"), print)
	}
	sel := &selection{filter: filter, n: c.Int("n"), print: print}
	return follow(ctx, &atEnd{Reader: trail, do: sel.flush}, c.Bool("f"), sel.line)
}

// followStep is how often audit tail -f looks for new records.
const followStep = 200 * time.Millisecond

// follow prints complete lines to the end of the file and, if it goes on, those that
// come, until ctx is done.
func follow(ctx context.Context, f io.Reader, goOn bool, print func(line []byte) error) error {
	r := bufio.NewReaderSize(f, 64<<10)
	var line []byte
	for {
		part, err := r.ReadBytes('\n')
		line = append(line, part...)
		switch {
		case err == nil:
			if err := print(line[:len(line)-1]); err != nil {
				return err
			}
			line = line[:0]
		case !errors.Is(err, io.EOF):
			return fmt.Errorf("reading audit trail: %w", err)
		case !goOn:
			return nil
		default:
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(followStep):
			}
		}
	}
}

// tailRecord is what a line for a person shows of a record.
type tailRecord struct {
	Seq uint64 `json:"seq"`
	audit.Record
	audit.Personal
	Transaction struct {
		To       string          `json:"to"`
		Data     string          `json:"data"`     // of a grant
		Selector string          `json:"selector"` // of a refusal
		Value    json.RawMessage `json:"value"`
	} `json:"transaction"`
}

// printRecord prints a record on one line.
func (t *tool) printRecord(line []byte) error {
	var r tailRecord
	if err := json.Unmarshal(line, &r); err != nil {
		return withHint(withCode(exitDamaged, fmt.Errorf("%w: a line is no record", audit.ErrDamaged)),
			"keyward audit verify")
	}
	t.print("%s", recordLine(&r))
	return nil
}

// recordLine is a record on one line.
func recordLine(r *tailRecord) string {
	words := []string{fmt.Sprintf("%6d", r.Seq), r.Time.Local().Format(time.DateTime), fmt.Sprintf("%-18s", r.Event)}
	if r.Session != "" {
		words = append(words, r.Session)
	}
	switch {
	case r.Peer != nil:
		words = append(words, peer(r.Peer))
	case r.Erased():
		words = append(words, "(erased)")
	}
	words = append(words, outcome(r)...)
	return strings.TrimRight(strings.Join(words, "  "), " ")
}

func peer(p *audit.Peer) string {
	s := fmt.Sprintf("uid %d pid %d", p.UID, p.PID)
	if p.Exe != "" {
		s += " " + p.Exe[strings.LastIndexByte(p.Exe, '/')+1:]
	}
	return s
}

// outcome says what was asked for, and why it was granted or refused.
func outcome(r *tailRecord) (words []string) {
	if to := r.Transaction.To; to != "" {
		what := "to " + to
		selector := r.Transaction.Selector
		if data := r.Transaction.Data; len(data) >= 10 {
			selector = data[:10]
		}
		if selector != "" {
			what = "call " + selector + " on " + to
		}
		words = append(words, what)
	}
	if v := r.Verdict; v != nil && v.Message != "" {
		words = append(words, v.Message)
	} else if v != nil && v.Repeat {
		words = append(words, "signed before, costs nothing")
	} else if v != nil && v.Replaces {
		words = append(words, "replaces another with the same nonce")
	}
	return append(words, detail(r)...)
}

// detail picks what is worth a place on the line.
func detail(r *tailRecord) (words []string) {
	switch d := r.Detail.(type) {
	case string:
		return []string{d}
	case map[string]any:
		keys := slices.Sorted(maps.Keys(d))
		if r.Event == audit.SessionCreated { // its detail is the whole session
			keys = []string{"kind", "account", "chainId"}
		}
		for _, k := range keys {
			switch v := d[k].(type) {
			case string, float64, bool:
				words = append(words, fmt.Sprintf("%s %v", k, v))
			}
		}
	}
	return words
}
