package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"filippo.io/torchwood"
	"github.com/urfave/cli/v2"
	"golang.org/x/mod/sumdb/note"

	"github.com/keyward/keyward/audit"
)

func (t *tool) checkpointCommand() *cli.Command {
	return &cli.Command{
		Name:  "checkpoint",
		Usage: "print a signed statement of all records, to be kept elsewhere (c2sp.org/tlog-checkpoint)",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "origin", Usage: "`NAME` of the trail in its checkpoints, when the first one is made " +
				"(default: keyward/HOSTNAME)"},
			&cli.StringFlag{Name: "out", TakesFile: true, Usage: "write it to `FILE` too, if that file's checkpoint is of " +
				"this trail"},
		},
		Action: t.auditCheckpoint,
	}
}

func (t *tool) witnessCommand() *cli.Command {
	return &cli.Command{
		Name:  "witness",
		Usage: "give checkpoints to a witness, which notices a trail that was set back together with its ledger",
		Description: "The witness is a file, which belongs on another host or on a disk that only grows, or a server that " +
			"speaks c2sp.org/tlog-witness.\n" +
			"Exit code 65: the trail does not continue what the witness has seen.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", Usage: "`FILE`, or the submission prefix of a server: https://…"},
			&cli.StringFlag{Name: "witness-key", Usage: "`KEY` of the server, which then has to sign its answer: NAME+HASH+KEY"},
			&cli.DurationFlag{Name: "every", Usage: "go on, with a checkpoint every `DURATION` if there are new records, " +
				"until interrupted"},
		},
		Action: t.auditWitness,
	}
}

// checkpointed is what audit checkpoint --json and audit witness --json print.
type checkpointed struct {
	Origin  string `json:"origin"`
	Records int64  `json:"records"`
	Root    string `json:"root"` // base64
	Key     string `json:"key"`  // that has signed, as witnesses take it
	Note    string `json:"note"` // the signed checkpoint, with the witness's signatures
}

// trailLog is a trail whose checkpoints are made here.
type trailLog struct {
	audit.Log
	c     *cli.Context
	tool  *tool
	place *place
}

// openLog reads the key of the trail's checkpoints, or makes it if there is none.
func (t *tool) openLog(c *cli.Context, origin string) (*trailLog, error) {
	p, err := findPlace(c)
	if err != nil {
		return nil, err
	}
	l := &trailLog{Log: audit.Log{Trail: p.dirs.AuditTrail()}, c: c, tool: t, place: p}
	if !p.dirs.Used() {
		return nil, withHint(fmt.Errorf("no agent has run in %s yet", p.dirs.Config), "%s", startCommand(p.dirs))
	}
	path := audit.KeyPath(l.Trail)
	l.Key, err = audit.ReadKey(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		host, _ := os.Hostname() // "": the default has no host
		if l.Key, err = audit.MakeKey(path, cmp.Or(origin, "keyward/"+cmp.Or(host, "agent"))); err != nil {
			return nil, err
		}
		t.note("made the key of checkpoints, %s; keep its public part elsewhere: %s", path, l.Key.Text)
	case err != nil:
		return nil, err
	case origin != "" && origin != l.Key.Name():
		return nil, usageError("--origin %q: the checkpoints of this trail have the origin %q", origin, l.Key.Name())
	}
	return l, nil
}

// add gives a checkpoint of all records to w, which may be nil. Other processes can make checkpoints before and after.
func (l *trailLog) add(ctx context.Context, w audit.Witness) (_ *checkpointed, err error) {
	if l.Tree, err = audit.OpenTree(audit.TreePath(l.Trail)); err != nil {
		return nil, err
	}
	defer l.Tree.Close()
	a, err := l.tool.findAnchor(l.c, l.place)
	if err != nil {
		return nil, err
	}
	c, signed, err := l.Checkpoint(a.head.Seq)
	if err != nil {
		return nil, err
	}
	text := string(signed)
	if w != nil {
		cosigned, err := w.Add(ctx, &l.Log, c, signed)
		if err != nil {
			return nil, err
		}
		text += string(cosigned)
	}
	return &checkpointed{c.Origin, c.Tree.N, c.Tree.Hash.String(), l.Key.Text, text}, nil
}

