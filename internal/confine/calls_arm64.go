package confine

import "golang.org/x/sys/unix"

const (
	auditArch    = unix.AUDIT_ARCH_AARCH64
	otherNumbers = 0 // there are none
)

// refusedHere are calls that this architecture alone has.
var refusedHere []uint32
