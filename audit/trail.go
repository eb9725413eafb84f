package audit

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Errors of [OpenTrail]. What wraps them says how to repair.
var (
	// ErrDamaged: the file is not what was written to it.
	ErrDamaged = errors.New("audit trail is damaged")
	// ErrAhead: the file has records that the ledger doesn't know, so the ledger is an old copy.
	ErrAhead = errors.New("audit trail is ahead of the ledger")
)

// Trail is the file of records, open for appending. It is not safe for concurrent
// use: the ledger's committer owns it.
//
// The ledger keeps the newest lines too (its journal), until Sync has put them on
// disk here. So the file may lag behind the ledger after a power cut, never the other way round.
//
// The file is the newest segment of the trail. Older segments are beside it, see [Segments].
type Trail struct {
	fs   vfs.FS
	f    vfs.File
	path string
	size int64
	last stamp // that our last write left
}

// OpenTrail opens the segment at path, which must hold the records after head.Sealed up to head; journal
// is the last len(journal) bytes of them, and is written again.
// The file is made if no byte of it was ever said to be on disk. A rotation that was cut short is completed.
func OpenTrail(fsys vfs.FS, path string, head Head, journal []byte) (*Trail, Head, error) {
	if sealed := SegmentPath(path, head.Sealed+1); exists(fsys, sealed) { // Rotate was cut short
		t, err := openSegment(fsys, sealed, head, journal)
		if err != nil {
			return nil, head, err
		}
		t.path = path
		if fi, err := fsys.Stat(path); err == nil && fi.Size() > 0 {
			err = fmt.Errorf("%w: %s has %d bytes after record %d, the last that the ledger knows: "+
				"the ledger was replaced by an old copy; put the newest one back", ErrAhead, path, fi.Size(), head.Seq)
			return nil, head, errors.Join(err, t.Close())
		}
		head, err = t.begin(head)
		return t, head, err
	}
	t, err := openSegment(fsys, path, head, journal)
	return t, head, err
}

func openSegment(fsys vfs.FS, path string, head Head, journal []byte) (*Trail, error) {
	if !exists(fsys, path) && head.Size != int64(len(journal)) {
		return nil, fmt.Errorf("%w: %s is gone, with records up to %d; put it back from a backup", ErrDamaged, path, head.Seq)
	}
	f, err := fsys.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("opening audit trail: %w", err)
	}
	t := &Trail{fs: fsys, f: f, path: path}
	if err := t.complete(head, journal); err != nil {
		f.Close()
		return nil, err
	}
	return t, nil
}