func (t *tool) auditCheckpoint(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	l, err := t.openLog(c, c.String("origin"))
	if err != nil {
		return err
	}
	var w audit.Witness
	if out := c.String("out"); out != "" {
		w = audit.FileWitness(out)
	}
	made, err := l.add(c.Context, w)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(made)
	}
	t.print("%s", strings.TrimSuffix(made.Note, "\n"))
	return nil
}

func (t *tool) auditWitness(c *cli.Context) error {
	if err := required(c, "to"); err != nil {
		return err
	}
	w, err := witnessFor(c)
	if err != nil {
		return err
	}
	l, err := t.openLog(c, "")
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	for last := int64(-1); ; {
		made, err := l.add(ctx, w)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && (c.Duration("every") == 0 || errors.Is(err, audit.ErrDamaged)):
			return err
		case err != nil: // the witness or the agent may come back
			t.note("warning: %v; trying again in %v", err, c.Duration("every"))
		case made.Records != last:
			last = made.Records
			if err := t.showWitnessed(c, made); err != nil {
				return err
			}
		}
		if c.Duration("every") == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(c.Duration("every")):
		}
	}
}

func (t *tool) showWitnessed(c *cli.Context, made *checkpointed) error {
	if c.Bool("json") {
		return t.printJSON(made)
	}
	t.print("%s has %d records of %s, with the root %s", c.String("to"), made.Records, made.Origin, made.Root)
	return nil
}

// witnessFor reads the flags of audit witness.
func witnessFor(c *cli.Context) (audit.Witness, error) {
	to := c.String("to")
	if c.Duration("every") < 0 {
		return nil, usageError("--every %v: want more than 0", c.Duration("every"))
	}
	if !strings.HasPrefix(to, "https://") && !strings.HasPrefix(to, "http://") {
		if c.IsSet("witness-key") {
			return nil, usageError("--witness-key is for a server, and --to names a file")
		}
		return audit.FileWitness(to), nil
	}
	w := &audit.HTTPWitness{URL: to}
	if text := c.String("witness-key"); text != "" {
		key, err := witnessKey(text)
		if err != nil {
			return nil, usageError("--witness-key: %v", err)
		}
		w.Key = key
	}
	return w, nil
}

// witnessKey reads a key of c2sp.org/tlog-cosignature or a plain one of a signed note.
func witnessKey(text string) (note.Verifier, error) {
	if key, err := torchwood.NewCosignatureVerifier(text); err == nil {
		return key, nil
	}
	return note.NewVerifier(text)
}

// verifyCheckpoint compares a trail with the checkpoint in the file that --checkpoint names.
func (t *tool) verifyCheckpoint(c *cli.Context, p *place, trail string) error {
	signed, err := t.readInput(c.String("checkpoint"))
	if err != nil {
		return err
	}
	var key note.Verifier
	if text := c.String("key"); text != "" {
		if key, err = note.NewVerifier(text); err != nil {
			return usageError("--key: %v", err)
		}
	} else {
		own, err := audit.ReadKey(audit.KeyPath(p.dirs.AuditTrail()))
		if err != nil {
			return withHint(err, "give --key, the public key that the checkpoint is signed with")
		}
		key = own.Verifier
	}
	cp, err := audit.OpenCheckpoint(signed, key)
	if err != nil {
		return inFile(c.String("checkpoint"), err)
	}
	if err := audit.VerifyCheckpoint(trail, cp); err != nil {
		return err
	}
	t.note("the first %d records are those of the checkpoint", cp.Tree.N)
	return nil
}
