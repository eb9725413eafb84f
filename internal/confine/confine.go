// Package confine takes rights from this process that it does not need, for all its threads and for the programs
// that it starts, until it ends.
//
// Landlock (landlock(7), Linux 5.13) bounds the files that the process can open, change and execute. A seccomp filter
// (seccomp(2)) refuses system calls that neither the agent nor a library for a device needs. The process can't gain
// privileges (PR_SET_NO_NEW_PRIVS). What a kernel does not have is left out, and [Apply] says what is on.
//
// Landlock has a side effect: the process can't see the program of a process that it did not start (/proc/PID/exe).
package confine

import (
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Rules are what a process still may do. Paths are absolute, and one that does not exist is passed over. A directory
// stands for everything below it. The zero value allows no file and no program.
type Rules struct {
	Read    []string `json:"read"`    // files and directories to read
	Write   []string `json:"write"`   // to read, write, make and remove
	Sockets []string `json:"sockets"` // directories in which sockets are made, and any file removed
	// device nodes to read, write and control (ioctl(2)); in a directory those that come later, too
	Devices []string `json:"devices"`
	Execute []string `json:"execute"` // programs, with their dynamic loader; none: the process starts no program

	NoTCP   bool `json:"noTCP"`   // no TCP connection is made or accepted (Linux 6.7)
	NoFiles bool `json:"noFiles"` // leaves Landlock out: the lists above, but Execute, mean nothing
	NoCalls bool `json:"noCalls"` // leaves the seccomp filter out
}

// Names of the protections that [Apply] returns, beside Landlock's, which has the kernel's version of it: "landlock 7".
const (
	NoNewPrivileges = "no new privileges"
	Seccomp         = "seccomp"
)

// Sets of Landlock's rights. Files take no rights that are for directories.
const (
	readFile  = landlock.AccessFSSet(ll.AccessFSReadFile)
	readDir   = readFile | ll.AccessFSReadDir
	writeFile = readFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
	writeDir  = writeFile | readDir | ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo |
		ll.AccessFSMakeSym | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile
	sockets = landlock.AccessFSSet(ll.AccessFSMakeSock | ll.AccessFSRemoveFile)
	device  = writeFile | ll.AccessFSIoctlDev
	devices = device | ll.AccessFSReadDir
	execute = readFile | ll.AccessFSExecute
)

// Apply puts the rules into force and returns the names of the protections that are on. missing are those that the
// kernel does not have, each with the reason. An error means that some rules may be in force: the process should end.
func Apply(r Rules) (on, missing []string, err error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return nil, nil, fmt.Errorf("giving up new privileges: %w", err)
	}
	on = append(on, NoNewPrivileges) // for other threads, the next two set it
	if !r.NoFiles {
		abi, err := restrictFiles(&r)
		switch {
		case errors.Is(err, errNoLandlock):
			missing = append(missing, err.Error())
		case err != nil:
			return nil, nil, err
		default:
			on = append(on, fmt.Sprintf("landlock %d", abi))
		}
	}
	if !r.NoCalls {
		err := filterCalls(len(r.Execute) > 0)
		switch {
		case errors.Is(err, errNoSeccomp):
			missing = append(missing, err.Error())
		case err != nil:
			return nil, nil, err
		default:
			on = append(on, Seccomp)
		}
	}
	return on, missing, nil
}

var errNoLandlock = errors.New("there is no Landlock: Linux has it from 5.13 on, the boot parameter lsm= has to " +
	"name it, " +
	"and the filter of system calls of a container has to allow it")

// restrictFiles puts the rules for files and TCP into force, and returns the version of Landlock's interface.
func restrictFiles(r *Rules) (abi int, err error) {
	abi, err = ll.LandlockGetABIVersion()
	if err != nil || abi < 1 {
		return 0, errNoLandlock
	}
	var rules []landlock.Rule
	for _, set := range []struct {
		paths     []string
		file, dir landlock.AccessFSSet
	}{
		{r.Read, readFile, readDir},
		{r.Write, writeFile, writeDir},
		{r.Sockets, readFile, sockets},
		{r.Devices, device, devices},
		{r.Execute, execute, execute | ll.AccessFSReadDir},
	} {
		more, err := rulesFor(set.paths, set.file, set.dir)
		if err != nil {
			return 0, err
		}
		rules = append(rules, more...)
	}
	// Version 6 restricts signals to processes outside, too. Children are inside.
	config := landlock.Config{HandledAccessFS: landlock.V5.HandledAccessFS, Scoped: ll.ScopeSignal}
	if r.NoTCP {
		config.HandledAccessNet = landlock.V4.HandledAccessNet
	}
	if err := config.BestEffort().Restrict(rules...); err != nil {
		return 0, fmt.Errorf("restricting files: %w", err)
	}
	return abi, nil
}

// rulesFor grants the rights file or dir to each of the paths that exist.
func rulesFor(paths []string, file, dir landlock.AccessFSSet) ([]landlock.Rule, error) {
	var rules []landlock.Rule
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("restricting files: %w", err)
		}
		rights := file
		if info.IsDir() {
			rights = dir
		}
		rules = append(rules, landlock.PathAccess(rights, path).IgnoreIfMissing())
	}
	return rules, nil
}

// Loader is the dynamic loader of the program at path, which has to be executable too; "": it has none.
func Loader(path string) string {
	f, err := elf.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			if err != nil {
				return ""
			}
			return strings.TrimRight(string(name), "\x00")
		}
	}
	return ""
}
