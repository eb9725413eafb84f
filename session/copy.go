package session

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/audit"
)

// copier is a store that can be copied while it is in use. A database has means of its own.
type copier interface {
	// copyTo makes a copy in dir, which must not exist. The copy holds what was committed at some moment during the
	// call.
	copyTo(dir string) error
}

var _ copier = (*embedded)(nil)

func (s *embedded) copyTo(dir string) error { return s.db.Checkpoint(dir, pebble.WithFlushedWAL()) }

// CopyPath is where [Sessions.Copy] puts the copy of the ledger at path.
func CopyPath(path string) string { return path + "-copy" }

// Copy makes a copy of the ledger, as it is at some moment during the call, beside it at [CopyPath]. An earlier copy is
// deleted. Signing goes on meanwhile. The trail needs no copy: up to the head in the copied ledger it does not change
// any more.
func (s *Sessions) Copy(ctx context.Context, by audit.Peer) (dir string, err error) {
	if err := s.Halted(); err != nil { // what the disk holds is not known
		return "", err
	}
	st, ok := s.ledger.store.(copier)
	if !ok {
		return "", errors.New("the ledger is in a database: copy it by the database's own means")
	}
	s.copying.Lock()
	defer s.copying.Unlock()
	dir = CopyPath(s.cfg.LedgerPath)
	if err := os.RemoveAll(dir); err != nil {
		return "", err
	}
	if err := st.copyTo(dir); err != nil {
		return "", errors.Join(fmt.Errorf("copying the ledger: %w", err), os.RemoveAll(dir))
	}
	return dir, s.Record(ctx, audit.Record{Event: audit.BackupMade, Peer: &by})
}

// CopyStopped copies the ledger in dir of an agent that does not run to the directory to, which must not exist.
// [ErrInUse] if one runs.
func CopyStopped(dir, to string) error {
	lock, err := lockStore(vfs.Default, dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(to, "LOCK")) // a copy is not locked
}
