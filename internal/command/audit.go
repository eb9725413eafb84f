package command

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
)

func (t *tool) auditCommand() *cli.Command {
	return &cli.Command{
		Name:  "audit",
		Usage: "read and check the audit trail",
		Subcommands: []*cli.Command{
			{
				Name:  "tail",
				Usage: "print the last records",
				Flags: append([]cli.Flag{
					&cli.IntFlag{Name: "n", Value: 10, Usage: "`NUMBER` of records"},
					&cli.BoolFlag{Name: "f", Usage: "go on with those that come, until interrupted"},
				}, filterFlags()...),
				Action: t.auditTail,
			},
			{
				Name:  "verify",
				Usage: "check that no record was changed, inserted, removed or cut off",
				Flags: []cli.Flag{
					&cli.StringFlag{Name: "file", TakesFile: true, Usage: "`FILE` to check instead: a copy of the agent's trail"},
					&cli.StringFlag{Name: "checkpoint", TakesFile: true,
						Usage: "compare with the checkpoint in `FILE`, too: what a witness has kept"},
					&cli.StringFlag{Name: "archive", TakesFile: true,
						Usage: "verify the archived segments in `DIRECTORY`, too, as one chain with the trail"},
					&cli.StringFlag{Name: "key", Usage: "public `KEY` of that checkpoint (default: the agent's own)"},
				},
				Action: t.auditVerify,
			},
			t.auditReportCommand(),
			t.cloudTrailCommand(),
			t.checkpointCommand(),
			t.witnessCommand(),
			t.archiveCommand(),
			t.eraseCommand(),
			t.exportCommand(),
		},
	}
}

// verified is what audit verify --json prints.
type verified struct {
	File    string `json:"file"`
	Records uint64 `json:"records"`
	Hash    string `json:"hash"`   // of the last record's line, SHA-256, 0x-hex
	Anchor  string `json:"anchor"` // what the end was compared with: "agent", "ledger" or "none"
}

func (t *tool) auditVerify(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	a, err := t.findAnchor(c, p)
	if err != nil {
		return err
	}
	file := c.String("file")
	if file == "" {
		file = p.dirs.AuditTrail()
	}
	report, err := audit.Verify(file, a.head, a.journal, a.live)
	if err != nil {
		return err
	}
	if c.IsSet("archive") {
		if err := t.verifyArchive(c.String("archive"), file); err != nil {
			return err
		}
	}
	if report.Gone > 0 {
		t.note("records 1 to %d were archived or deleted, as a later record says", report.Gone)
	}
	if c.IsSet("checkpoint") {
		if err := t.verifyCheckpoint(c, p, file); err != nil {
			return err
		}
	}
	if a.name == "none" {
		t.note("no agent and no ledger here: records that were cut off at the end can't be noticed")
	}
	v := verified{file, report.Head.Seq, fmt.Sprintf("0x%x", report.Head.Hash), a.name}
	if c.Bool("json") {
		return t.printJSON(v)
	}
	t.print("%s: %d records, unbroken; the last is %s", v.File, v.Records, v.Hash)
	return nil
}

// anchor is what is known of the trail's end from elsewhere.
type anchor struct {
	name    string // "agent", "ledger" or "none"
	head    audit.Head
	journal []byte
	live    bool // more records may follow
}

// findAnchor asks the running agent for the trail's head or, if none runs, its ledger. With
// --file it does without either if both are missing.
func (t *tool) findAnchor(c *cli.Context, p *place) (*anchor, error) {
	cl, err := p.dial(c.Context, p.agent().AdminSocket)
	if err == nil {
		defer cl.Close()
		h, err := cl.AuditHead(c.Context)
		if err != nil {
			return nil, err
		}
		return &anchor{name: "agent", head: audit.Head{Seq: h.Seq, Hash: h.Hash}, live: true}, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, err
	}
	if !p.dirs.Used() && !c.IsSet("file") {
		return nil, withHint(fmt.Errorf("no agent has run in %s yet", p.dirs.Config), "%s", startCommand(p.dirs))
	}
	head, journal, err := session.ReadTrail(p.dirs.Ledger())
	switch {
	case err == nil:
		return &anchor{"ledger", head, journal, false}, nil
	case errors.Is(err, fs.ErrNotExist) && c.IsSet("file"):
		return &anchor{name: "none", live: true}, nil
	}
	return nil, err
}
