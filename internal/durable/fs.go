package durable

import (
	"io"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is a file system: what the ledger and the audit trail need of one, and what this package needs. [OS] is the
// operating system's. Tests use one in memory that loses what was not synced (internal/simdisk).
type FS interface {
	vfs.FS
	// CreateTemp creates a file with mode 0600 and a name like that of [os.CreateTemp].
	CreateTemp(dir, pattern string) (File, error)
	// Lstat is [os.Lstat].
	Lstat(path string) (fs.FileInfo, error)
}

// File is a temporary file of an [FS].
type File interface {
	io.WriteCloser
	Name() string
	Chown(uid, gid int) error
	Chmod(mode fs.FileMode) error
	Sync() error
}

// OS is the operating system's file system.
var OS FS = system{vfs.Default}

type system struct{ vfs.FS }

func (system) CreateTemp(dir, pattern string) (File, error) { return os.CreateTemp(dir, pattern) }
func (system) Lstat(path string) (fs.FileInfo, error)       { return os.Lstat(path) }
