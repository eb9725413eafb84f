package session

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/audit"
)

// Errors of [Open] and [ReadTrail]. What wraps them says how to repair.
var (
	// ErrInUse: another process has the ledger open.
	ErrInUse = errors.New("another agent uses this state")
	// ErrDamaged: the ledger is missing, cut short or not readable. An audit trail that is
	// damaged or ahead of the ledger is audit.ErrDamaged or audit.ErrAhead.
	ErrDamaged = errors.New("the ledger is damaged")
	// ErrOtherVersion: the ledger was written by a later version, which has to open it.
	ErrOtherVersion = errors.New("the ledger was written by another version of keyward")
	// ErrTwoLedgers: there is a ledger of this version and one of an older version. It wraps ErrDamaged.
	ErrTwoLedgers = fmt.Errorf("%w: there are two", ErrDamaged)
)

const repairHint = "restore the newest copies of ledger and audit trail together; without one, nothing more can be " +
	"signed for " +
	"the sessions in it: revoke them on chain, move the state directory away and start again"

// segmentBytes is the size at which a new segment of the audit trail begins.
const segmentBytes = 64 << 20

// openLedger opens or makes the ledger in the directory dir and its trail, checks that they belong together,
// and starts the committer.
func openLedger(fsys vfs.FS, dir, auditPath string) (_ *Ledger, err error) {
	defer gaveUpOpening(&err)
	st, err := openStore(fsys, dir, auditPath)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		store:   st,
		books:   map[ID]*book{},
		index:   newIndex(),
		writers: map[*writer]struct{}{},
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
		trim:    true, // OpenTrail syncs
	}
	l.segmentBytes.Store(segmentBytes)
	if err := l.load(fsys, auditPath); err != nil {
		return nil, errors.Join(err, st.close())
	}
	go l.run()
	return l, nil
}

// load reads what the store holds and opens the trail.
func (l *Ledger) load(fsys vfs.FS, auditPath string) error {
	k, err := l.store.load()
	if err != nil {
		return fmt.Errorf("%w: %w; %s", ErrDamaged, err, repairHint)
	}
	l.index.details.read = l.store.session
	l.index.load(k.sessions)
	for id, n := range l.index.byID {
		l.books[id] = &book{listed: n, chain: k.chain[id]}
	}
	l.intents = k.intents
	l.trail, l.head, err = audit.OpenTrail(fsys, auditPath, k.head, k.journal)
	if err == nil {
		l.begun = l.trail.Begun()
	}
	return err
}

// addLocked adds a new session.
func (l *Ledger) addLocked(s *Session) {
	l.books[s.ID] = &book{listed: l.index.put(s)}
}

// openStore opens the embedded store in dir, or makes it if there is no trail either.
func openStore(fsys vfs.FS, dir, auditPath string) (*embedded, error) {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockStore(fsys, dir)
	if err != nil {
		return nil, err
	}
	old, err := openOld(fsys, dir)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	defer old.close()
	st, err := openPebble(fsys, dir, lock, false)
	if err != nil {
		return nil, errors.Join(damaged(dir, err), lock.Close())
	}
	if err := st.begin(fsys, dir, auditPath, old); err != nil {
		return nil, errors.Join(err, st.close())
	}
	return st, nil
}

// begin makes sure that st is a ledger of this version: a fresh one if there is no trail either, or what an older
// version has left. The ledger is there once its version is; what was cut short before that is begun again.
func (s *embedded) begin(fsys vfs.FS, dir, auditPath string, old *oldLedger) error {
	version, err := s.version()
	switch {
	case err != nil:
		return damaged(dir, err)
	case version == storeVersion && old.live():
		return fmt.Errorf("%w: %s is a ledger of an older version, and %s one of this version: move the one aside that is "+
			"not the newest",
			ErrTwoLedgers, old.path, dir)
	case version == storeVersion:
		return old.mark()
	case version != "" && version != storeCopied:
		return fmt.Errorf("%w: %q, this one reads %q", ErrOtherVersion, version, storeVersion)
	case old.live():
		return s.takeOver(old)
	case version == storeCopied: // all was taken over, and the old file put aside
		return s.setVersion(storeVersion)
	case trailBegun(fsys, auditPath):
		return fmt.Errorf("%w: %s is missing, but its audit trail %s is there; %s", ErrDamaged, dir, auditPath, repairHint)
	}
	if err := old.mark(); err != nil {
		return err
	}
	if err := syncDir(fsys, fsys.PathDir(dir)); err != nil {
		return err
	}
	return s.setVersion(storeVersion)
}

func damaged(path string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: %s: %w; %s", ErrDamaged, path, err, repairHint)
}

// trailBegun reports whether there are records.
func trailBegun(fsys vfs.FS, auditPath string) bool {
	fi, err := fsys.Stat(auditPath)
	_, sealed := fsys.Stat(audit.SegmentPath(auditPath, 1))
	return err == nil && fi.Size() > 0 || sealed == nil
}

// syncDir makes the names in dir durable.
func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// ReadTrail reads the audit head and journal of an agent that is not running, for
// audit.Verify. ErrInUse if one is, fs.ErrNotExist if there is no ledger.
func ReadTrail(dir string) (head audit.Head, journal []byte, err error) {
	lock, err := lockStore(vfs.Default, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return readOldTrail(dir)
	}
	if err != nil {
		return head, nil, err
	}
	defer lock.Close()
	st, err := openPebble(vfs.Default, dir, lock, true)
	if err != nil {
		return head, nil, damaged(dir, err)
	}
	defer st.db.Close()
	switch version, err := st.version(); {
	case err != nil:
		return head, nil, damaged(dir, err)
	case version != storeVersion:
		return readOldTrail(dir)
	}
	k, err := st.load()
	if err != nil {
		return head, nil, damaged(dir, err)
	}
	return k.head, k.journal, nil
}

// close makes what waits durable, empties the journal and closes the files. A second call does nothing.
func (l *Ledger) close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	halted := l.halted
	l.mu.Unlock()
	if again {
		return nil
	}
	close(l.closing)
	<-l.stopped
	var err error
	if l.trim && halted == nil {
		err = l.store.commit(&batch{first: l.head.Seq + 1, head: l.head, synced: true})
	}
	return errors.Join(err, l.trail.Close(), l.store.close())
}
