package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/report"
)

func (t *tool) auditReportCommand() *cli.Command {
	return &cli.Command{
		Name:  "report",
		Usage: "sum up a period: what sessions spent, what was refused, how long requests took, what was done",
		Description: "Writes one HTML page that loads nothing, or CSV, or with --json JSON. It reads the trail and needs " +
			"no agent;\n" +
			"keyward audit verify says whether the trail is whole.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Value: "30d", Usage: "begin at this `TIME`: 2h (ago), 30d, 2026-11-28, or " +
				"2026-11-28T15:04:05Z"},
			&cli.StringFlag{Name: "until", Usage: "end before this `TIME` (default: now)"},
			&cli.StringFlag{Name: "out", Aliases: []string{"o"}, TakesFile: true, Usage: "write to `FILE` instead of stdout"},
			&cli.BoolFlag{Name: "csv", Usage: "write CSV: a line for each amount that a session spent"},
		},
		Action: t.auditReport,
	}
}

func (t *tool) auditReport(c *cli.Context) (err error) {
	if err := required(c); err != nil {
		return err
	}
	if c.Bool("csv") && c.Bool("json") {
		return usageError("give --csv or --json, not both")
	}
	from, err := momentFlag(c, "since")
	if err != nil {
		return err
	}
	until, err := momentFlag(c, "until")
	if err != nil {
		return err
	}
	if until.IsZero() {
		until = time.Now()
	}
	if !from.Before(until) {
		return usageError("--since %s is not before --until %s", from.UTC().Format(time.RFC3339),
			until.UTC().Format(time.RFC3339))
	}
	r, err := t.readReport(c, from, until)
	if err != nil {
		return err
	}
	write := r.HTML
	switch {
	case c.Bool("csv"):
		write = r.CSV
	case c.Bool("json"):
		write = r.JSON
	}
	if !c.IsSet("out") {
		return write(t.stdout)
	}
	return writeNew(c.String("out"), write)
}

// readReport sums up the trail of the agent.
func (t *tool) readReport(c *cli.Context, from, until time.Time) (*report.Report, error) {
	p, err := findPlace(c)
	if err != nil {
		return nil, err
	}
	trail, err := audit.OpenSegments(p.dirs.AuditTrail())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("no audit trail yet: %w", err), "%s", startCommand(p.dirs))
	}
	if err != nil {
		return nil, err
	}
	defer trail.Close()
	b := report.NewBuilder(from, until)
	if err := follow(context.WithoutCancel(c.Context), trail, false, b.Add); err != nil {
		if errors.Is(err, audit.ErrDamaged) {
			err = withHint(withCode(exitDamaged, err), "keyward audit verify")
		}
		return nil, err
	}
	return b.Report(), nil
}

// writeNew writes a file that only its owner can read. It replaces one that is there.
func writeNew(name string, write func(io.Writer) error) (err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return write(f)
}
