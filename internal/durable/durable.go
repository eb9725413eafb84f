// Package durable writes files so that they survive a power cut once the call returns.
package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// WriteFile puts data at path, whole or not at all: a temporary file beside it is
// written and synced, renamed over path, and the directory synced.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, -1, -1)
}

// WriteOwned is WriteFile for a file that belongs to uid and gid; -1 leaves either as the system makes it.
func WriteOwned(path string, data []byte, perm os.FileMode, uid, gid int) error {
	return write(path, data, perm, uid, gid)
}

// Remove deletes the file at path, durably. A file that is not there is no error.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Rewrite is WriteFile for a file that is there. Its permissions and its group stay, and so does a symbolic
// link that leads to it. The owner is who calls.
func Rewrite(path string, data []byte) error {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return write(path, data, info.Mode().Perm(), -1, int(info.Sys().(*syscall.Stat_t).Gid))
}

// write leaves the owner or the group as the system makes it if uid or gid is -1.
func write(path string, data []byte, perm os.FileMode, uid, gid int) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	if err := writeAndClose(f, data, perm, uid, gid); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

func writeAndClose(f *os.File, data []byte, perm os.FileMode, uid, gid int) error {
	defer f.Close() // a second Close is harmless
	if err := f.Chown(uid, gid); err != nil {
		return err
	}
	if err := f.Chmod(perm); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Close()
}

// SyncDir makes the names in dir durable: a file that was just made, renamed or
// removed there (fsync(2): syncing a file does not sync its directory entry).
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}
