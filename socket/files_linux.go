package socket

import (
	"os"

	"golang.org/x/sys/unix"
)

// Descriptors that are kept from agent.sock: for the connections of admin.sock, for devices, and for the state.
const (
	reservedFiles    = 64
	adminConnections = 32
)

// fitFiles lowers the connections of agent.sock to what the process may open beside the descriptors that are open, not
// counting connections, and what is reserved. Connections beyond the bound, which are answered with an error, have a
// part of it. It reports whether there are fewer than configured.
func (l *Limits) fitFiles(open int) (fewer bool) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return false
	}
	room := int(min(limit.Cur, 1<<30)) - open - reservedFiles
	if l.MaxConnections+l.maxRefusedConns <= room {
		return false
	}
	l.maxRefusedConns = max(1, min(l.maxRefusedConns, room/16))
	l.MaxConnections = max(1, min(l.MaxConnections, room-l.maxRefusedConns))
	return true
}

// openFiles is how many descriptors the process has open.
func openFiles() int {
	open, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return reservedFiles
	}
	return len(open)
}
