package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

func (t *tool) archiveCommand() *cli.Command {
	return &cli.Command{
		Name:  "archive",
		Usage: "move sealed segments of the trail to another directory, or delete them",
		Description: "The trail is verified first, and each copy is read again. Before anything is deleted, the trail gets a record with the number and hash of the last record\n" +
			"that goes: so the rest can still be verified, alone or with its archive (keyward audit verify --archive).",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", TakesFile: true, Usage: "`DIRECTORY` to move them to"},
			&cli.BoolFlag{Name: "gzip", Usage: "compress them there"},
			&cli.BoolFlag{Name: "drop", Usage: "delete them instead"},
			&cli.DurationFlag{Name: "older-than", Usage: "only segments whose last record is older than `DURATION`, such as 2160h"},
		},
		Action: t.auditArchive,
	}
}

func (t *tool) auditArchive(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if (c.String("to") == "") != c.Bool("drop") || c.Bool("drop") && c.Bool("gzip") {
		return usageError("give --to DIRECTORY, with or without --gzip, or --drop")
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	to := c.String("to")
	if to != "" {
		if to, err = filepath.Abs(to); err != nil {
			return err
		}
	}
	a, err := t.findAnchor(c, p)
	if err != nil {
		return err
	}
	path := p.dirs.AuditTrail()
	if _, err := audit.Verify(path, a.head, a.journal, a.live); err != nil {
		return err
	}
	segments, err := olderThan(path, time.Now().Add(-c.Duration("older-than")))
	if err != nil {
		return err
	}
	gone := &audit.Gone{To: to}
	if len(segments) > 0 {
		if gone, err = t.archive(c, p, a, segments, to); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		return t.printJSON(gone)
	}
	t.print("%d segments were archived; the trail begins with record %d", len(segments), gone.Records+1)
	return nil
}

// olderThan are the first sealed segments that were last written to before limit.
func olderThan(path string, limit time.Time) ([]audit.Sealed, error) {
	all, err := audit.SealedSegments(path)
	for i, s := range all {
		if s.At.After(limit) {
			return all[:i], err
		}
	}
	return all, err
}

// archive copies segments, has the trail say so, and deletes them.
func (t *tool) archive(c *cli.Context, p *place, a *anchor, segments []audit.Sealed, to string) (*audit.Gone, error) {
	path := p.dirs.AuditTrail()
	tree, err := audit.OpenTree(audit.TreePath(path)) // for checkpoints of later
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	if err := tree.Extend(path, segments[len(segments)-1].Last); err != nil && uint64(tree.Len()) < segments[len(segments)-1].Last {
		return nil, err
	}
	gone, err := audit.Archive(segments, to, c.Bool("gzip"), tree)
	if err != nil {
		return nil, err
	}
	if err := p.recordArchived(c.Context, a, gone); err != nil {
		return nil, fmt.Errorf("nothing was deleted, as the trail could not be told: %w", err)
	}
	return gone, audit.Remove(segments)
}

// recordArchived makes the record durable: by the agent, or in its state if none runs.
func (p *place) recordArchived(ctx context.Context, a *anchor, gone *audit.Gone) error {
	if a.live {
		cl, err := p.dial(ctx, p.agent().AdminSocket)
		if err != nil {
			return err
		}
		defer cl.Close()
		said := api.TrailArchived{Records: gone.Records, Hash: gone.Hash, To: gone.To}
		for _, h := range gone.Tree {
			said.Tree = append(said.Tree, h.String())
		}
		for _, f := range gone.Files {
			said.Files = append(said.Files, api.ArchivedFile(f))
		}
		return cl.TrailArchived(ctx, said)
	}
	s, err := session.Open(session.Config{
		LedgerPath: p.dirs.Ledger(), AuditPath: p.dirs.AuditTrail(), LockPath: p.dirs.LockFile(), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return errors.Join(s.TrailArchived(ctx, audit.Peer{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}, gone), s.Close())
}

// verifyArchive verifies archived segments with the rest of the trail.
func (t *tool) verifyArchive(dir, trail string) error {
	missing, err := audit.VerifyArchive(dir, trail)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no segments of the trail in %s: %w", dir, err)
	case err != nil:
		return err
	case missing > 0:
		t.note("the archive and the trail are one chain; records 1 to %d are in neither", missing)
	default:
		t.note("the archive and the trail are one chain from record 1 on")
	}
	return nil
}
