package lossyfs

import (
	"context"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/keyward/keyward/internal/simdisk"
)

// loopback is what is used of an open file of the backing directory.
type loopback interface {
	fs.FileReader
	fs.FileWriter
	fs.FileGetattrer
	fs.FileFlusher
	fs.FileReleaser
	fs.FileLseeker
}

// file is an open file.
type file struct {
	fs   *FS
	all  loopback
	disk vfs.File
}

// Read implements fs.FileReader.
func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	return f.all.Read(ctx, dest, off)
}

// Write implements fs.FileWriter.
func (f *file) Write(ctx context.Context, data []byte, off int64) (written uint32, errno syscall.Errno) {
	errno = f.fs.both(func() (errno syscall.Errno) {
		written, errno = f.all.Write(ctx, data, off)
		return errno
	}, func(*simdisk.Disk) error {
		_, err := f.disk.WriteAt(data[:written], off)
		return err
	})
	return written, errno
}

// Fsync implements fs.FileFsyncer. The disk alone syncs: the backing directory loses nothing.
func (f *file) Fsync(context.Context, uint32) syscall.Errno {
	return f.fs.both(nothing, func(*simdisk.Disk) error { return f.disk.Sync() })
}

// Getattr implements fs.FileGetattrer.
func (f *file) Getattr(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	return f.all.Getattr(ctx, out)
}

// Flush implements fs.FileFlusher.
func (f *file) Flush(ctx context.Context) syscall.Errno { return f.all.Flush(ctx) }

// Release implements fs.FileReleaser.
func (f *file) Release(ctx context.Context) syscall.Errno { return f.all.Release(ctx) }

// Lseek implements fs.FileLseeker.
func (f *file) Lseek(ctx context.Context, off uint64, whence uint32) (uint64, syscall.Errno) {
	return f.all.Lseek(ctx, off, whence)
}

// directory is an open directory.
type directory struct {
	fs.FileReaddirenter
	fs.FileReleasedirer
	fs   *FS
	disk vfs.File
}

// Fsyncdir implements fs.FileFsyncdirer.
func (d *directory) Fsyncdir(context.Context, uint32) syscall.Errno {
	return d.fs.both(nothing, func(*simdisk.Disk) error { return d.disk.Sync() })
}

func nothing() syscall.Errno { return 0 }
