// Package lossyfs is a file system for tests of whole programs. It loses what was not synced when its power is cut:
// data of files that were not synced, and names in directories that were not synced. It passes everything on to a
// directory, and a [simdisk.Disk] beside it keeps account of what a power cut leaves. It is mounted through FUSE, which
// takes root and /dev/fuse.
package lossyfs

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/keyward/keyward/internal/simdisk"
)

// FS is a file system that can lose its power. Its methods must not be called concurrently.
type FS struct {
	backing string // what programs see
	server  *fuse.Server

	mu     sync.Mutex // held over each operation on both
	off    bool       // the power: each operation fails
	disk   *simdisk.Disk
	differ error // the first operation that only one of both did
}

// Mount mounts an empty file system at mountpoint. The directory backing, which is empty too, has its files.
func Mount(backing, mountpoint string) (*FS, error) {
	f := &FS{backing: backing, disk: simdisk.New()}
	return f, f.mount(mountpoint)
}

func (f *FS) mount(mountpoint string) (err error) {
	var st syscall.Stat_t
	if err := syscall.Stat(f.backing, &st); err != nil {
		return err
	}
	root := &fs.LoopbackRoot{Path: f.backing, Dev: st.Dev}
	never := time.Duration(0) // another life of the file system has other files
	f.server, err = fs.Mount(mountpoint, &node{&fs.LoopbackNode{RootData: root}, f}, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "lossyfs", Name: "lossyfs", AllowOther: true},
		EntryTimeout: &never, AttrTimeout: &never, NegativeTimeout: &never,
	})
	if err != nil {
		return fmt.Errorf("mounting a FUSE file system at %s, which takes root and /dev/fuse: %w", mountpoint, err)
	}
	return nil
}

// Cut cuts the power: from now on every operation fails. Of what was not synced, kept percent have reached the disk
// nevertheless: sectors of files, and changes of a directory after those before them.
func (f *FS) Cut(kept int, rng *rand.Rand) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off = true
	f.disk = f.disk.Snapshot(simdisk.Crash{Power: true, Kept: kept, RNG: rng})
}

// Restore mounts again what the cut left. No process may use the file system.
func (f *FS) Restore(mountpoint string) error {
	if err := f.Unmount(); err != nil {
		return err
	}
	entries, err := os.ReadDir(f.backing)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(f.backing, e.Name())); err != nil {
			return err
		}
	}
	if err := f.copyOut("."); err != nil {
		return fmt.Errorf("writing what a power cut left: %w", err)
	}
	f.off = false
	return f.mount(mountpoint)
}

// Unmount takes the file system away. It returns an error too if a file was changed in a way that the disk does not
// know.
func (f *FS) Unmount() error {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := f.server.Unmount()
		if err == nil {
			f.server.Wait()
			return f.differ
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("a process still uses the file system: %w", err)
		}
	}
}

// copyOut writes what is on the disk below a directory to the backing one. Its files have the modes 0600 and 0700.
func (f *FS) copyOut(dir string) error {
	names, err := f.disk.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		at := filepath.Join(dir, name)
		info, err := f.disk.Stat(at)
		if err != nil {
			return err
		}
		if info.IsDir() {
			if err := errors.Join(os.Mkdir(filepath.Join(f.backing, at), 0o700), f.copyOut(at)); err != nil {
				return err
			}
			continue
		}
		from, err := f.disk.Open(at)
		if err != nil {
			return err
		}
		data, err := io.ReadAll(from)
		if err := errors.Join(err, os.WriteFile(filepath.Join(f.backing, at), data, 0o600)); err != nil {
			return err
		}
	}
	return nil
}

// both does an operation on the backing directory, and then on the disk.
func (f *FS) both(backing func() syscall.Errno, disk func(d *simdisk.Disk) error) syscall.Errno {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return syscall.EIO
	}
	if errno := backing(); errno != 0 {
		return errno
	}
	if err := disk(f.disk); err != nil && f.differ == nil {
		f.differ = fmt.Errorf("an operation succeeded in %s that the disk did not do: %w", f.backing, err)
	}
	return 0
}
