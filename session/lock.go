package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keyward/keyward/internal/durable"
)

// ErrLocked: the operator has locked the agent; nothing is signed until it is unlocked.
var ErrLocked = errors.New("the agent is locked by its operator")

// ErrLockedAgain: the agent was locked while it was being unlocked. It wraps [ErrLocked].
var ErrLockedAgain = fmt.Errorf("%w: it was locked again while it was being unlocked; unlock it once more", ErrLocked)

// lockNote is what the lock file holds. Only its existence counts; the note is for the operator.
type lockNote struct {
	Locked time.Time `json:"locked"`
	UID    int       `json:"uid"` // of the process that wrote it
}

// WriteLock makes the lock of the agent whose lock file is path durable: an agent that starts later starts locked.
// It does not open the agent's state, and works while no agent runs. The file has the owner of the folder that it is
// in.
func WriteLock(path string, now time.Time) error { return writeLockOn(durable.OS, path, now) }

func writeLockOn(fsys durable.FS, path string, now time.Time) error {
	note, err := json.Marshal(lockNote{now.UTC(), os.Geteuid()})
	if err != nil {
		return err
	}
	dir, err := fsys.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	if owner, ok := dir.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		uid, gid = int(owner.Uid), int(owner.Gid)
	}
	return durable.Files{FS: fsys}.WriteOwned(path, append(note, '\n'), 0o600, uid, gid)
}

// LockedOnDisk reports whether the lock file at path says that the agent is locked. A file that can't be looked at
// counts as a lock.
func LockedOnDisk(path string) bool { return lockedOn(durable.OS, path) }

func lockedOn(fsys durable.FS, path string) bool {
	_, err := fsys.Lstat(path)
	return path != "" && !errors.Is(err, fs.ErrNotExist)
}

// Locked reports whether the agent is locked.
func (s *Signer) Locked() bool { return s.Sessions.locked() }

func (s *Sessions) locked() bool {
	s.ledger.mu.Lock()
	defer s.ledger.mu.Unlock()
	return s.ledger.locked
}

// Lock stops all signing. It takes effect in memory first, even if Lock returns an error. When it returns, no signature
// that was not handed to write(2) before is released. The error says that the lock does not outlast this process.
func (s *Signer) Lock() error {
	l := s.Sessions.ledger
	l.mu.Lock()
	l.locked = true
	l.lockVersion++
	l.mu.Unlock()
	s.Sessions.approvals.endAll("", ErrLocked, reasonLocked)
	err := s.Sessions.writeLock()
	l.awaitWriters("")
	if err != nil {
		return fmt.Errorf("locked until the agent is started again, but the lock could not be made durable: %w", err)
	}
	return nil
}

// writeLock writes the lock file, if the agent has one.
func (s *Sessions) writeLock() error {
	s.lockFile.Lock()
	defer s.lockFile.Unlock()
	return s.writeLockLocked()
}

// writeLockLocked is writeLock with lockFile held.
func (s *Sessions) writeLockLocked() error {
	if s.cfg.LockPath == "" {
		return nil
	}
	return writeLockOn(s.cfg.FS, s.cfg.LockPath, s.cfg.Now())
}

// LockVersion is how often the agent was locked since it started. See [Signer.Unlock].
func (s *Signer) LockVersion() uint64 {
	s.Sessions.ledger.mu.Lock()
	defer s.Sessions.ledger.mu.Unlock()
	return s.Sessions.ledger.lockVersion
}

// Unlock lets the agent sign again. version is what [Signer.LockVersion] returned when the unlock began: a lock since
// then wins, and the error is [ErrLockedAgain]. After any error the agent is still locked.
//
// record makes the unlock's audit record; nil: there is none. The lock file is gone by then, so that the record is
// true, and nothing is signed before the record is on disk. A crash between the two leaves an agent that is unlocked
// without a record of that.
func (s *Signer) Unlock(version uint64, record func() error) error {
	s.Sessions.lockFile.Lock() // a lock that begins now writes its file after this one is removed
	defer s.Sessions.lockFile.Unlock()
	if s.LockVersion() != version {
		return ErrLockedAgain
	}
	if path := s.Sessions.cfg.LockPath; path != "" {
		if err := (durable.Files{FS: s.Sessions.cfg.FS}).Remove(path); err != nil {
			return fmt.Errorf("the agent stays locked: %w", err)
		}
	}
	if record != nil {
		if err := record(); err != nil {
			return errors.Join(fmt.Errorf("the agent stays locked: %w", err), s.Sessions.writeLockLocked())
		}
	}
	l := s.Sessions.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lockVersion != version { // that lock waits to write its file
		return ErrLockedAgain
	}
	l.locked = false
	return nil
}
