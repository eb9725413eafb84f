// Package testbin builds the program for tests that run it.
package testbin

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

var (
	plainOnce = sync.OnceValues(func() (string, error) { return build("-race=false") })
	raceOnce  = sync.OnceValues(func() (string, error) { return build(raceFlag) })
)

// Plain is the path of the program built without the race detector: for commands, of which a test runs many. Each start
// with the race detector costs 0.2 s of processor time. The program is built once a process, for each tree apart.
// Its version is "(devel)", as that of a test's own program.
func Plain() (string, error) { return plainOnce() }

// Race is the path of the program built with the race detector if the test has it: for the agent, where the threads
// are.
func Race() (string, error) { return raceOnce() }

// Env is this process's environment in which the race detector does not pause for a second at each exit.
func Env() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

func build(flag string) (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("finding the module: %w", err)
	}
	// Each tree has a place of its own: another one's tests may run at the same time.
	bin := filepath.Join(cache, "keyward-test", fmt.Sprintf("%x", sha256.Sum256(root))[:16], "keyward"+flag)
	out, err := exec.Command("go", "build", flag, "-buildvcs=false", "-o", bin,
		"github.com/keyward/keyward/cmd/keyward").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building the program: %w\n%s", err, out)
	}
	return bin, nil
}
