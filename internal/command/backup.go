package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/backup"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/session"
)

func (t *tool) backupCommand() *cli.Command {
	return &cli.Command{
		Name:  "backup",
		Usage: "write configuration, ledger, audit trail and sealed keys into one file, while the agent runs or not",
		Description: "The file is checked before it gets its name: ledger and trail are opened and verified. It has no " +
			"PIN, and no key that is in a device.\n" +
			"Keep it as secret as the audit trail.",
		Flags:  []cli.Flag{&cli.StringFlag{Name: "out", TakesFile: true, Usage: "`FILE` to write, which must not exist"}},
		Action: t.backup,
	}
}

// backedUp is what backup --json prints.
type backedUp struct {
	File    string    `json:"file"`
	Bytes   int64     `json:"bytes"`
	Created time.Time `json:"created"`
	Records uint64    `json:"records"` // of the trail
	Hash    string    `json:"hash"`    // of the last one
}

func (t *tool) backup(c *cli.Context) error {
	if err := required(c, "out"); err != nil {
		return err
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	out := c.String("out")
	if _, err := os.Lstat(out); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s is there already", out), err)
	}
	scratch, err := os.MkdirTemp(filepath.Dir(out), ".keyward-backup-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	ledger, err := p.copyLedger(c, scratch)
	if err != nil {
		return err
	}
	defer os.RemoveAll(ledger)
	made, err := writeBackup(p, ledger, filepath.Join(scratch, "backup"), out)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(made)
	}
	t.print("%s: %d records, the last is %s; %d bytes, checked", made.File, made.Records, made.Hash, made.Bytes)
	return nil
}

// copyLedger returns a copy of the ledger that does not change: the running agent's, or one in scratch if none runs.
func (p *place) copyLedger(c *cli.Context, scratch string) (string, error) {
	cl, err := p.dial(c.Context, p.agent().AdminSocket)
	if err == nil {
		defer cl.Close()
		copied, err := cl.CopyLedger(c.Context)
		return copied.Directory, err
	}
	if errors.Is(err, fs.ErrPermission) || !p.dirs.Used() {
		return "", err
	}
	to := filepath.Join(scratch, "ledger")
	return to, session.CopyStopped(p.dirs.Ledger(), to)
}

// writeBackup writes the backup, checks it and gives it its name.
func writeBackup(p *place, ledger, temp, out string) (*backedUp, error) {
	f, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = backup.Write(f, p.dirs, ledger, version(), time.Now())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	m, err := backup.Check(temp)
	if err != nil {
		return nil, err
	}
	fi, err := os.Stat(temp)
	if err != nil {
		return nil, err
	}
	if err := os.Link(temp, out); err != nil { // not over another file
		return nil, err
	}
	return &backedUp{out, fi.Size(), m.Created, m.Records, m.Hash}, durable.SyncDir(filepath.Dir(out))
}

func (t *tool) restoreCommand() *cli.Command {
	return &cli.Command{
		Name:      "restore",
		Usage:     "put a backup into the place of an agent that does not run",
		ArgsUsage: "FILE",
		Description: "A backup does not know what was signed after it. If that is not known from the audit trail in place " +
			"either, restore refuses\n" +
			"until --since says what to do. What was in place is moved aside, and nothing is deleted. The audit trail gets a " +
			"record of it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "since", Usage: "of the time since the backup, `WHAT`: \"trail\": count what the trail in " +
				"place shows; \"spent\": count the limits of all sessions as used up; " +
				"\"nothing\": you know that nothing was signed"},
			&cli.BoolFlag{Name: "check", Usage: "only check the file"},
		},
		Action: t.restore,
	}
}

func (t *tool) restore(c *cli.Context) error {
	args, err := operands(c, "FILE")
	if err != nil {
		return err
	}
	if c.Bool("check") {
		return t.checkBackup(c, args[0])
	}
	since := session.Since(c.String("since"))
	switch since {
	case "", session.SinceTrail, session.SinceSpent, session.SinceNothing:
	default:
		return usageError("--since %q: want trail, spent or nothing", since)
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	if cl, err := p.dial(c.Context, p.agent().AdminSocket); err == nil {
		return errors.Join(errors.New("the agent runs: stop it first"), cl.Close())
	}
	res, err := backup.Restore(args[0], p.dirs, since, time.Now())
	switch {
	case errors.Is(err, session.ErrSince):
		return withHint(withCode(exitFailed, err), "say what of the time since: --since trail, --since spent or --since "+
			"nothing (keyward restore --help)")
	case errors.Is(err, backup.ErrDamaged):
		return withCode(exitDamaged, err)
	case err != nil:
		return err
	}
	if c.Bool("json") {
		return t.printJSON(res)
	}
	t.print("restored the backup of %s: the ledger has records up to %d", res.Backup, res.To)
	t.sayForward(&res.Forward)
	if !res.Config {
		t.note("the configuration in %s was left as it is", p.dirs.Config)
	}
	if res.Locked {
		t.note("the agent starts locked: look at its sessions, revoke what was revoked since, then keyward unlock")
	}
	return nil
}

func (t *tool) checkBackup(c *cli.Context, file string) error {
	m, err := backup.Check(file)
	if err != nil {
		return withCode(exitDamaged, err)
	}
	if c.Bool("json") {
		return t.printJSON(m)
	}
	t.print("%s: a backup of %s by keyward %s, %d records, the last is %s", file, m.Created.Format(time.RFC3339),
		m.Version, m.Records, m.Hash)
	return nil
}

// sayForward says what was counted for the time that a ledger does not know, and what the operator has to do.
func (t *tool) sayForward(f *session.Forward) {
	if f.Grants > 0 {
		t.note("%d signatures since record %d were counted from the trail", f.Grants, f.From)
	}
	for _, part := range []struct {
		ids  []session.ID
		what string
	}{
		{f.Ended, "have ended since, by the trail"},
		{f.Spent, "have no limits left: their limits count as used up"},
		{f.Changed, "had their clients changed since: keyward session set-clients"},
		{f.Unknown, "were made since and are lost: have them revoked on chain"},
	} {
		if len(part.ids) > 0 {
			t.note("sessions that %s: %s", part.what, joinIDs(part.ids))
		}
	}
	if f.Aside != "" {
		t.note("what was there before is in %s", f.Aside)
	}
}

func joinIDs(ids []session.ID) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = string(id)
	}
	return strings.Join(texts, ", ")
}
