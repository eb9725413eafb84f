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
		Description: "The trail is verified first, and each copy is read again. Before a segment is deleted, the trail " +
			"gets a record\n" +
			"with the number and hash of its last record: so the rest can still be verified, alone or with its archive\n" +
			"(keyward audit verify --archive).",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "to", TakesFile: true, Usage: "`DIRECTORY` to move them to"},
			&cli.BoolFlag{Name: "gzip", Usage: "compress them there"},
			&cli.BoolFlag{Name: "drop", Usage: "delete them instead"},
			&cli.DurationFlag{Name: "older-than", Usage: "only segments whose last record is older than `DURATION`, such as " +
				"2160h"},
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
	path := p.dirs.AuditTrail()
	if !p.dirs.Used() {
		return withHint(fmt.Errorf("no agent has run in %s yet", p.dirs.Config), "%s", startCommand(p.dirs))
	}
	tree, err := audit.OpenTree(audit.TreePath(path)) // its lock keeps another archive command away
	if err != nil {
		return err
	}
	defer tree.Close()
	a, err := t.findAnchor(c, p)
	if err != nil {
		return err
	}
	if _, err := audit.Verify(path, a.head, a.journal, a.live); err != nil {
		return err
	}
	segments, err := t.archivable(p, time.Now().Add(-c.Duration("older-than")))
	if err != nil {
		return err
	}
	done := archived{Segments: []*audit.Gone{}}
	for _, s := range segments {
		gone, err := p.archive(c.Context, a, s, to, c.Bool("gzip"), tree)
		if err != nil {
			return fmt.Errorf("%d of %d segments were archived: %w", len(done.Segments), len(segments), err)
		}
		done.Segments = append(done.Segments, gone)
	}
	begin, err := audit.Beginning(path)
	if err != nil {
		return err
	}
	done.First = begin.Seq + 1
	if c.Bool("json") {
		return t.printJSON(done)
	}
	t.print("%d segments were archived; the trail begins with record %d", len(segments), done.First)
	return nil
}

// archived is what audit archive --json prints.
type archived struct {
	Segments []*audit.Gone `json:"segments"`
	First    uint64        `json:"first"` // number of the first record that is left
}

// archivable are the sealed segments whose last record is older than limit, without those that audit export has not
// sent yet.
func (t *tool) archivable(p *place, limit time.Time) ([]audit.Sealed, error) {
	all, err := olderThan(p.dirs.AuditTrail(), limit)
	if err != nil {
		return nil, err
	}
	x := &export{file: exportPosition(p.dirs)}
	if known, err := x.load(); err != nil || !known {
		return all, err
	}
	for i, s := range all {
		if s.Last > x.sent.Seq {
			t.note("%d segments stay: 'keyward audit export' has sent the records up to %d only (%s)", len(all)-i, x.sent.Seq,
				x.file)
			return all[:i], nil
		}
	}
	return all, nil
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

// archive copies a segment, has the trail say so, and deletes it. After an error, or when the process is killed between
// two of these, the trail is whole: the next call does the rest.
func (p *place) archive(ctx context.Context, a *anchor, s audit.Sealed, to string, compress bool,
	tree *audit.Tree) (*audit.Gone, error) {
	if uint64(tree.Len()) < s.Last {
		if err := tree.Extend(p.dirs.AuditTrail(), s.Last); err != nil {
			return nil, err
		}
	}
	gone, err := audit.Archive(s, to, compress, tree)
	if err != nil {
		return nil, err
	}
	if err := p.recordArchived(ctx, a, gone); err != nil {
		return nil, fmt.Errorf("%s was not deleted, as the trail could not be told: %w", s.Path, err)
	}
	return gone, s.Remove()
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
		LedgerPath: p.dirs.Ledger(), AuditPath: p.dirs.AuditTrail(), LockPath: p.dirs.LockFile(),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return errors.Join(s.TrailArchived(ctx, me(), gone), s.Close())
}

// me is this process, as the kernel would tell of it.
func me() audit.Peer {
	return audit.Peer{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), PID: int32(os.Getpid())}
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
