package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
)

// peerOf asks the kernel who connected. The answer is from the time of connect(2)
// and does not follow a descriptor that is passed on: unix(7), SO_PEERCRED.
func peerOf(conn *net.UnixConn) (audit.Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return audit.Peer{}, err
	}
	var peer audit.Peer
	if ctrl := raw.Control(func(fd uintptr) { peer, err = peerOfFD(int(fd)) }); ctrl != nil {
		return audit.Peer{}, ctrl
	}
	return peer, err
}

// peerOfFD is [peerOf] on a file descriptor.
func peerOfFD(fd int) (audit.Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return audit.Peer{}, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	groups, err := peerGroups(fd)
	if err != nil {
		return audit.Peer{}, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	peer := audit.Peer{UID: cred.Uid, GID: cred.Gid, Groups: groups, PID: cred.Pid}
	peer.Exe = exeOf(fd, cred.Pid)
	return peer, nil
}

// exeOf is the file that the process which connected runs now, "" if that is not known. It is for the record only and
// never for a decision: between connect(2) and here the process may have run another program, and the kernel keeps no
// note of the one before. It is no other process's: a pid that was given to another one meanwhile is noticed by the
// pidfd of the one that connected (SO_PEERPIDFD, Linux 6.5).
func exeOf(fd int, pid int32) string {
	exe, err := os.Readlink("/proc/" + strconv.Itoa(int(pid)) + "/exe")
	if err != nil {
		return "" // the process is gone, or is another user's
	}
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err != nil {
		if errors.Is(err, unix.ENOPROTOOPT) { // an older kernel
			return exe
		}
		return ""
	}
	defer unix.Close(pidfd)
	if err := unix.PidfdSendSignal(pidfd, 0, nil, 0); errors.Is(err, unix.ESRCH) {
		return ""
	}
	return exe
}

// peerGroups returns the supplementary groups of the peer. The kernel answers ERANGE,
// with the size it needs, to a buffer that is too small (Linux 4.13, sock_getsockopt).
func peerGroups(fd int) ([]uint32, error) {
	const gidSize = uint32(unsafe.Sizeof(uint32(0)))
	groups := make([]uint32, 32)
	for {
		size := uint32(len(groups)) * gidSize
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		n := int(size / gidSize)
		switch {
		case errno == 0:
			return groups[:n:n], nil
		case errors.Is(errno, unix.ERANGE) && n > len(groups):
			groups = make([]uint32, n)
		default:
			return nil, errno
		}
	}
}
