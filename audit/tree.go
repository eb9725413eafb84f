package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/mod/sumdb/tlog"
	"golang.org/x/sys/unix"
)

// Tree is the Merkle tree of RFC 6962 whose leaves are a trail's lines without their newlines. It is kept in a file
// beside the trail: hashes of 32 bytes in the order of [tlog.StoredHashIndex]. The file can be deleted: [Tree.Extend]
// builds it again.
//
// The file is a cache. [Tree.Extend] compares only its last leaf with the trail; [VerifyCheckpoint] reads every line.
type Tree struct {
	f       *os.File
	n       int64  // leaves, with those in pending
	pending []byte // hashes that are not written yet
	written int64  // hashes in the file
}

var _ tlog.HashReader = (*Tree)(nil)

// TreePath is where the tree of the trail at path is kept.
func TreePath(path string) string { return strings.TrimSuffix(path, filepath.Ext(path)) + ".tree" }

// OpenTree opens the file at path, or makes it, and locks it against other processes. A new file belongs to the owner
// of its directory. Hashes of a leaf that was not written whole are dropped.
func OpenTree(path string) (*Tree, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	t, err := loadTree(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reading the trail's tree: %w", err), f.Close())
	}
	return t, nil
}

func loadTree(f *os.File) (*Tree, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, err
	}
	if err := giveToOwner(f); err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t := &Tree{f: f}
	hashes := fi.Size() / tlog.HashSize
	for t.n = hashes / 2; tlog.StoredHashCount(t.n+1) <= hashes; t.n++ { // n leaves have 2n - 1 hashes at most
	}
	for tlog.StoredHashCount(t.n) > hashes {
		t.n--
	}
	t.written = tlog.StoredHashCount(t.n)
	return t, f.Truncate(t.written * tlog.HashSize)
}

// giveToOwner makes root's new file one of the owner of its directory, who could not write to it else.
func giveToOwner(f *os.File) error {
	dir, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner := dir.Sys().(*syscall.Stat_t)
	return f.Chown(int(owner.Uid), int(owner.Gid))
}

// Len is the number of leaves.
func (t *Tree) Len() int64 { return t.n }

// ReadHashes is [tlog.HashReader]'s.
func (t *Tree) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, at := range indexes {
		if at >= t.written {
			copy(hashes[i][:], t.pending[(at-t.written)*tlog.HashSize:])
			continue
		}
		if _, err := t.f.ReadAt(hashes[i][:], at*tlog.HashSize); err != nil {
			return nil, fmt.Errorf("reading the trail's tree: %w", err)
		}
	}
	return hashes, nil
}

// Root is the root of the tree of the first n leaves.
func (t *Tree) Root(n int64) (tlog.Hash, error) { return tlog.TreeHash(n, t) }

// Extend adds the lines of the trail at path up to record upTo. Each has to continue the one before, and the last one
// that the tree has must still be in the trail: if not, or if the trail is shorter than the tree, the error wraps
// [ErrDamaged].
func (t *Tree) Extend(path string, upTo uint64) error {
	if upTo < uint64(t.n) {
		return fmt.Errorf("%w: it ends at record %d, and %s has records up to %d: the trail was set back, perhaps "+
			"together with the ledger",
			ErrDamaged, upTo, t.f.Name(), t.n)
	}
	if upTo == 0 {
		return nil
	}
	lines, at, err := t.seek(path)
	if err != nil {
		return err
	}
	defer lines.Close()
	for at.Seq < upTo {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return fmt.Errorf("%w: it ends at record %d, records up to %d are missing", ErrDamaged, at.Seq, upTo)
		}
		if err != nil {
			return err
		}
		line = line[:len(line)-1]
		if at, err = at.follows(line); err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if err := t.add(tlog.RecordHash(chained(line))); err != nil {
			return err
		}
	}
	return t.flush()
}

// lineReader reads a trail line by line.
type lineReader struct {
	*bufio.Reader
	io.Closer
}

// seek begins to read the trail at path behind the tree's last leaf, and returns the head there.
func (t *Tree) seek(path string) (*lineReader, Head, error) {
	begin, err := startOf(path)
	if err != nil {
		return nil, Head{}, err
	}
	if uint64(t.n) < begin.Seq {
		if err := t.restart(path, begin); err != nil {
			return nil, Head{}, err
		}
	}
	fresh := uint64(t.n) == begin.Seq // no record of the tree is in the trail
	first := uint64(t.n)
	if fresh {
		first++
	}
	r, err := openAt(path, first)
	if errors.Is(err, errNoRecord) && fresh {
		r, err = OpenSegments(path)
	}
	if err != nil {
		return nil, Head{}, err
	}
	lines := &lineReader{bufio.NewReaderSize(r, 1<<16), r}
	if fresh {
		return lines, begin.Head, nil
	}
	line, err := t.lastLeaf(lines.Reader)
	if err != nil {
		return nil, Head{}, errors.Join(err, r.Close())
	}
	return lines, Head{Seq: uint64(t.n) - 1}.after(line), nil
}

