package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/userdb"
	"github.com/keyward/keyward/session"
)

// checkState looks at the owners and modes of the state, and at the operator's lock.
func (x *examination) checkState() {
	dir := x.place.dirs.State
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		x.add("state", skipped, "", "%s does not exist yet: the first start makes it", dir)
		return
	case err != nil:
		x.add("state", skipped, "sudo keyward doctor", "%v", err)
		return
	}
	owner := info.Sys().(*syscall.Stat_t).Uid
	entries, err := os.ReadDir(dir)
	if err != nil {
		x.add("state", skipped, "sudo keyward doctor", "%v", err)
		return
	}
	for _, path := range append([]string{dir}, in(dir, entries)...) {
		if err := x.ownedByAgent(path); err != nil {
			x.addOwned("state", err)
			return
		}
		// A file of root's is safe, but the agent can't write to it.
		if info, err := os.Lstat(path); err == nil && info.Sys().(*syscall.Stat_t).Uid != owner {
			x.add("state", wrong, fmt.Sprintf("chown -R %s %s", userdb.User(owner), dir),
				"%s belongs to %s, and the agent runs as %s",
				path, userdb.User(info.Sys().(*syscall.Stat_t).Uid), userdb.User(owner))
			return
		}
	}
	if x.status == nil && session.LockedOnDisk(x.place.dirs.LockFile()) {
		x.add("state", warning, "keyward unlock, once the agent runs", "%s exists: the agent starts locked",
			x.place.dirs.LockFile())
		return
	}
	x.add("state", fine, "", "%s, owner %s", dir, userdb.User(owner))
}

// in are the paths of a directory's entries.
func in(dir string, entries []fs.DirEntry) (paths []string) {
	for _, e := range entries {
		paths = append(paths, filepath.Join(dir, e.Name()))
	}
	return paths
}

const (
	leastFree    = 1 << 30                // bytes; below, refusals are only counted
	slowestWrite = 100 * time.Millisecond // each batch of signatures waits for one
)

// checkDisk looks at the room on the state's disk, and how long it takes to make a write durable.
func (x *examination) checkDisk() {
	dir := x.place.dirs.State
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		x.add("disk", skipped, "", "%s: %v", dir, err)
		return
	}
	took, err := durableWrite(dir)
	x.judgeDisk(dir, &st, took, err)
}

// judgeDisk judges what statfs(2) says of dir's disk, and how long a durable write took there or why it failed.
func (x *examination) judgeDisk(dir string, st *unix.Statfs_t, took time.Duration, err error) {
	free, total := st.Bavail*uint64(st.Bsize), st.Blocks*uint64(st.Bsize)
	const mib = 1 << 20
	do := "make room on the disk of " + dir
	switch {
	case free < mib || st.Files > 0 && st.Ffree == 0:
		x.add("disk", wrong, do, "%s: full", dir)
	case free < min(leastFree, total/4):
		x.add("disk", warning, do, "%s: %d of %d MiB are free: refusals are only counted now, so that grants find room", dir,
			free/mib, total/mib)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT), errors.Is(err, unix.EROFS):
		x.add("disk", wrong, do, "%s: %v", dir, err)
	case err != nil: // no rights, or a file system without unnamed files
		x.add("disk", fine, "", "%d of %d MiB are free; a durable write was not tried: %v", free/mib, total/mib, err)
	case took > slowestWrite:
		x.add("disk", warning, "a faster disk, or one that is not shared: each batch of signatures waits for a write",
			"a durable write takes %v", took.Round(time.Millisecond))
	default:
		x.add("disk", fine, "", "%d of %d MiB are free; a durable write takes %v", free/mib, total/mib,
			took.Round(10*time.Microsecond))
	}
}

// durableWrite returns the median time of a few synced writes to a file without a name in dir.
func durableWrite(dir string) (time.Duration, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var times []time.Duration
	for range 5 {
		began := time.Now()
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			return 0, err
		}
		if err := unix.Fdatasync(fd); err != nil {
			return 0, err
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// checkTrail verifies the newest part of the audit trail against the agent or its ledger: all of it, unless that takes
// long.
func (x *examination) checkTrail() {
	file := x.place.dirs.AuditTrail()
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !x.place.dirs.Used():
		x.add("audit trail", skipped, "", "there is none yet")
		return
	case errors.Is(err, fs.ErrPermission):
		x.add("audit trail", skipped, "sudo keyward doctor", "%v", err)
		return
	}
	const quick = 128 << 20
	segments, _ := filepath.Glob(filepath.Join(x.place.dirs.State, "audit-*.jsonl"))
	if len(segments) > 1 || err == nil && info.Size() > quick {
		x.add("audit trail", skipped, "keyward audit verify", "%d sealed segments: checking them takes a while",
			len(segments))
		return
	}
	a, err := x.tool.findAnchor(x.c, x.place)
	var report audit.Report
	if err == nil {
		report, err = audit.Verify(file, a.head, a.journal, a.live)
	}
	if err != nil {
		x.add("audit trail", wrong, "keyward audit verify, then restore ledger and trail together from the newest backup",
			"%v", err)
		return
	}
	x.add("audit trail", fine, "", "%d records, unbroken", report.Head.Seq)
}

// checkClock compares the clock with what this machine knows of the time without a chain: whether it is synchronized,
// and that the trail has no record of the future.
func (x *examination) checkClock() {
	const do = "synchronize the clock: systemctl enable --now systemd-timesyncd, or chrony"
	if last := lastRecordTime(x.place.dirs.AuditTrail()); time.Until(last) > time.Minute {
		x.add("clock", wrong, do, "it is %s, and the last record of the audit trail is of %s",
			time.Now().UTC().Format(time.RFC3339), last.Format(time.RFC3339))
		return
	}
	var tx unix.Timex // asks only (adjtimex(2))
	if state, err := unix.Adjtimex(&tx); err == nil && state == unix.TIME_ERROR {
		x.add("clock", warning, do, "the kernel says that nothing synchronizes it")
		return
	}
	x.add("clock", fine, "", "%s", time.Now().UTC().Format(time.RFC3339))
}

// lastRecordTime is the time of the trail's last record; zero if it can't be read.
func lastRecordTime(file string) (last time.Time) {
	f, err := os.Open(file)
	if err != nil {
		return last
	}
	defer f.Close()
	const tail = 64 << 10 // a record has less
	if info, err := f.Stat(); err == nil && info.Size() > tail {
		_, _ = f.Seek(-tail, 2)
	}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, tail)
	for lines.Scan() {
		var rec struct{ Time time.Time }
		if json.Unmarshal(lines.Bytes(), &rec) == nil && !rec.Time.IsZero() {
			last = rec.Time
		}
	}
	return last
}
