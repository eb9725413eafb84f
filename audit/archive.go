package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/internal/durable"
)

// Sealed is a segment of a trail that does not change any more.
type Sealed struct {
	Path string
	Last uint64    // number of its last record
	At   time.Time // when it was last written to
}

// SealedSegments returns the segments of the trail at path that are sealed, in order.
func SealedSegments(path string) (all []Sealed, err error) {
	files, err := Segments(path)
	if err != nil {
		return nil, err
	}
	for i, file := range files {
		if file == path {
			break
		}
		fi, err := os.Stat(file)
		if err != nil {
			return nil, err
		}
		s := Sealed{Path: file, At: fi.ModTime()}
		if i+1 < len(files) {
			next, err := firstRecord(files[i+1])
			if err != nil {
				return nil, err
			}
			s.Last = next - 1
		}
		if s.Last == 0 || s.Last == ^uint64(0) { // the newest segment has no record yet
			break
		}
		all = append(all, s)
	}
	return all, nil
}

// Archive copies a segment of a trail that was verified into the directory to, gzipped if compress is set, and reads
// the copy again. With to "" nothing is copied. It returns what a record [TrailArchived] has to say before the segment
// is deleted. tree may be nil. The copy is on disk when Archive returns.
//
// A copy that is already there, as after an earlier call that was cut short, is left if it has the same records.
// Another file of that name is an error that wraps [fs.ErrExist].
func Archive(s Sealed, to string, compress bool, tree *Tree) (*Gone, error) {
	hash, err := s.hash()
	if err != nil {
		return nil, err
	}
	g := &Gone{Records: s.Last, Hash: hashText(hash), To: to}
	if tree != nil && uint64(tree.Len()) >= g.Records {
		if g.Tree, err = tree.ReadHashes(subtrees(int64(g.Records))); err != nil {
			return nil, err
		}
	}
	if to == "" {
		return g, nil
	}
	file, err := copySegment(s.Path, to, compress)
	if err != nil {
		return nil, fmt.Errorf("archiving %s: %w", s.Path, err)
	}
	g.Files = []GoneFile{file}
	return g, durable.SyncDir(to)
}

// Remove deletes a segment that was archived. It is durable when Remove returns.
func (s Sealed) Remove() error { return durable.Remove(s.Path) }

// Ends reports an error that wraps [ErrDamaged] unless the segment's last record is the one of g.
func (s Sealed) Ends(g *Gone) error {
	hash, err := s.hash()
	if err == nil && hashText(hash) != g.Hash {
		err = fmt.Errorf("%w: record %d in %s has the hash %s, not %s", ErrDamaged, s.Last, s.Path, hashText(hash), g.Hash)
	}
	return err
}

// hash is that of the segment's last record.
func (s Sealed) hash() (h [32]byte, err error) {
	f, err := os.Open(s.Path)
	if err != nil {
		return h, err
	}
	defer f.Close()
	if _, err := seekBack(f, 1); err != nil {
		return h, err
	}
	line, err := io.ReadAll(f)
	if err != nil {
		return h, err
	}
	line = bytes.TrimSuffix(line, []byte{'\n'})
	if n, err := numberOf(line); err != nil || n != s.Last {
		return h, errors.Join(fmt.Errorf("%w: %s ends with record %d, and the next segment begins after %d", ErrDamaged,
			s.Path, n, s.Last), err)
	}
	return sha256.Sum256(chained(line)), nil
}

// copySegment writes a copy of the segment into the directory to, and compares it with the segment. The copy gets its
// name when it is whole.
func copySegment(path, to string, compress bool) (file GoneFile, err error) {
	file.Name = filepath.Base(path)
	if compress {
		file.Name += ".gz"
	}
	target := filepath.Join(to, file.Name)
	part := target + ".part"
	if file.SHA256, err = writeCopy(path, part, compress); err == nil {
		err = checkCopy(part, compress, file.SHA256)
	}
	if err != nil {
		os.Remove(part) // the first error is what counts
		return file, err
	}
	_, err = os.Stat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return file, os.Rename(part, target)
	case err != nil:
		return file, err
	}
	if err := errors.Join(checkCopy(target, compress, file.SHA256), os.Remove(part)); err != nil {
		return file, fmt.Errorf("%w: %s is not a copy of this segment, choose another directory: %w", fs.ErrExist, target,
			err)
	}
	return file, nil
}

