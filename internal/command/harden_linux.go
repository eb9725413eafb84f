package command

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// harden keeps what is in this process's memory in there: no core dumps, no debugger
// of the same user, no reading of /proc/PID/mem (prctl(2), PR_SET_DUMPABLE). Files
// are for their owner only unless the code says otherwise.
func harden() error {
	unix.Umask(0o077)
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("turning core dumps off: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("turning debuggers off: %w", err)
	}
	return nil
}
