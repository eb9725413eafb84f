package secret

import "golang.org/x/sys/unix"

func excludeFromDumps(pages []byte) error { return unix.Madvise(pages, unix.MADV_DONTDUMP) }
