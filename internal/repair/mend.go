package repair

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/backup"
	"github.com/keyward/keyward/session"
)

// mend makes a trail of the backup's records and the later ones that are here. Only if every one of them continues the
// one before, up to the ledger's last, does it take the trail's place.
func (r *repairing) mend() (err error) {
	if r.from == "" {
		return errors.New("mend needs --from BACKUP")
	}
	head, journal, err := session.ReadTrail(r.dirs.Ledger())
	if err != nil {
		return err
	}
	stage := filepath.Join(r.dirs.State, "mending")
	if err := os.RemoveAll(stage); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage)) }()
	m, err := backup.Extract(r.from, filepath.Join(stage, "backup"))
	if err != nil {
		return err
	}
	made := filepath.Join(stage, filepath.Base(r.dirs.AuditTrail()))
	w := &segmentWriter{path: made, sealed: head.Sealed}
	if err := w.copy(filepath.Join(stage, "backup", "state", "audit.jsonl"), 0, m.Records); err != nil {
		return errors.Join(err, w.close())
	}
	if err := w.copy(r.dirs.AuditTrail(), m.Records, head.Seq); err != nil {
		return errors.Join(err, w.close())
	}
	if err := w.close(); err != nil {
		return err
	}
	if _, err := audit.Verify(made, head, journal, false); err != nil {
		return fmt.Errorf("the backup's %d records and the later ones here do not make the trail whole: %w; try an older "+
			"or a newer backup", m.Records, err)
	}
	return r.takeMended(made)
}

// takeMended puts the trail at made into the damaged one's place.
func (r *repairing) takeMended(made string) error {
	names, err := r.trailFiles()
	if err != nil {
		return err
	}
	if err := r.moveAside(names...); err != nil {
		return err
	}
	all, err := audit.Segments(made)
	if err != nil {
		return err
	}
	for _, path := range all {
		if err := giveToOwner(path, r.dirs.State); err != nil {
			return err
		}
		if err := os.Rename(path, filepath.Join(r.dirs.State, filepath.Base(path))); err != nil {
			return err
		}
	}
	return nil
}

// segmentWriter writes records into a trail of at most two segments: those up to record sealed, and the rest.
type segmentWriter struct {
	path   string
	sealed uint64
	f      *os.File
	last   uint64
}

// copy writes the records of the trail at path after record from and up to to. What can't be read as a record is left
// out: verifying shows whether it is missing.
func (w *segmentWriter) copy(path string, from, to uint64) error {
	r, err := audit.OpenSegments(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer r.Close()
	for lines := bufio.NewReaderSize(r, 1<<16); ; {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		var rec struct{ Seq uint64 }
		if json.Unmarshal(bytes.TrimRight(line, "\n"), &rec) != nil || rec.Seq <= from || rec.Seq > to || rec.Seq <= w.last {
			continue
		}
		if err := w.write(line, rec.Seq); err != nil {
			return err
		}
	}
}

func (w *segmentWriter) write(line []byte, seq uint64) (err error) {
	if w.f == nil || w.last <= w.sealed && seq > w.sealed {
		if err := w.close(); err != nil {
			return err
		}
		name := w.path
		if seq <= w.sealed {
			name = audit.SegmentPath(w.path, seq)
		}
		if w.f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
			return err
		}
	}
	w.last = seq
	_, err = w.f.Write(line)
	return err
}

// close makes the segment that is being written durable.
func (w *segmentWriter) close() error {
	if w.f == nil {
		return nil
	}
	f := w.f
	w.f = nil
	return errors.Join(f.Sync(), f.Close())
}

// giveToOwner makes the file at path one of the owner of the directory state, if root made it.
func giveToOwner(path, state string) error {
	info, err := os.Stat(state)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}