// restart begins a tree whose first leaves were archived, by the roots that the trail's own record has of them. Proofs
// from one of those leaves can't be made.
func (t *Tree) restart(path string, begin *start) error {
	if _, err := ReadAfter(path, begin.Head, func(line []byte) error { begin.look(line); return nil }); err != nil {
		return err
	}
	if err := begin.explained(); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	roots := begin.said.Tree
	if len(roots) != bits.OnesCount64(begin.Seq) {
		return fmt.Errorf("the records up to %d are gone, and their tree is not known: make checkpoints with a new key; "+
			"%s can be moved away", begin.Seq, t.f.Name())
	}
	if err := t.f.Truncate(tlog.StoredHashCount(int64(begin.Seq)) * tlog.HashSize); err != nil {
		return err
	}
	for i, at := range subtrees(int64(begin.Seq)) {
		if _, err := t.f.WriteAt(roots[i][:], at*tlog.HashSize); err != nil {
			return err
		}
	}
	t.n, t.pending = int64(begin.Seq), nil
	t.written = tlog.StoredHashCount(t.n)
	return nil
}

// lastLeaf reads the line of the last leaf, which lines begin with.
func (t *Tree) lastLeaf(lines *bufio.Reader) ([]byte, error) {
	line, err := lines.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("%w: record %d can't be read: %w", ErrDamaged, t.n, err)
	}
	line = line[:len(line)-1]
	leaf, err := t.ReadHashes([]int64{tlog.StoredHashIndex(0, t.n-1)})
	if err != nil {
		return nil, err
	}
	if leaf[0] != tlog.RecordHash(chained(line)) {
		return nil, fmt.Errorf("%w: record %d is not the one in %s: it was edited, or the trail was set back and grew again",
			ErrDamaged, t.n, t.f.Name())
	}
	return line, nil
}

const treeBuffer = 1 << 20 // bytes of hashes that are written together

func (t *Tree) add(leaf tlog.Hash) error {
	hashes, err := tlog.StoredHashesForRecordHash(t.n, leaf, t)
	if err != nil {
		return err
	}
	for _, h := range hashes {
		t.pending = append(t.pending, h[:]...)
	}
	t.n++
	if len(t.pending) >= treeBuffer {
		return t.flush()
	}
	return nil
}

// flush writes the pending hashes. They are not synced: after a crash Extend adds what is missing.
func (t *Tree) flush() error {
	if _, err := t.f.WriteAt(t.pending, t.written*tlog.HashSize); err != nil {
		return fmt.Errorf("writing the trail's tree: %w", err)
	}
	t.written += int64(len(t.pending) / tlog.HashSize)
	t.pending = t.pending[:0]
	return nil
}

// Close closes the file and with it the lock.
func (t *Tree) Close() error { return t.f.Close() }

var errNoRecord = errors.New("is in none of its segments")

// openAt begins to read the trail at path with record seq. The error wraps [ErrDamaged] if the trail begins after it.
func openAt(path string, seq uint64) (*Reader, error) {
	files, err := Segments(path)
	if err != nil {
		return nil, err
	}
	for i := len(files) - 1; i >= 0; i-- {
		first, err := firstRecord(files[i])
		if err != nil {
			return nil, err
		}
		if first == 0 || first > seq {
			continue
		}
		f, err := os.Open(files[i])
		if err != nil {
			return nil, err
		}
		r := &Reader{path: path, files: files, next: i + 1, f: f}
		if err := skipLines(f, seq-first); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: looking for record %d in %s: %w", ErrDamaged, seq, files[i], err), r.Close())
		}
		return r, nil
	}
	return nil, fmt.Errorf("%w: record %d %w", ErrDamaged, seq, errNoRecord)
}

// firstRecord is the number of the first record in a segment; 0 if it has none.
func firstRecord(file string) (uint64, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // it is just being made
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if err == io.EOF {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return numberOf(line)
}

// numberOf is the number that a record's line begins with.
func numberOf(line []byte) (uint64, error) {
	digits, _, ok := bytes.Cut(bytes.TrimPrefix(line, []byte(`{"seq":`)), []byte(","))
	n, err := strconv.ParseUint(string(digits), 10, 64)
	if !ok || err != nil || !json.Valid(line) {
		return 0, fmt.Errorf("%w: found %s", ErrDamaged, seqOf(line))
	}
	return n, nil
}

// skipLines moves f, which is at its start, behind its first n lines.
func skipLines(f *os.File, n uint64) error {
	buf := make([]byte, 64<<10)
	for at := int64(0); n > 0; {
		got, err := f.ReadAt(buf, at)
		part := buf[:got]
		for n > 0 {
			i := bytes.IndexByte(part, '\n')
			if i < 0 {
				break
			}
			part, n = part[i+1:], n-1
		}
		at += int64(got - len(part))
		if n > 0 {
			at += int64(len(part))
		}
		if n > 0 && err != nil {
			return err
		}
		if n == 0 {
			_, err := f.Seek(at, io.SeekStart)
			return err
		}
	}
	return nil
}
