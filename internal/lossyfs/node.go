package lossyfs

import (
	"context"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/keyward/keyward/internal/simdisk"
)

// node is a file or directory. What it does not override goes to the backing directory alone: reads, modes, owners,
// extended attributes.
type node struct {
	*fs.LoopbackNode
	fs *FS
}

var (
	_ fs.NodeWrapChilder    = (*node)(nil)
	_ fs.NodeMkdirer        = (*node)(nil)
	_ fs.NodeUnlinker       = (*node)(nil)
	_ fs.NodeRmdirer        = (*node)(nil)
	_ fs.NodeRenamer        = (*node)(nil)
	_ fs.NodeLinker         = (*node)(nil)
	_ fs.NodeCreater        = (*node)(nil)
	_ fs.NodeOpener         = (*node)(nil)
	_ fs.NodeOpendirHandler = (*node)(nil)
	_ fs.NodeSetattrer      = (*node)(nil)
	_ fs.NodeMknoder        = (*node)(nil)
	_ fs.NodeSymlinker      = (*node)(nil)
	_ fs.NodeTmpfiler       = (*node)(nil)
	_ fs.NodeCopyFileRanger = (*node)(nil)
	_ fs.FileWriter         = (*file)(nil)
	_ fs.FileFsyncer        = (*file)(nil)
	_ fs.FileFsyncdirer     = (*directory)(nil)
	_ fs.FileReaddirenter   = (*directory)(nil)
	_ fs.FileReleasedirer   = (*directory)(nil)
)

// WrapChild implements fs.NodeWrapChilder.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{ops.(*fs.LoopbackNode), n.fs}
}

// at is the path of a name in the directory, from the root of the file system.
func (n *node) at(name string) string {
	return filepath.Join(n.Path(n.Root()), name)
}

// Mkdir implements fs.NodeMkdirer.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (child *fs.Inode,
	errno syscall.Errno) {
	errno = n.fs.both(func() (errno syscall.Errno) {
		child, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return errno
	}, func(d *simdisk.Disk) error { return d.MkdirAll(n.at(name), 0o700) })
	return child, errno
}

// Unlink implements fs.NodeUnlinker.
func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	return n.fs.both(func() syscall.Errno { return n.LoopbackNode.Unlink(ctx, name) },
		func(d *simdisk.Disk) error { return d.Remove(n.at(name)) })
}

// Rmdir implements fs.NodeRmdirer.
func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	return n.fs.both(func() syscall.Errno { return n.LoopbackNode.Rmdir(ctx, name) },
		func(d *simdisk.Disk) error { return d.Remove(n.at(name)) })
}

// Rename implements fs.NodeRenamer, inside one directory.
func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, to string,
	flags uint32) syscall.Errno {
	if parent.EmbeddedInode() != n.EmbeddedInode() {
		return syscall.EXDEV
	}
	if flags != 0 {
		return syscall.EINVAL
	}
	return n.fs.both(func() syscall.Errno { return n.LoopbackNode.Rename(ctx, name, n.LoopbackNode, to, 0) },
		func(d *simdisk.Disk) error { return d.Rename(n.at(name), n.at(to)) })
}

// Link implements fs.NodeLinker.
func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (child *fs.Inode,
	errno syscall.Errno) {
	from := target.EmbeddedInode().Path(n.Root())
	errno = n.fs.both(func() (errno syscall.Errno) {
		child, errno = n.LoopbackNode.Link(ctx, target.(*node).LoopbackNode, name, out)
		return errno
	}, func(d *simdisk.Disk) error { return d.Link(from, n.at(name)) })
	return child, errno
}

// Create implements fs.NodeCreater.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (child *fs.Inode,
	fh fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	opened := &file{fs: n.fs}
	errno = n.fs.both(func() (errno syscall.Errno) {
		if child, fh, fuseFlags, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out); errno == 0 {
			opened.all = fh.(loopback)
		}
		return errno
	}, func(d *simdisk.Disk) (err error) {
		opened.disk, err = d.Create(n.at(name), vfs.WriteCategoryUnspecified)
		return err
	})
	return child, opened, fuseFlags, errno
}

// Open implements fs.NodeOpener. The kernel truncates by Setattr.
func (n *node) Open(ctx context.Context, flags uint32) (fh fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	opened := &file{fs: n.fs}
	errno = n.fs.both(func() (errno syscall.Errno) {
		if fh, fuseFlags, errno = n.LoopbackNode.Open(ctx, flags&^syscall.O_TRUNC); errno == 0 {
			opened.all = fh.(loopback)
		}
		return errno
	}, func(d *simdisk.Disk) (err error) {
		opened.disk, err = d.Open(n.at(""))
		return err
	})
	return opened, fuseFlags, errno
}

// OpendirHandle implements fs.NodeOpendirHandler.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fh fs.FileHandle, fuseFlags uint32,
	errno syscall.Errno) {
	opened := &directory{fs: n.fs}
	errno = n.fs.both(func() (errno syscall.Errno) {
		if fh, fuseFlags, errno = n.LoopbackNode.OpendirHandle(ctx, flags); errno == 0 {
			opened.FileReaddirenter, opened.FileReleasedirer = fh.(fs.FileReaddirenter), fh.(fs.FileReleasedirer)
		}
		return errno
	}, func(d *simdisk.Disk) (err error) {
		opened.disk, err = d.OpenDir(n.at(""))
		return err
	})
	return opened, fuseFlags, errno
}

// Setattr implements fs.NodeSetattrer.
func (n *node) Setattr(ctx context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return n.fs.both(func() syscall.Errno { return n.LoopbackNode.Setattr(ctx, nil, in, out) },
		func(d *simdisk.Disk) error {
			if size, ok := in.GetSize(); ok {
				return d.Truncate(n.at(""), int64(size))
			}
			return nil
		})
}

// Mknod implements fs.NodeMknoder: there are files and directories alone.
func (n *node) Mknod(context.Context, string, uint32, uint32, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Symlink implements fs.NodeSymlinker.
func (n *node) Symlink(context.Context, string, string, *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return nil, syscall.EPERM
}

// Tmpfile implements fs.NodeTmpfiler.
func (n *node) Tmpfile(context.Context, uint32, uint32, *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32,
	syscall.Errno) {
	return nil, nil, 0, syscall.EOPNOTSUPP
}

// CopyFileRange implements fs.NodeCopyFileRanger: programs read and write instead.
func (n *node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64,
	uint64) (uint32, syscall.Errno) {
	return 0, syscall.EXDEV
}
