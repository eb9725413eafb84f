package session

import (
	"io/fs"
	"syscall"
)

// owner is the uid and gid of a file.
func owner(fi fs.FileInfo) [2]uint32 {
	st := fi.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}
}
