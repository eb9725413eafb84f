package audit

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"syscall"
	"time"
)

// stamp is what the trail's own last write left of its file. Whatever else writes to the file, truncates or
// replaces it changes the stamp.
type stamp struct {
	dev, ino uint64
	size     int64
	ctime    syscall.Timespec // set by the kernel at every change; no program can set it
}

// stampOf is the zero stamp of a file system in memory, which nothing else writes to.
func stampOf(fi fs.FileInfo) (s stamp) {
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		s = stamp{dev: uint64(st.Dev), ino: st.Ino, size: st.Size, ctime: st.Ctim}
	}
	return s
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
	fi, err := t.fs.Stat(t.path)
	if err != nil {
		return fmt.Errorf("%w: it was moved or removed while in use: %w", ErrDamaged, err)
	}
	now, want := stampOf(fi), t.last
	switch {
	case now == want:
		return nil
	case now.dev != want.dev || now.ino != want.ino:
		return fmt.Errorf("%w: another file is at %s since the agent opened it; put the one with record %d back", ErrDamaged,
			t.path, head.Seq)
	case now.size != want.size:
		return fmt.Errorf("%w: %s has %d bytes, and the agent left %d: another program truncated it or wrote to it "+
			"(logrotate must leave it alone)",
			ErrDamaged, t.path, now.size, want.size)
	}
	if err := t.checkRecords(head); err != nil {
		return err
	}
	return t.remember()
}

// checkRecords reads the newest segment and compares it with head. That its first record continues the segment before
// is for [Verify] to find out.
func (t *Trail) checkRecords(head Head) error {
	at := Head{Seq: head.Sealed, Sealed: head.Sealed}
	if head.Sealed > 0 && head.Seq > head.Sealed {
		prev, err := t.firstPrev()
		if err != nil {
			return fmt.Errorf("%w: %s: %w", ErrDamaged, t.path, err)
		}
		at.Hash = prev
	}
	if head.Seq == head.Sealed {
		head.Hash = [32]byte{}
	}
	if _, err := verify(io.NewSectionReader(t.f, 0, t.size), at, head, false, func([]byte) {}); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, t.path, err)
	}
	return nil
}

// Begun is the time of the newest segment's first record; now if it has none, or that can't be read.
func (t *Trail) Begun() time.Time {
	line, err := bufio.NewReader(io.NewSectionReader(t.f, 0, t.size)).ReadBytes('\n')
	var rec struct{ Time time.Time }
	if err != nil || json.Unmarshal(line, &rec) != nil || rec.Time.IsZero() {
		return time.Now()
	}
	return rec.Time
}

// firstPrev returns the hash that the first record of the newest segment continues.
func (t *Trail) firstPrev() (prev [32]byte, err error) {
	line, err := bufio.NewReader(io.NewSectionReader(t.f, 0, t.size)).ReadBytes('\n')
	if err != nil {
		return prev, fmt.Errorf("its first record is cut short: %w", err)
	}
	var rec struct {
		Prev string `json:"prev"`
	}
	if err := json.Unmarshal(line, &rec); err != nil {
		return prev, fmt.Errorf("its first line is no record: %w", err)
	}
	n, err := hex.Decode(prev[:], []byte(rec.Prev)[:min(len(rec.Prev), 2*len(prev))])
	if err != nil || n != len(prev) || len(rec.Prev) != 2*len(prev) {
		return prev, fmt.Errorf("its first record has the link %.80q, want 32 bytes of hex", rec.Prev)
	}
	return prev, nil
}
