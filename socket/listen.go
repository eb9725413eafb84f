package socket

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse: another process listens on the path.
var ErrInUse = errors.New("another agent is listening")

// Listen makes a Unix socket at path that is never more open than mode. A stale
// socket there, one that nobody listens on, is replaced; a live one
// ([ErrInUse]) and anything that is no socket are left alone.
//
// Two processes that both find the same stale socket are kept apart by the lock
// on the agent's state, which is opened first.
func Listen(path string, mode os.FileMode) (net.Listener, error) {
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("listening on %s: %w", path, err)
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return fchmod(c, mode)
	}}
	l, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err // net's error names operation and path
	}
	// The umask may have taken away bits that the operator asked for.
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// fchmod sets the mode that bind(2) gives to the file: on Linux it takes that of the
// unbound socket, less the umask, so the file never exists with another mode.
func fchmod(c syscall.RawConn, mode os.FileMode) error {
	var err error
	if ctrl := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), uint32(mode.Perm())) }); ctrl != nil {
		return ctrl
	}
	return err
}

// removeStale removes a socket that refuses connections.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file in the way that is no socket")
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		return errors.Join(ErrInUse, conn.Close())
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	default: // e.g. a full backlog: somebody may be there
		return fmt.Errorf("can't tell whether somebody listens: %w", err)
	}
}

// firstInherited is the first file descriptor that systemd passes on: sd_listen_fds(3).
const firstInherited = 3

// Inherited returns the listening sockets that systemd handed over, by their
// FileDescriptorName ("agent", "admin"), and takes the variables that announce them
// out of the environment. Without any it returns an empty map. Closing such a
// listener leaves its path in place, so that clients can connect to the next process.
func Inherited() (map[string]net.Listener, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, err
		}
	}
	if pid != strconv.Itoa(os.Getpid()) { // meant for somebody else, or not set
		return nil, nil
	}
	n, err := strconv.ParseUint(count, 10, 8)
	if err != nil {
		return nil, fmt.Errorf("LISTEN_FDS=%q: want a small number", count)
	}
	return inherit(int(n), strings.Split(names, ":"))
}

// inherit makes listeners of n file descriptors from [firstInherited] on.
func inherit(n int, names []string) (map[string]net.Listener, error) {
	if len(names) != n {
		return nil, fmt.Errorf("LISTEN_FDNAMES names %d sockets, LISTEN_FDS says %d", len(names), n)
	}
	listeners := make(map[string]net.Listener, n)
	for i, name := range names {
		if listeners[name] != nil {
			return nil, fmt.Errorf("LISTEN_FDNAMES has %q twice", name)
		}
		l, err := fileListener(firstInherited+i, name)
		if err != nil {
			return nil, fmt.Errorf("inherited socket %q: %w", name, err)
		}
		listeners[name] = l
	}
	return listeners, nil
}

// fileListener takes over a listening Unix socket.
func fileListener(fd int, name string) (net.Listener, error) {
	unix.CloseOnExec(fd)
	file := os.NewFile(uintptr(fd), name)
	l, err := net.FileListener(file) // has its own duplicate
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	if _, ok := l.(*net.UnixListener); !ok {
		return nil, errors.Join(fmt.Errorf("is a %s socket, want unix", l.Addr().Network()), l.Close())
	}
	return l, nil
}
