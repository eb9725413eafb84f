package secret

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// handoverVar tells a process that took PINs out of its environment and began again where they are: a pipe's
// descriptor and how many bytes are in it, "5:24".
const handoverVar = "KEYWARD_PINS_FD"

// maxHandover is what a pipe takes without a reader (pipe(7)), in bytes.
const maxHandover = 64 << 10

// handed are the PINs that [HideEnv] has taken out of the environment, of which a process has one.
var (
	handedMu sync.Mutex
	handed   map[string]*Buffer // by variable
)

// HideEnv takes the variables of those names, which hold PINs, out of the environment, for [FromEnv]. What execve(2)
// was given stays in the process's memory and in /proc/PID/environ. So if any of them is set, HideEnv executes the
// program again, in the same process, with the same arguments and an environment without them: it does not return. The
// new program gets the PINs by a pipe, reads them into locked memory, and HideEnv returns nil there.
//
// Call it before other goroutines, and before anything is opened that is not closed by an exec.
func HideEnv(names []string) error {
	if where, ok := os.LookupEnv(handoverVar); ok {
		if err := os.Unsetenv(handoverVar); err != nil {
			return err
		}
		return receive(where)
	}
	if !slices.ContainsFunc(names, func(name string) bool { return os.Getenv(name) != "" }) {
		return nil
	}
	return beginAgain(names)
}

// beginAgain executes the program again without the variables.
func beginAgain(names []string) error {
	var pins bytes.Buffer
	env := slices.DeleteFunc(os.Environ(), func(variable string) bool {
		name, pin, _ := strings.Cut(variable, "=")
		if !slices.Contains(names, name) {
			return false
		}
		pins.WriteString(name + "\x00" + pin + "\x00") // neither has a zero byte
		return true
	})
	if pins.Len() > maxHandover {
		return fmt.Errorf("PINs in the environment: %d bytes, want at most %d", pins.Len(), maxHandover)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], 0); err != nil {
		return fmt.Errorf("PINs in the environment: %w", err)
	}
	unix.CloseOnExec(pipe[1])
	if _, err := unix.Write(pipe[1], pins.Bytes()); err != nil {
		return fmt.Errorf("PINs in the environment: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("PINs in the environment: %w", err)
	}
	env = append(env, fmt.Sprintf("%s=%d:%d", handoverVar, pipe[0], pins.Len()))
	err = unix.Exec(self, os.Args, env)
	return fmt.Errorf("taking PINs out of the environment: executing %s again: %w", self, err)
}

// receive reads what beginAgain has left in the pipe.
func receive(where string) (err error) {
	fdText, sizeText, _ := strings.Cut(where, ":")
	fd, fdErr := strconv.ParseUint(fdText, 10, 16)
	size, sizeErr := strconv.ParseUint(sizeText, 10, 32)
	if fdErr != nil || sizeErr != nil || size == 0 || size > maxHandover {
		return fmt.Errorf("%s=%q is not set by keyward: unset it", handoverVar, where)
	}
	pipe := os.NewFile(uintptr(fd), "PINs")
	defer func() { err = errors.Join(err, pipe.Close()) }()
	all, err := New(int(size))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, all.Close()) }()
	if _, err := io.ReadFull(pipe, all.data); err != nil {
		return fmt.Errorf("reading the PINs of the environment: %w", err)
	}
	return keepHanded(all.data)
}

// keepHanded puts each PIN into a Buffer of its own.
func keepHanded(all []byte) error {
	handedMu.Lock()
	defer handedMu.Unlock()
	handed = map[string]*Buffer{}
	for len(all) > 0 {
		name, rest, _ := bytes.Cut(all, []byte{0})
		pin, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return errors.New("the PINs of the environment are cut short")
		}
		if all = rest; len(pin) == 0 {
			continue
		}
		b, err := Take(pin) // which wipes it here
		if err != nil {
			return err
		}
		handed[string(name)] = b
	}
	return nil
}

// takeHanded returns the PIN that was in that variable, once; nil if there was none.
func takeHanded(name string) *Buffer {
	handedMu.Lock()
	defer handedMu.Unlock()
	b := handed[name]
	delete(handed, name)
	return b
}
