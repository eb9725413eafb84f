package audit

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

// stamp is what the trail's own last write left of its file. Whatever else writes to the file, truncates or
// replaces it changes the stamp.
type stamp struct {
	dev, ino uint64
	size     int64
	ctime    syscall.Timespec // set by the kernel at every change; no program can set it
}

func stampOf(fi fs.FileInfo) stamp {
	st := fi.Sys().(*syscall.Stat_t) // of a file that was opened here
	return stamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, ctime: st.Ctim}
}

// remember takes the stamp of the file as it is now.
func (t *Trail) remember() error {
	fi, err := t.f.Stat()
	if err != nil {
		return fmt.Errorf("reading audit trail: %w", err)
	}
	t.last = stampOf(fi)
	return nil
}

// Check finds out whether another program has changed the trail since this one last wrote to it, as logrotate's
// copytruncate does; head is the last record. The error wraps [ErrDamaged]. Where only the time of the last change
// differs, as after chmod(1), the records decide.
//
// A change that leaves the size, within the kernel's tick of our own write (some ms), is not seen here but by
// [Verify].
func (t *Trail) Check(head Head) error {
	fi, err := os.Stat(t.path)
	if err != nil {
		return fmt.Errorf("%w: it was moved or removed while in use: %w", ErrDamaged, err)
	}
	now, want := stampOf(fi), t.last
	switch {
	case now == want:
		return nil
	case now.dev != want.dev || now.ino != want.ino:
		return fmt.Errorf("%w: another file is at %s since the agent opened it; put the one with record %d back", ErrDamaged, t.path, head.Seq)
	case now.size != want.size:
		return fmt.Errorf("%w: %s has %d bytes, and the agent left %d: another program truncated it or wrote to it (logrotate must leave it alone)",
			ErrDamaged, t.path, now.size, want.size)
	}
	if err := t.checkRecords(head); err != nil {
		return err
	}
	return t.remember()
}

// checkRecords reads the file and compares it with head.
func (t *Trail) checkRecords(head Head) error {
	if _, err := verify(io.NewSectionReader(t.f, 0, t.size), head, false); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, t.path, err)
	}
	return nil
}
