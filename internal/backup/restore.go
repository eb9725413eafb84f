package backup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/session"
)

// Restored is what [Restore] did.
type Restored struct {
	session.Forward
	Locked bool // the agent starts locked
	Config bool // the configuration was restored; false: there was one
}

// Restore puts the backup at path into the place of the agent in dirs, which must not run. What was there is moved
// aside, into a directory of the state.
//
// A backup does not know what was signed after it. If the trail in place continues the backup's, it stays, and shows
// that: see [session.RollForward]. If there is none or another one, since has to be spent or nothing; else the error
// wraps [session.ErrSince]. Unless the trail shows that nothing was signed since, the agent starts locked, as sessions
// may have been revoked. The trail then has a record of what was done.
//
// After an error before anything was moved, nothing has changed. A crash while files are moved leaves a state that no
// agent starts with; everything is still there, and Restore can be called again.
func Restore(path string, dirs config.Dirs, since session.Since, now time.Time) (*Restored, error) {
	if _, _, err := session.ReadTrail(dirs.Ledger()); errors.Is(err, session.ErrInUse) {
		return nil, err
	}
	if err := os.MkdirAll(dirs.State, 0o700); err != nil {
		return nil, err
	}
	stage := filepath.Join(dirs.State, "restoring")
	if err := os.RemoveAll(stage); err != nil {
		return nil, err
	}
	res, err := restoreIn(stage, path, dirs, since, now)
	return res, errors.Join(err, os.RemoveAll(stage))
}

func restoreIn(stage, path string, dirs config.Dirs, since session.Since, now time.Time) (*Restored, error) {
	m, err := Extract(path, stage)
	if err != nil {
		return nil, err
	}
	made := config.Dirs{Config: stage, State: filepath.Join(stage, stateName)}
	aside := filepath.Join(dirs.State, "before-restore-"+now.UTC().Format("20060102T150405Z"))
	res, err := prepare(made, dirs, m, since, now, aside)
	if err != nil {
		return nil, err
	}
	if err := giveToOwner(stage, dirs.State); err != nil {
		return nil, err
	}
	if err := swap(made.State, dirs.State, aside); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(dirs.ConfigFile()); errors.Is(err, fs.ErrNotExist) {
		data, err := os.ReadFile(made.ConfigFile())
		if errors.Is(err, fs.ErrNotExist) {
			return res, nil
		}
		if err != nil {
			return nil, err
		}
		res.Config = true
		return res, durable.WriteFile(dirs.ConfigFile(), data, 0o600)
	}
	return res, nil
}

// prepare makes of what was unpacked the state that the agent is to have.
func prepare(made, dirs config.Dirs, m *Manifest, since session.Since, now time.Time, aside string) (*Restored, error) {
	if err := record(made, nil); err != nil { // completes the trail's end by the ledger's journal
		return nil, err
	}
	head, _, err := session.ReadTrail(made.Ledger())
	if err != nil {
		return nil, err
	}
	end, after := audit.ReadAfter(dirs.AuditTrail(), head, func([]byte) error { return nil })
	if after == nil {
		_, after = audit.Verify(dirs.AuditTrail(), end, nil, false) // what is before the backup's last record, too
	}
	current, _, ledgerErr := session.ReadTrail(dirs.Ledger())
	if after == nil && ledgerErr == nil && current.Seq > end.Seq {
		after = fmt.Errorf("it ends with record %d, and the ledger in place with %d", end.Seq, current.Seq)
	}
	switch {
	case after == nil && since == "" && ledgerErr != nil:
		return nil, fmt.Errorf("%w record %d of %s, the backup's last: the trail in place has records up to %d, and may "+
			"lack the newest, since its ledger can't be read (%w)",
			session.ErrSince, m.Records, m.Created.Format(time.RFC3339), end.Seq, ledgerErr)
	case after == nil:
		if err := takeTrail(dirs.AuditTrail(), made.State); err != nil {
			return nil, err
		}
	case since != session.SinceSpent && since != session.SinceNothing:
		return nil, fmt.Errorf("%w record %d of %s, the backup's last: the audit trail in %s does not continue it (%w)",
			session.ErrSince, m.Records, m.Created.Format(time.RFC3339), dirs.State, after)
	}
	f, err := session.RollForward(made.Ledger(), made.AuditTrail(), since, now)
	if err != nil {
		return nil, err
	}
	f.Backup = m.Created.Format(time.RFC3339)
	if entries, err := os.ReadDir(dirs.State); err == nil && len(entries) > 1 {
		f.Aside = aside
	}
	proven := since == ""
	if !proven || session.LockedOnDisk(dirs.LockFile()) {
		if err := session.WriteLock(made.LockFile(), now); err != nil {
			return nil, err
		}
	}
	res := &Restored{Forward: *f, Locked: session.LockedOnDisk(made.LockFile())}
	return res, record(made, &audit.Record{Time: now.UTC(), Event: audit.StateRestored, Detail: f})
}

// record opens the state in dirs without devices and records rec, which may be nil.
func record(dirs config.Dirs, rec *audit.Record) error {
	s, err := session.Open(session.Config{
		LedgerPath: dirs.Ledger(), AuditPath: dirs.AuditTrail(), LockPath: dirs.LockFile(),
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	if rec != nil {
		err = s.Record(context.Background(), *rec)
	}
	return errors.Join(err, s.Close())
}

// takeTrail replaces the trail in state by the one whose newest segment is at path. Sealed segments do not change, and
// get a second name.
func takeTrail(path, state string) error {
	old, err := audit.Segments(filepath.Join(state, filepath.Base(path)))
	if err != nil {
		return err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return err
		}
	}
	all, err := audit.Segments(path)
	if err != nil {
		return err
	}
	for _, file := range all {
		to := filepath.Join(state, filepath.Base(file))
		if file != path {
			err = os.Link(file, to)
		} else {
			err = copyFile(file, to)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = unpackFile(f, to)
	return err
}

// giveToOwner makes everything below dir belong to the owner of state, if root does this.
func giveToOwner(dir, state string) error {
	info, err := os.Stat(state)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(owner.Uid), int(owner.Gid))
	})
}

// swap moves what is in state to aside, and what is in made to state, the ledger last: no agent starts without it.
// Notes of PIN attempts stay, since the device has counted them.
func swap(made, state, aside string) error {
	if err := moveAll(state, aside, func(name string) bool {
		return name != "restoring" && !strings.HasPrefix(name, "before-") && name != "pin-tries" && name != "cards"
	}); err != nil {
		return err
	}
	if _, err := os.Lstat(filepath.Join(state, "pin-tries")); err == nil {
		if err := os.RemoveAll(filepath.Join(made, "pin-tries")); err != nil {
			return err
		}
	}
	if err := moveAll(made, state, func(name string) bool { return name != "ledger" }); err != nil {
		return err
	}
	return moveAll(made, state, func(string) bool { return true })
}

// moveAll moves the entries of from that want lets through to the directory to, durably.
func moveAll(from, to string, want func(name string) bool) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !want(e.Name()) {
			continue
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		if err := os.Rename(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return err
		}
	}
	if _, err := os.Stat(to); err == nil {
		if err := giveToOwner(to, from); err != nil {
			return err
		}
		if err := durable.SyncDir(to); err != nil {
			return err
		}
	}
	return durable.SyncDir(from)
}
