package session

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/holiman/uint256"
	bolt "go.etcd.io/bbolt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/policy"
)

// Errors of [Open] and [ReadTrail]. What wraps them says how to repair.
var (
	// ErrInUse: another process has the ledger open.
	ErrInUse = errors.New("another agent uses this state")
	// ErrDamaged: the ledger is missing, cut short or not readable. An audit trail that is
	// damaged or ahead of the ledger is audit.ErrDamaged or audit.ErrAhead.
	ErrDamaged = errors.New("the ledger is damaged")
)

const repairHint = "restore the newest copies of ledger and audit trail together; without one, nothing more can be signed for " +
	"the sessions in it: revoke them on chain, move the state directory away and start anew"

// openLedger opens or makes the ledger and its trail, checks that they belong together,
// and starts the committer.
func openLedger(ledgerPath, auditPath string) (*Ledger, error) {
	db, err := openStore(ledgerPath, auditPath)
	if err != nil {
		return nil, err
	}
	l := &Ledger{
		db:      db,
		books:   map[ID]*book{},
		index:   newIndex(),
		writers: map[*writer]struct{}{},
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
		trim:    true, // OpenTrail syncs
	}
	if err := l.load(auditPath); err != nil {
		db.Close()
		return nil, err
	}
	go l.run()
	return l, nil
}

// load reads what the file holds and opens the trail.
func (l *Ledger) load(auditPath string) error {
	var journal []byte
	err := l.db.View(func(tx *bolt.Tx) error {
		sessions, err := getSessions(tx)
		if err != nil {
			return err
		}
		chain, err := getSettled(tx)
		if err != nil {
			return err
		}
		l.index.load(sessions)
		for _, s := range sessions {
			l.bookLocked(s)
			l.books[s.ID].chain = chain[s.ID]
		}
		journal = getJournal(tx)
		l.head, err = getHead(tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("%w: %w; %s", ErrDamaged, err, repairHint)
	}
	l.trail, err = audit.OpenTrail(auditPath, l.head, journal)
	return err
}

// addLocked adds a new session.
func (l *Ledger) addLocked(s *Session) {
	l.bookLocked(s)
	l.index.put(s)
}

func (l *Ledger) bookLocked(s *Session) {
	l.books[s.ID] = &book{sess: s, used: map[policy.Tracker]uint256.Int{}, open: map[uint64]*openNonce{}}
}

// openStore opens the bbolt file, or makes it if there is no trail either.
func openStore(path, auditPath string) (*bolt.DB, error) {
	fresh := false
	if fi, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && fi.Size() == 0 {
		if fi, err := os.Stat(auditPath); err == nil && fi.Size() > 0 {
			return nil, fmt.Errorf("%w: %s is missing, but its audit trail %s is there; %s", ErrDamaged, path, auditPath, repairHint)
		}
		fresh = true
	} else if err := checkStore(path); err != nil {
		return nil, err
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
	if err != nil {
		return nil, storeError(path, err)
	}
	if err := db.Update(initStore); err != nil {
		db.Close()
		return nil, err
	}
	if fresh {
		if err := durable.SyncDir(filepath.Dir(path)); err != nil {
			db.Close()
			return nil, err
		}
	}
	return db, nil
}

const lockTimeout = 2 * time.Second // for an agent that is just stopping

func storeError(path string, err error) error {
	if errors.Is(err, bolt.ErrTimeout) {
		return fmt.Errorf("%w: %s is locked", ErrInUse, path)
	}
	if errors.Is(err, os.ErrPermission) {
		return err
	}
	return fmt.Errorf("%w: %s: %w; %s", ErrDamaged, path, err, repairHint)
}

// checkStore refuses a file that was cut short or whose pages are not consistent. bbolt
// itself would only crash on it, at the first access beyond its end.
func checkStore(path string) (err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true, PreLoadFreelist: false})
	if err != nil {
		return storeError(path, err)
	}
	defer db.Close()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a page beyond the end
	defer func() {
		if r := recover(); r != nil {
			err = storeError(path, fmt.Errorf("reading it: %v", r))
		}
	}()
	return db.View(func(tx *bolt.Tx) error {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		if fi.Size() < tx.Size() {
			return storeError(path, fmt.Errorf("it has %d bytes, %d are missing", fi.Size(), tx.Size()-fi.Size()))
		}
		return checkBuckets(path, tx)
	})
}

// checkBuckets reads every page that is in use.
func checkBuckets(path string, tx *bolt.Tx) error {
	return tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		if err := b.ForEach(func(_, _ []byte) error { return nil }); err != nil {
			return storeError(path, fmt.Errorf("bucket %s: %w", name, err))
		}
		return nil
	})
}

// ReadTrail reads the audit head and journal of an agent that is not running, for
// audit.Verify. ErrInUse if one is.
func ReadTrail(ledgerPath string) (head audit.Head, journal []byte, err error) {
	if err := checkStore(ledgerPath); err != nil {
		return head, nil, err
	}
	db, err := bolt.Open(ledgerPath, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true})
	if err != nil {
		return head, nil, storeError(ledgerPath, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		journal = getJournal(tx)
		head, err = getHead(tx)
		return err
	})
	return head, journal, err
}

// close makes what waits durable, empties the journal and closes the files. A second call does nothing.
func (l *Ledger) close() error {
	l.mu.Lock()
	again := l.closed
	l.closed = true
	l.mu.Unlock()
	if again {
		return nil
	}
	close(l.closing)
	<-l.stopped
	var err error
	if l.trim {
		err = l.db.Update(func(tx *bolt.Tx) error { return trimJournal(tx, l.head.Seq+1) })
	}
	return errors.Join(err, l.trail.Close(), l.db.Close())
}