func exists(fsys vfs.FS, path string) bool {
	_, err := fsys.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// Rotate begins a new segment after head, the trail's last record, and returns the head to go on with. The caller has
// synced the trail. The ledger may still hold the head from before when it crashes: [OpenTrail] finds out by the sealed
// file.
func (t *Trail) Rotate(head Head) (Head, error) {
	if err := t.fs.Rename(t.path, SegmentPath(t.path, head.Sealed+1)); err != nil {
		return head, fmt.Errorf("sealing a segment of the audit trail: %w", err)
	}
	return t.begin(head)
}

// begin makes the segment after head and goes on in it.
func (t *Trail) begin(head Head) (Head, error) {
	f, err := t.fs.OpenReadWrite(t.path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return head, fmt.Errorf("opening audit trail: %w", err)
	}
	t.f.Close() // all of it is synced
	t.f, t.size = f, 0
	head.Sealed, head.Size = head.Seq, 0
	if err := t.remember(); err != nil {
		return head, err
	}
	return head, syncDir(t.fs, t.path)
}

// syncDir makes the name at path durable.
func syncDir(fsys vfs.FS, path string) error {
	dir, err := fsys.OpenDir(fsys.PathDir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("syncing the audit trail's directory: %w", err)
	}
	return nil
}

// complete checks the file's end against head and writes what is missing of journal.
func (t *Trail) complete(head Head, journal []byte) error {
	fi, err := t.f.Stat()
	if err != nil {
		return err
	}
	base := head.Size - int64(len(journal))
	switch {
	case fi.Size() > head.Size:
		return fmt.Errorf("%w: %s has %d bytes after record %d, the last that the ledger knows: "+
			"the ledger was replaced by an old copy; put the newest one back", ErrAhead, t.path, fi.Size()-head.Size, head.Seq)
	case fi.Size() < base:
		return fmt.Errorf("%w: %s has %d bytes, %d are missing before record %d; put the whole file back from a backup",
			ErrDamaged, t.path, fi.Size(), base-fi.Size(), head.Seq)
	}
	tail := make([]byte, fi.Size()-base)
	if _, err := t.f.ReadAt(tail, base); err != nil && err != io.EOF {
		return fmt.Errorf("reading audit trail: %w", err)
	}
	if !partOf(journal, tail) {
		return fmt.Errorf("%w: the end of %s is not what the ledger wrote there; 'keyward audit verify' names the record",
			ErrDamaged, t.path)
	}
	// All of it, also what seems to be there: after a sync that failed, the kernel shows pages that it has not
	// written and will not write (fsync(2)).
	t.size = base
	if err := t.Append(journal); err != nil {
		return err
	}
	if err := t.checkLast(head); err != nil {
		return err
	}
	if err := t.checkRecords(head); err != nil {
		return err
	}
	if err := t.Sync(); err != nil {
		return err
	}
	return syncDir(t.fs, t.path)
}

// partOf reports whether tail can be what is left of the journal in the file: pages reach the disk in any order, and
// one that did not is all zeros after a power cut.
func partOf(journal, tail []byte) bool {
	for i, b := range tail {
		if b != journal[i] && b != 0 {
			return false
		}
	}
	return true
}

// checkLast compares the file's last line with head.
func (t *Trail) checkLast(head Head) error {
	if head.Seq == head.Sealed { // the segment is empty
		return nil
	}
	line, err := t.lastLine()
	if err != nil {
		return err
	}
	if sha256.Sum256(chained(line)) != head.Hash {
		return fmt.Errorf("%w: record %d in %s is not the one that was written; 'keyward audit verify' says more", ErrDamaged,
			head.Seq, t.path)
	}
	return nil
}

// lastLine returns the last line without its newline.
func (t *Trail) lastLine() ([]byte, error) {
	for n := int64(4096); ; n *= 4 {
		n = min(n, t.size)
		buf := make([]byte, n)
		if _, err := t.f.ReadAt(buf, t.size-n); err != nil {
			return nil, fmt.Errorf("reading audit trail: %w", err)
		}
		body, ok := bytes.CutSuffix(buf, []byte{'\n'})
		if i := bytes.LastIndexByte(body, '\n'); ok && (i >= 0 || n == t.size) {
			return body[i+1:], nil
		}
		if n == t.size || !ok {
			return nil, fmt.Errorf("%w: %s does not end with a whole record", ErrDamaged, t.path)
		}
	}
}

// Append writes whole lines. They are on disk after the next Sync.
func (t *Trail) Append(lines []byte) error {
	n, err := t.f.WriteAt(lines, t.size)
	t.size += int64(n)
	if err != nil {
		return fmt.Errorf("writing audit trail: %w", err)
	}
	return t.remember()
}

// Sync returns when every line is on disk. It fails if the file is no longer the one
// at its path: records must not go to a file that nobody can find.
func (t *Trail) Sync() error {
	open, err := t.f.Stat()
	if err != nil {
		return err
	}
	if named, err := t.fs.Stat(t.path); err != nil || !sameFile(open, named) {
		return fmt.Errorf("audit trail %s was moved, removed or replaced while in use", t.path)
	}
	if err := t.f.SyncData(); err != nil {
		return fmt.Errorf("syncing audit trail: %w", err)
	}
	return nil
}

// sameFile compares inodes. A file system in memory has none.
func sameFile(a, b vfs.FileInfo) bool {
	x, ok := a.Sys().(*syscall.Stat_t)
	y, has := b.Sys().(*syscall.Stat_t)
	return ok == has && (!ok || x.Dev == y.Dev && x.Ino == y.Ino)
}

// Close closes the file without syncing it.
func (t *Trail) Close() error { return t.f.Close() }
