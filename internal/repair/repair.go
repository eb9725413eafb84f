// Package repair names the damages of an agent's state and repairs them, each only on the operator's word.
package repair

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/session"
)

// Choice is one way to repair a damage.
type Choice struct {
	Name string `json:"name"`
	Does string `json:"does"`
}

// The ways to repair. The command prints what a way does before it does it.
var (
	restore = Choice{"restore", "keyward restore FILE: put a backup in its place. This loses nothing that the trail shows"}
	abandon = Choice{"abandon", "move the state aside and begin a new one: nothing more is ever signed for its " +
		"sessions, which have to be revoked on chain"}
	keepOld = Choice{"keep-old", "move the directory ledger aside and take ledger.db over again"}
	keepNew = Choice{"keep-new", "move ledger.db aside and use the directory ledger"}
	mend    = Choice{"mend", "with --from BACKUP: take the damaged records from a backup, and check every record by " +
		"the chain. This loses nothing"}
	segment = Choice{"new-segment", "move the whole trail aside and begin a new segment after the ledger's last " +
		"record: the old records are not verified any more"}
	trail = Choice{"trail", "count what the later records of the trail say was signed, and end the sessions that they end"}
	spent = Choice{"spent", "count the limits of all sessions that could sign as used up"}
)

// Finding is a damage and the ways to repair it.
type Finding struct {
	Damage  error
	Choices []Choice // none: what Damage says is to be done
}

// Find opens the state in dirs, of an agent that does not run, as a start does, and verifies the whole trail. It
// returns nil if all is well.
func Find(dirs config.Dirs) *Finding {
	if !dirs.Used() {
		if err := session.CheckLost(dirs.Ledger(), dirs.AuditTrail()); err != nil {
			return &Finding{err, []Choice{restore, abandon}}
		}
		return nil
	}
	err := open(dirs, nil)
	if err == nil {
		var head audit.Head
		var journal []byte
		if head, journal, err = session.ReadTrail(dirs.Ledger()); err == nil {
			_, err = audit.Verify(dirs.AuditTrail(), head, journal, false)
		}
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, session.ErrInUse), errors.Is(err, session.ErrOtherVersion):
		return &Finding{err, nil}
	case errors.Is(err, session.ErrTwoLedgers):
		return &Finding{err, []Choice{keepOld, keepNew}}
	case errors.Is(err, audit.ErrAhead), errors.Is(err, audit.ErrDamaged):
		return &Finding{err, trailChoices(dirs)}
	case errors.Is(err, session.ErrDamaged):
		return &Finding{err, []Choice{restore, abandon}}
	}
	return &Finding{err, nil}
}

// trailChoices are the ways to repair a trail that does not fit its ledger. If it has any record that the ledger does
// not know, the ledger is an old copy, which must not go on as if nothing had been signed since.
func trailChoices(dirs config.Dirs) []Choice {
	head, _, err := session.ReadTrail(dirs.Ledger())
	if err != nil {
		return []Choice{restore}
	}
	end, err := audit.ReadAfter(dirs.AuditTrail(), head, func([]byte) error { return nil })
	switch {
	case err == nil && end.Seq > head.Seq:
		return []Choice{trail, spent}
	case later(dirs.AuditTrail(), head.Seq):
		return []Choice{restore}
	}
	return []Choice{mend, segment}
}

// later reports whether the trail at path has a line that may be a record after number seq.
func later(path string, seq uint64) bool {
	r, err := audit.OpenSegments(path)
	if err != nil {
		return false
	}
	defer r.Close()
	for lines := bufio.NewReaderSize(r, 1<<16); ; {
		line, err := lines.ReadBytes('\n')
		var rec struct{ Seq uint64 }
		if json.Unmarshal(bytes.TrimRight(line, "\n"), &rec) == nil && rec.Seq > seq {
			return true
		}
		if err != nil {
			return err != io.EOF
		}
	}
}

