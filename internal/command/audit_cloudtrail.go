package command

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/cloudtrail"
)

func (t *tool) cloudTrailCommand() *cli.Command {
	return &cli.Command{
		Name: "cloudtrail", ArgsUsage: "FILE...",
		Usage: "compare AWS CloudTrail's files with the audit trail: did something else use the sessions' KMS keys",
		Description: "Reads files that CloudTrail writes to S3, .json or .json.gz, and prints the calls of Sign and " +
			"Decrypt that no record of the trail explains. " +
			"It needs neither an agent nor AWS. The exit code is 1 if there are such calls.",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "window", Value: 2 * time.Minute,
				Usage: "a call and its record are at most this `DURATION` apart"},
		},
		Action: t.auditCloudTrail,
	}
}

func (t *tool) auditCloudTrail(c *cli.Context) error {
	if c.NArg() == 0 {
		return usageError("give the files that CloudTrail wrote")
	}
	if c.Duration("window") <= 0 {
		return usageError("--window %v is not positive", c.Duration("window"))
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	var events []cloudtrail.Event
	for _, file := range c.Args().Slice() {
		more, err := readCloudTrail(file)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		events = append(events, more...)
	}
	trail, err := t.kmsTrail(c, p)
	if err != nil {
		return err
	}
	r := trail.Compare(events, c.Duration("window"))
	if c.Bool("json") {
		err = t.printJSON(r)
	} else {
		t.printCloudTrail(r)
	}
	if err == nil && len(r.Foreign) > 0 {
		err = withHint(fmt.Errorf("%d calls for the sessions' keys were not this agent's", len(r.Foreign)),
			"revoke these sessions on chain, and the permissions of who called")
	}
	return err
}

func (t *tool) printCloudTrail(r *cloudtrail.Result) {
	for _, list := range []struct {
		what   string
		events []cloudtrail.Event
	}{{"NOT THIS AGENT'S", r.Foreign}, {"perhaps repeated", r.Repeats}} {
		for _, e := range list.events {
			t.print("%s  %-16s  %s of session %s by %q from %q, event %q", e.Time.UTC().Format(time.RFC3339), list.what, e.Name,
				e.Session, e.Identity, e.Source, e.ID)
		}
	}
	t.print("%d calls compared: %d not this agent's, %d perhaps repeated by it; %d before or after the trail; %d for "+
		"other keys",
		r.Compared, len(r.Foreign), len(r.Repeats), r.Outside, r.Others)
}

// readCloudTrail reads a file, which may be compressed.
func readCloudTrail(file string) ([]cloudtrail.Event, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var r io.Reader = f
	if strings.HasSuffix(file, ".gz") {
		if r, err = gzip.NewReader(f); err != nil {
			return nil, err
		}
	}
	return cloudtrail.Read(r)
}

// kmsTrail reads the agent's trail.
func (t *tool) kmsTrail(c *cli.Context, p *place) (*cloudtrail.Trail, error) {
	r, err := audit.OpenSegments(p.dirs.AuditTrail())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, withHint(fmt.Errorf("no audit trail yet: %w", err), "%s", startCommand(p.dirs))
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	trail := new(cloudtrail.Trail)
	if err := follow(context.WithoutCancel(c.Context), r, false, trail.Add); err != nil {
		if errors.Is(err, audit.ErrDamaged) {
			err = withHint(withCode(exitDamaged, err), "keyward audit verify")
		}
		return nil, err
	}
	return trail, nil
}
