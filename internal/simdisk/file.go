package simdisk

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/internal/durable"
)

// file is an open file or directory.
type file struct {
	d      *Disk
	n      *node
	path   string
	pos    int64
	failed bool // a sync of it has failed
}

// Read implements vfs.File.
func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements vfs.File.
func (f *file) ReadAt(p []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if at >= int64(len(f.n.cached)) {
		return 0, io.EOF
	}
	n := copy(p, f.n.cached[at:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Write implements vfs.File.
func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

// WriteAt implements vfs.File.
func (f *file) WriteAt(p []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	part, err := f.d.begin(Write, f.path, len(p))
	f.n.write(p[:part], int(at))
	if err != nil {
		err = &fs.PathError{Op: "write", Path: f.path, Err: err}
	}
	return part, err
}

// Sync implements vfs.File.
func (f *file) Sync() error {
	if f.d.Slow != nil && f.n.dir == nil {
		time.Sleep(f.d.Slow(f.path))
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	kind := Sync
	if f.n.dir != nil {
		kind = SyncDir
	}
	if f.failed && f.d.misuse == nil {
		f.d.misuse = fmt.Errorf("%s of %s, whose sync had failed before", kind, f.path)
	}
	if _, err := f.d.begin(kind, f.path, 0); err != nil {
		f.failed = true
		f.n.drop()
		return &fs.PathError{Op: "sync", Path: f.path, Err: err}
	}
	if f.n.dir != nil {
		f.n.dir.sync()
	} else {
		f.n.sync()
	}
	return nil
}

// SyncData implements vfs.File.
func (f *file) SyncData() error { return f.Sync() }

// SyncTo implements vfs.File. It only begins to write, and promises nothing.
func (f *file) SyncTo(int64) (fullSync bool, err error) { return false, nil }

// Preallocate implements vfs.File.
func (f *file) Preallocate(_, _ int64) error { return nil }

// Prefetch implements vfs.File.
func (f *file) Prefetch(_, _ int64) error { return nil }

// Fd implements vfs.File.
func (f *file) Fd() uintptr { return vfs.InvalidFd }

// Close implements vfs.File.
func (f *file) Close() error { return nil }

// Stat implements vfs.File.
func (f *file) Stat() (vfs.FileInfo, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return info{name: path.Base(f.path), size: int64(len(f.n.cached)), dir: f.n.dir != nil}, nil
}

// Name implements durable.File.
func (f *file) Name() string { return f.path }

// Chown implements durable.File. A simulated file has no owner.
func (f *file) Chown(_, _ int) error { return nil }

// Chmod implements durable.File. A simulated file has no mode.
func (f *file) Chmod(fs.FileMode) error { return nil }

// info describes a file.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) Mode() fs.FileMode      { return 0o600 }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) IsDir() bool            { return i.dir }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

// Lock implements vfs.FS.
func (d *Disk) Lock(name string) (io.Closer, error) {
	if _, err := d.OpenReadWrite(name, vfs.WriteCategoryUnspecified); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.locks[name] {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: syscall.EAGAIN}
	}
	d.locks[name] = true
	return unlocker(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.locks, name)
	}), nil
}

type unlocker func()

func (u unlocker) Close() error { u(); return nil }

// List implements vfs.FS.
func (d *Disk) List(name string) ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.find(name)
	if err != nil {
		return nil, err
	}
	if n.dir == nil {
		return nil, &fs.PathError{Op: "list", Path: name, Err: syscall.ENOTDIR}
	}
	return slices.Sorted(maps.Keys(n.dir.names)), nil
}

// Stat implements vfs.FS.
func (d *Disk) Stat(name string) (vfs.FileInfo, error) {
	f, err := d.Open(name)
	if err != nil {
		return nil, err
	}
	return f.Stat()
}

// Lstat implements durable.FS. There are no symbolic links.
func (d *Disk) Lstat(name string) (fs.FileInfo, error) { return d.Stat(name) }

// CreateTemp implements durable.FS.
func (d *Disk) CreateTemp(dir, pattern string) (durable.File, error) {
	d.mu.Lock()
	d.temps++
	name := path.Join(dir, strings.Replace(pattern, "*", fmt.Sprint(d.temps), 1))
	d.mu.Unlock()
	f, err := d.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, err
	}
	return f.(*file), nil
}

// PathBase implements vfs.FS.
func (*Disk) PathBase(p string) string { return path.Base(p) }

// PathJoin implements vfs.FS.
func (*Disk) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir implements vfs.FS.
func (*Disk) PathDir(p string) string { return path.Dir(p) }

// GetDiskUsage implements vfs.FS.
func (*Disk) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: 1 << 40, TotalBytes: 1 << 40}, nil
}

// Unwrap implements vfs.FS.
func (*Disk) Unwrap() vfs.FS { return nil }
