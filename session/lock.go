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

// lockNote is what the lock file holds. Only its existence counts; the note is for the operator.
type lockNote struct {
	Locked time.Time `json:"locked"`
	UID    int       `json:"uid"` // of the process that wrote it
}

// WriteLock makes the lock of the agent whose lock file is path durable: an agent that starts later starts locked.
// It does not open the agent's state, and works while no agent runs. The file has the owner of the folder that it is in.
func WriteLock(path string, now time.Time) error {
	note, err := json.Marshal(lockNote{now.UTC(), os.Geteuid()})
	if err != nil {
		return err
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return err
	}
	uid, gid := -1, -1
	if owner, ok := dir.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		uid, gid = int(owner.Uid), int(owner.Gid)
	}
	return durable.WriteOwned(path, append(note, '\n'), 0o600, uid, gid)
}

// LockedOnDisk reports whether the lock file at path says that the agent is locked. A file that can't be looked at counts
// as a lock.
func LockedOnDisk(path string) bool {
	_, err := os.Lstat(path)
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
	path := s.Sessions.cfg.LockPath
	var err error
	if path != "" {
		err = WriteLock(path, s.Sessions.cfg.Now())
	}
	l.awaitWriters("")
	if err != nil {
		return fmt.Errorf("locked until the agent is started again, but the lock could not be made durable: %w", err)
	}
	return nil
}

// Unlock lets the agent sign again. If it returns an error, the agent is still locked.
func (s *Signer) Unlock() error {
	if path := s.Sessions.cfg.LockPath; path != "" {
		if err := durable.Remove(path); err != nil {
			return fmt.Errorf("the agent stays locked: %w", err)
		}
	}
	l := s.Sessions.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	l.locked = false
	return nil
}