// open opens the state without devices, and records rec if that is not nil.
func open(dirs config.Dirs, rec *audit.Record) error {
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

// Done is what a repair did. It is the detail of the record that says so.
type Done struct {
	Damage  string           `json:"damage"`
	Choice  string           `json:"choice"`
	Aside   string           `json:"aside,omitempty"`   // directory with what was moved
	Forward *session.Forward `json:"forward,omitempty"` // what was counted
}

// Do repairs f in the way that choice names; from is the backup for mend. The trail has a record of it when Do returns
// nil, and the state opens.
func Do(f *Finding, dirs config.Dirs, choice, from string, now time.Time) (*Done, error) {
	offered := false
	for _, c := range f.Choices {
		offered = offered || c.Name == choice
	}
	if !offered || choice == restore.Name {
		return nil, fmt.Errorf("%q does not repair this damage here", choice)
	}
	r := &repairing{dirs: dirs, now: now, from: from, Done: Done{Damage: f.Damage.Error(), Choice: choice}}
	r.aside = filepath.Join(dirs.State, "before-repair-"+now.UTC().Format("20060102T150405.000Z"))
	do := map[string]func() error{
		abandon.Name: r.abandon, keepOld.Name: func() error { return r.moveAside("ledger") },
		keepNew.Name: func() error { return r.moveAside("ledger.db") },
		mend.Name:    r.mend, segment.Name: r.newSegment, trail.Name: r.rollForward, spent.Name: r.rollForward,
	}[choice]
	if err := do(); err != nil {
		return nil, err
	}
	return &r.Done, open(dirs, &audit.Record{Time: now.UTC(), Event: audit.StateRepaired, Detail: r.Done})
}

// repairing is a repair under way.
type repairing struct {
	Done
	dirs  config.Dirs
	now   time.Time
	from  string
	aside string
}

// moveAside moves entries of the state's directory into a new one there, durably.
func (r *repairing) moveAside(names ...string) error {
	if err := os.Mkdir(r.aside, 0o700); err != nil {
		return err
	}
	for _, name := range names {
		if err := os.Rename(filepath.Join(r.dirs.State, name), filepath.Join(r.aside, name)); err != nil {
			return err
		}
	}
	r.Aside = r.aside
	if err := giveToOwner(r.aside, r.dirs.State); err != nil {
		return err
	}
	return errors.Join(durable.SyncDir(r.aside), durable.SyncDir(r.dirs.State))
}

// trailFiles are the names of the trail's segments.
func (r *repairing) trailFiles() (names []string, err error) {
	all, err := audit.Segments(r.dirs.AuditTrail())
	for _, path := range all {
		names = append(names, filepath.Base(path))
	}
	return names, err
}

func (r *repairing) abandon() error {
	names, err := r.trailFiles()
	if err != nil {
		return err
	}
	for _, name := range []string{"ledger", "ledger.db", "ledger.db.old", "keys", "audit.tree", "checkpoint.key"} {
		if _, err := os.Lstat(filepath.Join(r.dirs.State, name)); err == nil {
			names = append(names, name)
		}
	}
	if err := r.moveAside(names...); err != nil {
		return err
	}
	return session.Forget(r.dirs.State)
}

func (r *repairing) rollForward() (err error) {
	r.Forward, err = session.RollForward(r.dirs.Ledger(), r.dirs.AuditTrail(), session.Since(r.Choice), r.now)
	return err
}

// newSegment begins a segment after the ledger's last record. Its first record says that all before it is gone.
func (r *repairing) newSegment() error {
	names, err := r.trailFiles()
	if err != nil {
		return err
	}
	head, err := session.BeginSegment(r.dirs.Ledger())
	if err != nil {
		return err
	}
	if len(names) > 0 {
		if err := r.moveAside(names...); err != nil {
			return err
		}
	}
	gone := audit.Gone{Records: head.Seq, Hash: fmt.Sprintf("0x%x", head.Hash), To: r.Aside, Why: r.Damage}
	return open(r.dirs, &audit.Record{Time: r.now.UTC(), Event: audit.TrailRepaired, Detail: gone})
}
