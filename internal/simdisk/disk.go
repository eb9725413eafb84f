// Package simdisk is a file system in memory, for tests. It has what a disk and a kernel have between them: a page
// cache that a killed process leaves behind and a power cut loses, writes that reach the disk in part, names that are
// not synced with their files, and a sync that fails and drops what it could not write.
package simdisk

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/internal/durable"
)

// Kind is what an [Op] does.
type Kind string

// The operations that change something. Reads are not counted and do not fail.
const (
	Create  Kind = "create"
	Link    Kind = "link"
	Mkdir   Kind = "mkdir"
	Remove  Kind = "remove"
	Rename  Kind = "rename"
	SyncDir Kind = "sync directory"
	Sync    Kind = "sync"
	Write   Kind = "write"
)

// Op is one operation.
type Op struct {
	N    int // its number on this disk, from 1
	Kind Kind
	Path string
	Size int // of a write, bytes
}

func (op Op) String() string {
	return fmt.Sprintf("operation %d: %s %s (%d bytes)", op.N, op.Kind, op.Path, op.Size)
}

// Disk is a file system. Its methods are safe for concurrent use. Paths are slash-separated and relative to its root.
type Disk struct {
	// Before, if not nil, is called before each operation, which fails with its error: a write then has written Part bytes
	// of what it was given. It is called under the disk's lock and must not call methods other than [Disk.SnapshotLocked].
	// Set it before the disk is used, or with [Disk.SetBefore].
	Before func(op Op) (part int, err error)
	// Slow, if not nil, says how long a sync of a file takes.
	Slow func(path string) time.Duration

	mu     sync.Mutex
	root   *node
	ops    int
	temps  int // temporary files made so far
	locks  map[string]bool
	misuse error // a failed sync that was tried again
}

var _ durable.FS = (*Disk)(nil)

// New returns an empty disk.
func New() *Disk { return &Disk{root: newDir(), locks: map[string]bool{}} }

// SetBefore changes [Disk.Before].
func (d *Disk) SetBefore(before func(op Op) (part int, err error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.Before = before
}

// Ops is how many operations there were.
func (d *Disk) Ops() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ops
}

// Misuse is the first sync of an open file whose sync had failed before; nil if there was none. The kernel drops the
// pages that it could not write, so that a second sync succeeds without them (fsync(2)).
func (d *Disk) Misuse() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.misuse
}

// begin counts an operation. The caller holds d.mu.
func (d *Disk) begin(kind Kind, path string, size int) (part int, err error) {
	d.ops++
	if d.Before == nil {
		return size, nil
	}
	part, err = d.Before(Op{d.ops, kind, path, size})
	if err == nil {
		part = size
	}
	return part, err
}

// node is a file or a directory.
type node struct {
	dir *directory // nil: a file
	content
}

func newDir() *node {
	return &node{dir: &directory{names: map[string]*node{}, synced: map[string]*node{}}}
}

// split finds the directory of a path. The caller holds d.mu.
func (d *Disk) split(name string) (dir *node, base string, err error) {
	dir = d.root
	parts := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	for _, part := range parts[:len(parts)-1] {
		next := dir.dir.names[part]
		if next == nil || next.dir == nil {
			return nil, "", notThere(name)
		}
		dir = next
	}
	return dir, parts[len(parts)-1], nil
}

// find returns what is at a path. The caller holds d.mu.
func (d *Disk) find(name string) (*node, error) {
	if clean := path.Clean(name); clean == "." || clean == "/" {
		return d.root, nil
	}
	dir, base, err := d.split(name)
	if err != nil {
		return nil, err
	}
	n := dir.dir.names[base]
	if n == nil {
		return nil, notThere(name)
	}
	return n, nil
}

func notThere(name string) error { return &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist} }

// name makes one operation on a directory's names. edit returns what changes.
func (d *Disk) name(kind Kind, name string, edit func(dir *directory, base string) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, base, err := d.split(name)
	if err != nil {
		return err
	}
	if _, err := d.begin(kind, name, 0); err != nil {
		return &fs.PathError{Op: string(kind), Path: name, Err: err}
	}
	return edit(dir.dir, base)
}

// Create implements vfs.FS.
func (d *Disk) Create(name string, _ vfs.DiskWriteCategory) (f vfs.File, err error) {
	err = d.name(Create, name, func(dir *directory, base string) error {
		n := &node{}
		dir.set(base, n)
		f = &file{d: d, n: n, path: name}
		return nil
	})
	return f, err
}

// Link implements vfs.FS.
func (d *Disk) Link(from, to string) error {
	return d.name(Link, to, func(dir *directory, base string) error {
		n, err := d.find(from)
		if err != nil {
			return err
		}
		if dir.names[base] != nil {
			return &fs.PathError{Op: "link", Path: to, Err: fs.ErrExist}
		}
		dir.set(base, n)
		return nil
	})
}

// Open implements vfs.FS.
func (d *Disk) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return nil, err
	}
	return &file{d: d, n: n, path: name}, nil
}

// OpenReadWrite implements vfs.FS.
func (d *Disk) OpenReadWrite(name string, c vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	if f, err := d.Open(name); err == nil {
		return f, nil
	}
	return d.Create(name, c)
}

// OpenDir implements vfs.FS.
func (d *Disk) OpenDir(name string) (vfs.File, error) { return d.Open(name) }

// Remove implements vfs.FS.
func (d *Disk) Remove(name string) error {
	return d.name(Remove, name, func(dir *directory, base string) error {
		n := dir.names[base]
		switch {
		case n == nil:
			return notThere(name)
		case n.dir != nil && len(n.dir.names) > 0:
			return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
		}
		dir.set(base, nil)
		return nil
	})
}

// RemoveAll implements vfs.FS.
func (d *Disk) RemoveAll(name string) error {
	return d.name(Remove, name, func(dir *directory, base string) error {
		dir.set(base, nil)
		return nil
	})
}

// Rename implements vfs.FS. Both names must be in one directory.
func (d *Disk) Rename(from, to string) error {
	return d.name(Rename, to, func(dir *directory, base string) error {
		source, old, err := d.split(from)
		switch {
		case err != nil:
			return err
		case source.dir != dir:
			return &fs.PathError{Op: "rename", Path: to, Err: syscall.EXDEV}
		case dir.names[old] == nil:
			return notThere(from)
		}
		dir.move(old, base)
		return nil
	})
}

// Truncate changes a file's size, as truncate(2) does.
func (d *Disk) Truncate(name string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return err
	}
	if _, err := d.begin(Write, name, 0); err != nil {
		return &fs.PathError{Op: "truncate", Path: name, Err: err}
	}
	n.truncate(int(size))
	return nil
}

// ReuseForWrite implements vfs.FS.
func (d *Disk) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := d.Rename(from, to); err != nil {
		return nil, err
	}
	return d.OpenReadWrite(to, c)
}

// MkdirAll implements vfs.FS.
func (d *Disk) MkdirAll(name string, perm fs.FileMode) error {
	if clean := path.Clean(name); clean == "." || clean == "/" {
		return nil
	}
	if err := d.MkdirAll(path.Dir(name), perm); err != nil {
		return err
	}
	if _, err := d.Stat(name); err == nil {
		return nil
	}
	return d.name(Mkdir, name, func(dir *directory, base string) error {
		dir.set(base, newDir())
		return nil
	})
}
