package command

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

func (t *tool) eraseCommand() *cli.Command {
	return &cli.Command{
		Name:  "erase",
		Usage: "delete personal data from the trail, and leave its chain as it is",
		Description: "Personal data is the client (user, group, process, program), the transaction, and the clients and " +
			"accounts of\n" +
			"sessions. The records stay, with what was decided, and so do their numbers and hashes: the trail verifies as " +
			"before.\n" +
			"Records of older versions have no such data apart; archive or drop their segments.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "session", Usage: "of the session whose id or signer begins with `ID`"},
			&cli.StringFlag{Name: "client", Usage: "of the `CLIENT`: uid:N, gid:N or a user's name"},
			&cli.StringFlag{Name: "until", Usage: "of records before this `TIME`: 720h (ago), 90d, 2026-11-28, or " +
				"2026-11-28T15:04:05Z"},
			&cli.StringFlag{Name: "archive", TakesFile: true, Usage: "in the archived segments in `DIRECTORY`, too"},
		},
		Action: t.auditErase,
	}
}

// erased is what audit erase --json prints.
type erased struct {
	Erased int `json:"erased"` // records
	Older  int `json:"older"`  // chosen records of older versions, which are as they were
}

func (t *tool) auditErase(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	filter, choice, err := erasureOf(c)
	if err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	path := p.dirs.AuditTrail()
	if !p.dirs.Used() {
		return withHint(fmt.Errorf("no agent has run in %s yet", p.dirs.Config), "%s", startCommand(p.dirs))
	}
	tree, err := audit.OpenTree(audit.TreePath(path)) // its lock keeps other commands that change segments away
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
	if err := p.recordErased(c.Context, a, choice); err != nil {
		return fmt.Errorf("nothing was erased, as the trail could not be told: %w", err)
	}
	done, err := eraseAll(path, c.String("archive"), filter)
	if err != nil {
		return fmt.Errorf("%d records were erased; the same command does the rest: %w", done.Erased, err)
	}
	if done.Older > 0 {
		t.note("%d records are of older versions and stay as they were: archive or drop their segments (keyward audit "+
			"archive)", done.Older)
	}
	if c.Bool("json") {
		return t.printJSON(done)
	}
	t.print("personal data of %d records was erased", done.Erased)
	return nil
}

// erasureOf reads the flags that choose records. choice is what the trail says of them.
func erasureOf(c *cli.Context) (filter *recordFilter, choice api.TrailErased, err error) {
	if filter, err = readFilter(c); err != nil {
		return nil, choice, err
	}
	if filter.any() {
		return nil, choice, usageError("give --session, --client or --until: what to erase")
	}
	choice.Session, choice.Client = filter.session, filter.client != ""
	if !filter.until.IsZero() {
		choice.Until = filter.until.UTC().Format(time.RFC3339)
	}
	return filter, choice, nil
}

// recordErased makes the record durable and has all earlier records sealed: by the agent, or in its state if none runs.
func (p *place) recordErased(ctx context.Context, a *anchor, choice api.TrailErased) error {
	if a.live {
		cl, err := p.dial(ctx, p.agent().AdminSocket)
		if err != nil {
			return err
		}
		defer cl.Close()
		return cl.TrailErased(ctx, choice)
	}
	s, err := session.Open(session.Config{
		LedgerPath: p.dirs.Ledger(), AuditPath: p.dirs.AuditTrail(), LockPath: p.dirs.LockFile(),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return errors.Join(s.TrailErased(ctx, me(), choice), s.Close())
}

// eraseAll erases from the sealed segments of the trail and from an archive, "" for none.
func eraseAll(trail, archive string, filter *recordFilter) (all erased, err error) {
	segments, err := audit.SealedSegments(trail)
	if err != nil {
		return all, err
	}
	var files []string
	for _, s := range segments {
		files = append(files, s.Path)
	}
	if archive != "" {
		more, err := audit.ArchivedSegments(archive, trail)
		if err != nil {
			return all, err
		}
		files = append(files, more...)
	}
	for _, file := range files {
		done, err := audit.Erase(file, filter.lets)
		if err != nil {
			return all, fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		all.Erased += done.Erased
		all.Older += done.Older
	}
	return all, nil
}
