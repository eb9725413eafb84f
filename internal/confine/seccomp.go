package confine

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

var errNoSeccomp = errors.New("this kernel has no seccomp filters (CONFIG_SECCOMP_FILTER)")

// Offsets in struct seccomp_data (linux/seccomp.h). Arguments are little-endian on the architectures of calls_*.go.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
)

// newNamespace are the flags of clone(2) that make namespaces. In one of its own, a process is root.
const newNamespace = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// refused are system calls of all architectures that no thread needs: those that reach into other processes, change
// the system, its mounts or its modules, hold kernel keys, or widen the kernel's surface. They fail with EPERM.
var refused = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
	unix.SYS_PIDFD_GETFD,
	unix.SYS_MOUNT, unix.SYS_UMOUNT2, unix.SYS_PIVOT_ROOT, unix.SYS_CHROOT, unix.SYS_MOVE_MOUNT, unix.SYS_OPEN_TREE,
	unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_OPEN_BY_HANDLE_AT,
	unix.SYS_UNSHARE, unix.SYS_SETNS,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD, unix.SYS_LOOKUP_DCOOKIE,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER, // their operations pass no filter
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_KEXEC_FILE_LOAD,
	unix.SYS_REBOOT, unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_QUOTACTL_FD,
	unix.SYS_NFSSERVCTL,
	unix.SYS_SETHOSTNAME, unix.SYS_SETDOMAINNAME, unix.SYS_SYSLOG, unix.SYS_VHANGUP,
	unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME, unix.SYS_CLOCK_ADJTIME, unix.SYS_ADJTIMEX,
}

// families are the sockets that can be made; others fail with EAFNOSUPPORT.
var families = []uint32{unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK}

// filterCalls puts the filter into force for all threads of the process. Without execs, no program can be started.
func filterCalls(execs bool) error {
	filter := program(execs)
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the thread that asks has to have given up privileges
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("giving up new privileges: %w", err)
	}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch {
	case errno == unix.ENOSYS || errno == unix.EINVAL:
		return errNoSeccomp
	case errno == unix.EPERM: // a process with no_new_privs may do it (seccomp(2)), unless a filter forbids it
		return fmt.Errorf("filtering system calls: %w: a filter that is in force forbids it; let SystemCallFilter= of the "+
			"systemd unit "+
			"allow seccomp and landlock_create_ruleset, landlock_add_rule and landlock_restrict_self, or set calls = false "+
			"in [confine]", errno)
	case errno != 0:
		return fmt.Errorf("filtering system calls: %w", errno)
	case thread != 0:
		return fmt.Errorf("filtering system calls: thread %d has a filter of its own", thread)
	}
	return nil
}

// program is the filter. A call of another architecture, with numbers of other meaning, ends the process.
func program(execs bool) []unix.SockFilter {
	denied := append(append([]uint32{}, refused...), refusedHere...)
	if !execs {
		denied = append(denied, unix.SYS_EXECVE, unix.SYS_EXECVEAT)
	}
	p := []unix.SockFilter{
		load(offArch),
		jump(unix.BPF_JEQ, auditArch, 1, 0),
		ret(unix.SECCOMP_RET_KILL_PROCESS),
		load(offNumber),
	}
	if otherNumbers != 0 {
		p = append(p, jump(unix.BPF_JGE, otherNumbers, 0, 1), fails(unix.ENOSYS))
	}
	for _, nr := range denied {
		p = append(p, jump(unix.BPF_JEQ, nr, 0, 1), fails(unix.EPERM))
	}
	// clone3's flags are in memory that a filter can't read. Without it libc takes clone.
	p = append(p, jump(unix.BPF_JEQ, unix.SYS_CLONE3, 0, 1), fails(unix.ENOSYS),
		jump(unix.BPF_JEQ, unix.SYS_CLONE, 0, 4),
		load(offArg0), jump(unix.BPF_JSET, newNamespace, 0, 1), fails(unix.EPERM), ret(unix.SECCOMP_RET_ALLOW),
		jump(unix.BPF_JEQ, unix.SYS_SOCKET, 0, uint8(len(families)+2)),
		load(offArg0))
	for i, family := range families {
		p = append(p, jump(unix.BPF_JEQ, family, uint8(len(families)-i), 0))
	}
	return append(p, fails(unix.EAFNOSUPPORT), ret(unix.SECCOMP_RET_ALLOW))
}

func load(offset uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
}

// jump skips so many instructions if the comparison of what was loaded with k is true or false.
func jump(comparison uint16, k uint32, ifTrue, ifFalse uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | comparison | unix.BPF_K, K: k, Jt: ifTrue, Jf: ifFalse}
}

func ret(action uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
}

func fails(errno unix.Errno) unix.SockFilter { return ret(unix.SECCOMP_RET_ERRNO | uint32(errno)) }
