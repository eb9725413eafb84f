package audit

import (
	"bufio"
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

// Archive copies the segments, the first of a trail that was verified, into the directory to, gzipped if compress is
// set, and reads each copy again. With to "" nothing is copied. It returns what a record [TrailArchived] has to say
// before [Remove] deletes them. tree may be nil.
func Archive(segments []Sealed, to string, compress bool, tree *Tree) (*Gone, error) {
	last := segments[len(segments)-1]
	line, err := lastLineOf(last.Path)
	if err != nil {
		return nil, err
	}
	if n, err := numberOf(line); err != nil || n != last.Last {
		return nil, errors.Join(fmt.Errorf("%w: %s ends with record %d, and the next segment begins after %d", ErrDamaged, last.Path, n, last.Last), err)
	}
	g := &Gone{Records: last.Last, Hash: hashText(sha256.Sum256(line)), To: to}
	if tree != nil && uint64(tree.Len()) >= g.Records {
		if g.Tree, err = tree.ReadHashes(subtrees(int64(g.Records))); err != nil {
			return nil, err
		}
	}
	if to == "" {
		return g, nil
	}
	for _, s := range segments {
		file, err := copySegment(s.Path, to, compress)
		if err != nil {
			return nil, fmt.Errorf("archiving %s: %w", s.Path, err)
		}
		g.Files = append(g.Files, file)
	}
	return g, durable.SyncDir(to)
}

// Remove deletes segments that were archived, the first one first: what is left begins at a segment in any case.
func Remove(segments []Sealed) error {
	for _, s := range segments {
		if err := durable.Remove(s.Path); err != nil {
			return err
		}
	}
	return nil
}

func lastLineOf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := seekBack(f, 1); err != nil {
		return nil, err
	}
	line, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	return []byte(strings.TrimSuffix(string(line), "\n")), nil
}

// copySegment writes a copy of the segment into the directory to, and compares it with the segment.
func copySegment(path, to string, compress bool) (file GoneFile, err error) {
	name := filepath.Base(path)
	if compress {
		name += ".gz"
	}
	in, err := os.Open(path)
	if err != nil {
		return file, err
	}
	defer in.Close()
	out, err := os.OpenFile(filepath.Join(to, name), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600) // an archive that was cut short is written again
	if err != nil {
		return file, err
	}
	defer out.Close()
	sum := sha256.New()
	var w io.Writer = out
	gz := gzip.NewWriter(out)
	if compress {
		w = gz
	}
	if _, err := io.Copy(io.MultiWriter(w, sum), in); err != nil {
		return file, err
	}
	if compress {
		err = gz.Close()
	}
	if err := errors.Join(err, out.Sync()); err != nil {
		return file, err
	}
	file = GoneFile{name, fmt.Sprintf("0x%x", sum.Sum(nil))}
	return file, checkCopy(filepath.Join(to, name), file.SHA256)
}

// checkCopy reads an archived segment again.
func checkCopy(path, want string) error {
	r, err := openArchived(path)
	if err != nil {
		return err
	}
	defer r.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if got := fmt.Sprintf("0x%x", sum.Sum(nil)); got != want {
		return fmt.Errorf("its copy %s has the SHA-256 %s, want %s", path, got, want)
	}
	return nil
}

// archived is an archived segment that is being read.
type archived struct {
	io.Reader
	io.Closer
}

func openArchived(path string) (*archived, error) {
	f, err := os.Open(path)
	if err != nil || !strings.HasSuffix(path, ".gz") {
		return &archived{f, f}, err
	}
	gz, err := gzip.NewReader(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %s: %w", ErrDamaged, path, err), f.Close())
	}
	return &archived{gz, f}, nil
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
	var files []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) + "-"
	for _, e := range entries {
		if name := strings.TrimSuffix(e.Name(), ".gz"); strings.HasPrefix(name, base) && filepath.Ext(name) == filepath.Ext(path) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	slices.Sort(files)
	if len(files) == 0 {
		return 0, &fs.PathError{Op: "open", Path: filepath.Join(dir, base+"*"), Err: fs.ErrNotExist}
	}
	var first uint64
	var at Head
	for _, file := range files {
		if first, at, err = verifyArchived(file, first, at, begin.Head); err != nil {
			return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, file, err)
		}
	}
	if at.Seq < begin.Seq {
		return 0, fmt.Errorf("%w: the archive ends at record %d, and the trail begins with record %d", ErrDamaged, at.Seq, begin.Seq+1)
	}
	return first - 1, nil
}

// verifyArchived reads the records of an archived segment that continue at, and returns the number of the archive's
// first record and the head of the last; first 0 begins with the segment's first. The record until.Seq has to be the
// one of until.
func verifyArchived(file string, first uint64, at, until Head) (uint64, Head, error) {
	r, err := openArchived(file)
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
