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

// Files writes files durably on a file system. The functions of this package are those of Files{OS}.
type Files struct{ FS FS }

// WriteFile puts data at path, whole or not at all: a temporary file beside it is
// written and synced, renamed over path, and the directory synced.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return Files{OS}.WriteOwned(path, data, perm, -1, -1)
}

// WriteFile is the function of that name on f's file system.
func (f Files) WriteFile(path string, data []byte, perm os.FileMode) error {
	return f.WriteOwned(path, data, perm, -1, -1)
}

// Remove deletes the file at path, durably. A file that is not there is no error.
func Remove(path string) error { return Files{OS}.Remove(path) }

// Remove is the function of that name on f's file system.
func (f Files) Remove(path string) error {
	if err := f.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return f.SyncDir(filepath.Dir(path))
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
	return Files{OS}.WriteOwned(path, data, info.Mode().Perm(), -1, int(info.Sys().(*syscall.Stat_t).Gid))
}

// WriteOwned is WriteFile for a file that belongs to uid and gid; -1 leaves either as the system makes it.
func (f Files) WriteOwned(path string, data []byte, perm os.FileMode, uid, gid int) (err error) {
	temp, err := f.FS.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.FS.Remove(temp.Name())
		}
	}()
	if err := writeAndClose(temp, data, perm, uid, gid); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := f.FS.Rename(temp.Name(), path); err != nil {
		return err
	}
	return f.SyncDir(filepath.Dir(path))
}

func writeAndClose(f File, data []byte, perm os.FileMode, uid, gid int) error {
	defer f.Close()           // a second Close is harmless
	if uid >= 0 || gid >= 0 { // else it is the system's choice; the service's filter of system calls forbids chown(2)
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
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

// MkdirAll makes the directory dir and those above it that are missing, durably.
func MkdirAll(dir string, perm os.FileMode) error { return Files{OS}.MkdirAll(dir, perm) }

// MkdirAll is the function of that name on f's file system.
func (f Files) MkdirAll(dir string, perm os.FileMode) error {
	var missing []string
	for at := filepath.Clean(dir); ; at = filepath.Dir(at) {
		_, err := f.FS.Stat(at)
		if err == nil || at == filepath.Dir(at) {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		missing = append(missing, at)
	}
	if err := f.FS.MkdirAll(dir, perm); err != nil {
		return err
	}
	for _, made := range missing {
		if err := f.SyncDir(filepath.Dir(made)); err != nil {
			return err
		}
	}
	return nil
}

// SyncDir makes the names in dir durable: a file that was just made, renamed or
// removed there (fsync(2): syncing a file does not sync its directory entry).
func SyncDir(dir string) error { return Files{OS}.SyncDir(dir) }

// SyncDir is the function of that name on f's file system.
func (f Files) SyncDir(dir string) error {
	d, err := f.FS.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}
