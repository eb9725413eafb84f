package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyward/keyward/internal/durable"
)

// Erasure is what [Erase] did to a segment.
type Erasure struct {
	Erased int // records whose personal members were deleted
	Older  int // chosen records of older versions, whose personal members are part of the chain; they are as they were
}

// Erase deletes the personal members of the records of a sealed or an archived segment that choose picks by their
// lines, without newlines. The chain stays as it is. The segment is replaced as a whole: after an error it is as it
// was. Concurrent readers of the segment see the old one or the new one.
func Erase(file string, choose func(line []byte) bool) (Erasure, error) {
	old, err := os.Stat(file)
	if err != nil {
		return Erasure{}, err
	}
	part := file + ".part"
	done, err := writeErased(file, part, old, choose)
	if err != nil || done.Erased == 0 {
		return done, errors.Join(err, removed(part))
	}
	if err := os.Rename(part, file); err != nil {
		return Erasure{}, errors.Join(err, removed(part))
	}
	return done, durable.SyncDir(filepath.Dir(file))
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeErased writes the segment at file without what is erased to the file part, with the times, the owner and the
// mode of old.
func writeErased(file, part string, old fs.FileInfo, choose func([]byte) bool) (done Erasure, err error) {
	compressed := strings.HasSuffix(file, ".gz")
	in, err := openArchived(file, compressed)
	if err != nil {
		return done, err
	}
	defer in.Close()
	out, err := os.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return done, err
	}
	defer out.Close()
	var w io.WriteCloser = out
	if compressed {
		w = gzip.NewWriter(out)
	}
	buffered := bufio.NewWriterSize(w, 1<<16)
	if done, err = copyErased(in, buffered, choose); err != nil {
		return done, err
	}
	err = buffered.Flush()
	if compressed {
		err = errors.Join(err, w.Close())
	}
	owner := old.Sys().(*syscall.Stat_t)
	return done, errors.Join(err, out.Chown(int(owner.Uid), int(owner.Gid)), out.Chmod(old.Mode().Perm()), out.Sync(),
		os.Chtimes(part, old.ModTime(), old.ModTime()))
}

// copyErased copies lines, and leaves out the personal members of those that choose picks.
func copyErased(in io.Reader, out io.Writer, choose func([]byte) bool) (done Erasure, err error) {
	for lines := bufio.NewReaderSize(in, 1<<16); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return done, nil
		}
		if err != nil {
			return done, err
		}
		line = line[:len(line)-1]
		_, _, rest, ok := personal(line)
		if (len(rest) > 0 || !ok) && choose(line) {
			switch {
			case ok:
				done.Erased++
				line = chained(line)
			case bytes.Contains(line, []byte(`"peer":`)):
				done.Older++
			}
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return done, err
		}
	}
}
