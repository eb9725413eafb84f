// Package owned refuses files that somebody else could change: whoever may write to a configuration, to the
// state or to a directory above them decides what the agent does.
package owned

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Bits of a mode that let others write (chmod(2)).
const othersWrite = 0o022

// Check refuses the file or directory at path if it, or a directory above it, belongs to somebody other than root and
// this process's user, or others may write to it. A directory with the sticky bit, as /tmp, may stand above: in it
// nobody can rename what is another's. Symbolic links are followed, and the directories with the links are checked too.
// What does not exist is not refused.
//
// The error names the path, its mode or owner, and the command that repairs it.
func Check(path string) error { return CheckFor(path, uint32(os.Geteuid())) }

// CheckFor is [Check] for a process of user uid.
func CheckFor(path string, uid uint32) error {
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	return check(path, uid)
}

func check(path string, self uint32) error {
	real, err := filepath.EvalSymlinks(path)
	if errors.Is(err, fs.ErrNotExist) {
		real = ""
	} else if err != nil {
		return err
	}
	if real != "" {
		if err := checkOne(real, self, false); err != nil {
			return err
		}
	}
	for _, p := range []string{path, real} {
		for p != "" && p != "/" {
			p = filepath.Dir(p)
			if err := checkOne(p, self, true); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOne checks one file or directory, which stands above the one that matters or is it.
func checkOne(path string, self uint32, above bool) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	what := "file"
	if info.IsDir() {
		what = "directory"
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != 0 && owner != self && !(above && unmapped(owner)) {
		return fmt.Errorf("%s %s belongs to uid %d, who could change what the agent does: type: chown %d %s", what, path,
			owner, self, path)
	}
	sticky := above && info.Mode()&fs.ModeSticky != 0
	if mode := unixMode(info.Mode()); mode&othersWrite != 0 && !sticky {
		return fmt.Errorf("%s %s may be written to by others (mode %04o), who could change what the agent does: type: "+
			"chmod go-w %s", what, path, mode, path)
	}
	return nil
}

// unixMode is the mode as chmod(1) has it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for bit, has := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&has != 0 {
			mode |= bit
		}
	}
	return mode
}

// unmapped reports whether owner stands for users outside this process's user namespace, root among them
// (user_namespaces(7)). Such a directory above is taken for root's: the kernel does not tell.
func unmapped(owner uint32) bool {
	overflow, err := os.ReadFile("/proc/sys/kernel/overflowuid")
	if err != nil || strings.TrimSpace(string(overflow)) != strconv.FormatUint(uint64(owner), 10) {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(ids)), " ") != "0 0 4294967295"
}
