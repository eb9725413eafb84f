package command

import (
	"fmt"
	"os"

	"github.com/keyward/keyward/backends/isolated"
)

// children are the types of backend that run in a child process.
var children = map[string]isolated.Opener{
	"piv":     openPIVHere,
	"openpgp": serveOpenPGP,
	"pkcs11":  servePKCS11,
}

// serveChild is the whole life of such a process, and returns its exit code.
func serveChild() int {
	err := harden()
	if err == nil {
		err = isolated.Serve(children)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "keyward: error: %v\n", err)
		return exitFailed
	}
	return exitOK
}
