package audit

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// SegmentPath is where the segment that begins with record first is once it is sealed: beside the newest segment, which
// is at path, and with the number in its name, so that names sort as records do: audit-00000000000000000001.jsonl.
func SegmentPath(path string, first uint64) string {
	ext := filepath.Ext(path)
	return fmt.Sprintf("%s-%020d%s", strings.TrimSuffix(path, ext), first, ext)
}

// IsSegment reports whether name, without a directory, is that of a sealed segment of the trail at path.
func IsSegment(path, name string) bool {
	ext := filepath.Ext(path)
	number, ok := strings.CutPrefix(strings.TrimSuffix(name, ext), strings.TrimSuffix(filepath.Base(path), ext)+"-")
	return ok && strings.HasSuffix(name, ext) && len(number) == 20 && strings.Trim(number, "0123456789") == ""
}

// Segments returns the paths of the trail's files in the order of their records. The last one is path, unless there is
// no such file.
func Segments(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	var all []string
	for _, e := range entries {
		if IsSegment(path, e.Name()) {
			all = append(all, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	slices.Sort(all)
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		all = append(all, path)
	}
	return all, nil
}

// Reader reads a trail's segments one after the other. At the end of the newest one Read returns io.EOF, and a later
// Read goes on with what was appended since, also in a segment that was begun since. It skips segments that were
// archived since it was opened.
type Reader struct {
	path  string
	files []string // in order
	next  int      // index in files of the one to open next
	f     *os.File // open; nil before the first Read
}

// OpenSegments begins to read the trail whose newest segment is at path, from its first record. The error is
// fs.ErrNotExist if there is no trail.
func OpenSegments(path string) (*Reader, error) {
	files, err := Segments(path)
	if err == nil && len(files) == 0 {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	return &Reader{path: path, files: files}, nil
}

// Read is io.Reader's. It is not safe for concurrent use.
func (r *Reader) Read(b []byte) (int, error) {
	for {
		if r.f != nil {
			n, err := r.f.Read(b)
			if n > 0 || err != io.EOF {
				return n, err
			}
		}
		more, err := r.next < len(r.files), error(nil)
		if more {
			more, err = r.advance()
		} else {
			more, err = r.rotated() // if so, the end of the old segment comes first
		}
		if err != nil || !more {
			return 0, cmp.Or(err, io.EOF)
		}
	}
}

// advance opens the next segment; false if it is the newest and just being made.
func (r *Reader) advance() (bool, error) {
	f, err := os.Open(r.files[r.next])
	if errors.Is(err, fs.ErrNotExist) && r.files[r.next] == r.path {
		return false, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return r.skipGone()
	}
	if err != nil {
		return false, err
	}
	files, err := Segments(r.path) // the newest may have been sealed before it was opened, and f be the one after it
	if err != nil {
		return false, errors.Join(err, f.Close())
	}
	if r.next < len(files) && files[r.next] != r.files[r.next] && !same(f, files[r.next]) {
		r.files = files
		return true, f.Close()
	}
	r.Close()
	r.f, r.files = f, files
	r.next++
	return true, nil
}

// skipGone goes on with the first segment after the one to open next, which was archived since the segments were
// listed.
func (r *Reader) skipGone() (bool, error) {
	files, err := Segments(r.path)
	if err != nil {
		return false, err
	}
	gone := r.files[r.next]
	for i, name := range files {
		if name > gone || name == r.path {
			r.files, r.next = files, i
			return true, nil
		}
	}
	return false, nil
}

// same reports whether f is the file at path.
func same(f *os.File, path string) bool {
	open, err := f.Stat()
	named, statErr := os.Stat(path)
	return err == nil && statErr == nil && os.SameFile(open, named)
}

// rotated looks for segments after the one that is open: it was the newest, at path, and is
// sealed if another file is there now. What was appended to it before is read first.
func (r *Reader) rotated() (bool, error) {
	if _, err := os.Stat(r.path); errors.Is(err, fs.ErrNotExist) || same(r.f, r.path) {
		return false, nil
	}
	files, err := Segments(r.path)
	if err != nil {
		return false, err
	}
	for i, name := range files { // the one after the one that is open
		if same(r.f, name) {
			r.files, r.next = files, i+1
			return r.next < len(files), nil
		}
	}
	// It is archived, or was written again without personal data.
	line, err := bufio.NewReader(io.NewSectionReader(r.f, 0, 1<<62)).ReadBytes('\n')
	if err != nil {
		return false, fmt.Errorf("%w: the segment that was being read is gone from %s", ErrDamaged, filepath.Dir(r.path))
	}
	first, err := numberOf(line)
	if err != nil {
		return false, err
	}
	own := SegmentPath(r.path, first)
	for i, name := range files {
		if name > own || name == r.path {
			r.files, r.next = files, i
			return true, nil
		}
	}
	return false, nil
}

// SeekLast moves to where the trail's last n records begin.
func (r *Reader) SeekLast(n int) error {
	for i := len(r.files) - 1; ; i-- {
		f, err := os.Open(r.files[i])
		if err != nil {
			return err
		}
		if n, err = seekBack(f, n); err != nil {
			return errors.Join(err, f.Close())
		}
		if n <= 0 || i == 0 {
			r.Close()
			r.f, r.next = f, i+1
			return nil
		}
		f.Close()
	}
}

// seekBack moves to where the last n lines of f begin, and returns how many of them f lacks.
func seekBack(f io.ReadSeeker, n int) (lacks int, err error) {
	const step = 64 << 10
	at, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return n, err
	}
	buf := make([]byte, step)
	for n++; at > 0; { // one more newline: the one that ends the line before
		size := min(at, step)
		at -= size
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return n, err
		}
		if _, err := io.ReadFull(f, buf[:size]); err != nil {
			return n, err
		}
		for i := int(size) - 1; i >= 0; i-- {
			if buf[i] != '\n' {
				continue
			}
			if n--; n == 0 {
				_, err := f.Seek(at+int64(i)+1, io.SeekStart)
				return 0, err
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return n - 1, err
}

// Close closes the file that is open.
func (r *Reader) Close() error {
	if r.f == nil {
		return nil
	}
	return r.f.Close()
}

// at names the file that is open.
func (r *Reader) at(path string) string {
	if r.f == nil {
		return path
	}
	return r.f.Name()
}