// writeCopy writes the segment to the file part, and returns the SHA-256 of the segment.
func writeCopy(path, part string, compress bool) (sum string, err error) {
	in, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer out.Close()
	h := sha256.New()
	var w io.WriteCloser = out
	if compress {
		w = gzip.NewWriter(out)
	}
	if _, err := io.Copy(io.MultiWriter(w, h), in); err != nil {
		return "", err
	}
	if compress {
		err = w.Close()
	}
	return fmt.Sprintf("0x%x", h.Sum(nil)), errors.Join(err, out.Sync())
}

// checkCopy reads a copy of a segment again.
func checkCopy(path string, compressed bool, want string) error {
	r, err := openArchived(path, compressed)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if got := fmt.Sprintf("0x%x", sum.Sum(nil)); got != want {
		return fmt.Errorf("%s has the SHA-256 %s, want %s", path, got, want)
	}
	return nil
}

// archived is an archived segment that is being read.
type archived struct {
	io.Reader
	io.Closer
}

func openArchived(path string, compressed bool) (*archived, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if !compressed {
		return &archived{f, f}, nil
	}
	gz, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrDamaged, path, err), f.Close())
	}
	return &archived{gz, f}, nil
}

// ArchivedSegments returns the archived segments of the trail at path that are in the directory dir, in order. The
// error is fs.ErrNotExist if there is none.
func ArchivedSegments(dir, path string) (files []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if IsSegment(path, strings.TrimSuffix(e.Name(), ".gz")) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(files)
	if len(files) == 0 {
		return nil, &fs.PathError{Op: "open", Path: filepath.Join(dir, "audit-*"), Err: fs.ErrNotExist}
	}
	return files, nil
}

// VerifyArchive reads the archived segments in the directory dir, which together have all records of the trail at path
// that are gone from it, and checks that each record continues the one before and that the rest of the trail continues
// the last. The rest is for [Verify]. It returns the number of records before the first archived one; they were deleted
// or are in another archive.
func VerifyArchive(dir, path string) (missing uint64, err error) {
	begin, err := startOf(path)
	if err != nil {
		return 0, err
	}
	files, err := ArchivedSegments(dir, path)
	if err != nil {
		return 0, err
	}
	var first uint64
	var at Head
	for _, file := range files {
		if first, at, err = verifyArchived(file, first, at, begin.Head); err != nil {
			return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, file, err)
		}
	}
	if at.Seq < begin.Seq {
		return 0, fmt.Errorf("%w: the archive ends at record %d, and the trail begins with record %d", ErrDamaged, at.Seq,
			begin.Seq+1)
	}
	return first - 1, nil
}

// verifyArchived reads the records of an archived segment that continue at, and returns the number of the archive's
// first record and the head of the last; first 0 begins with the segment's first. The record until.Seq has to be the
// one of until.
func verifyArchived(file string, first uint64, at, until Head) (uint64, Head, error) {
	r, err := openArchived(file, strings.HasSuffix(file, ".gz"))
	if err != nil {
		return first, at, err
	}
	defer r.Close()
	for lines := bufio.NewReaderSize(r, 1<<16); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return first, at, nil
		}
		if err != nil {
			return first, at, err
		}
		line = line[:len(line)-1]
		if first == 0 {
			at = before(line)
			first = at.Seq + 1
		}
		if at, err = at.follows(line); err != nil {
			return first, at, err
		}
		if at.Seq == until.Seq && at.Hash != until.Hash {
			return first, at, fmt.Errorf("record %d is not the one that the trail continues", until.Seq)
		}
	}
}
