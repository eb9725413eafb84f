package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/backends"
)

// DefaultDevice is the TPM behind the kernel's resource manager, which gives each open file handles of its own.
const DefaultDevice = "/dev/tpmrm0"

// conn is an open TPM, for one operation. It is not safe for concurrent use.
type conn struct {
	ctx     context.Context
	path    string
	fd      int
	managed bool // a resource manager frees what the operation leaves in the TPM
	dead    bool // a command was cut short, so the next response would not be the next command's
}

var _ transport.TPM = (*conn)(nil)

// poll is how often a wait looks at its context.
const poll = 50 * time.Millisecond

// dial opens the TPM at path: a device node, or the Unix socket of a TPM emulator. It waits for a TPM that another
// program has open exclusively until ctx is done.
func dial(ctx context.Context, path string) (*conn, error) {
	for {
		c, err := open(ctx, path)
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EAGAIN) {
			return c, err
		}
		if !sleep(ctx, poll) {
			return nil, backends.Busy(fmt.Errorf("%s is in use by another program: %w", path, context.Cause(ctx)))
		}
	}
}

// sleep reports whether ctx was not done for that long.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

func open(ctx context.Context, path string) (*conn, error) {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no TPM at %s: switch it on in the firmware's settings, or name another device",
			backends.ErrUnavailable, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", backends.ErrUnavailable, err)
	}
	var fd int
	switch mode := info.Mode(); {
	case mode&fs.ModeCharDevice != 0:
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	case mode&fs.ModeSocket != 0:
		fd, err = connect(path)
	default:
		return nil, fmt.Errorf("%w: %s is neither a TPM's device node nor a Unix socket", backends.ErrRefused, path)
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: %s: %w; let the agent's user open it, on Debian by the group tss", backends.ErrRefused,
			path, err)
	case err != nil:
		return nil, fmt.Errorf("%w: opening %s: %w", backends.ErrUnavailable, path, err)
	}
	return &conn{ctx: ctx, path: path, fd: fd, managed: strings.HasPrefix(filepath.Base(path), "tpmrm")}, nil
}

func connect(path string) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// close lets go of the TPM. For a device whose command was cut short it returns when the kernel has the response.
func (c *conn) close() { _ = unix.Close(c.fd) }

// Responses and commands: TPM 2.0 Library, part 1, 18.2.
const (
	headerSize = 10   // tag, size, code
	maxMessage = 4096 // bytes, of a command or a response
)

// errNoRoom: what earlier operations left fills a TPM that has no resource manager. See free.
var errNoRoom = fmt.Errorf("%w: the TPM has no room for another object or session", backends.ErrUnavailable)

// Send implements [transport.TPM]. It sends a command again for as long as the TPM answers that it could not start it.
func (c *conn) Send(command []byte) ([]byte, error) {
	for wait := 2 * time.Millisecond; ; wait = min(2*wait, 250*time.Millisecond) {
		response, err := c.exchange(command)
		if err != nil {
			return nil, err
		}
		switch code := tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])); {
		case isNoRoom(code) && !c.managed:
			return nil, errNoRoom
		case !isNotStarted(code) && !isNoRoom(code):
			return response, nil
		case !sleep(c.ctx, wait):
			return nil, backends.Busy(fmt.Errorf("the TPM answers %w: %w", code, context.Cause(c.ctx)))
		}
	}
}

// isNotStarted reports whether the same command may be sent again: TPM 2.0 Library, part 2, 6.6.3.
func isNotStarted(code tpm2.TPMRC) bool {
	switch code {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable:
		return true
	}
	return false
}

func isNoRoom(code tpm2.TPMRC) bool {
	switch code {
	case tpm2.TPMRCObjectMemory, tpm2.TPMRCSessionMemory, tpm2.TPMRCObjectHandles, tpm2.TPMRCSessionHandles,
		tpm2.TPMRCMemory:
		return true
	}
	return false
}

// free flushes the objects and sessions in a TPM without a resource manager. One program at a time is connected to it,
// so they belong to operations that were cut short.
func (c *conn) free() error {
	// HMAC sessions, policy sessions, transient objects
	for _, first := range []uint32{0x02000000, 0x03000000, 0x80000000} {
		handles, err := listHandles(c, first)
		if err != nil {
			return err
		}
		for _, h := range handles {
			if _, err := (tpm2.FlushContext{FlushHandle: h}).Execute(c); err != nil {
				return err
			}
		}
	}
	return nil
}

// listHandles lists the handles in use from first on, of its kind.
func listHandles(t transport.TPM, first uint32) ([]tpm2.TPMHandle, error) {
	answer, err := tpm2.GetCapability{Capability: tpm2.TPMCapHandles, Property: first, PropertyCount: 254}.Execute(t)
	if err != nil {
		return nil, err
	}
	list, err := answer.CapabilityData.Data.Handles()
	if err != nil {
		return nil, err
	}
	return list.Handle, nil
}

// exchange sends a command and reads its response, which has a whole header.
func (c *conn) exchange(command []byte) (_ []byte, err error) {
	if c.dead {
		return nil, fmt.Errorf("%w: the TPM's connection was cut", backends.ErrUnavailable)
	}
	defer func() {
		if err != nil {
			c.dead = true
			err = fmt.Errorf("%w: %s: %w", backends.ErrUnavailable, c.path, err)
		}
	}()
	for sent := 0; sent < len(command); {
		if err := c.wait(unix.POLLOUT); err != nil {
			return nil, err
		}
		n, err := unix.Write(c.fd, command[sent:])
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		sent += max(n, 0)
	}
	response, size := make([]byte, maxMessage), headerSize
	for got := 0; got < size; {
		if err := c.wait(unix.POLLIN); err != nil {
			return nil, err
		}
		n, err := unix.Read(c.fd, response[got:])
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return nil, errors.New("it closed the connection")
		}
		if got += n; got >= headerSize {
			size = int(binary.BigEndian.Uint32(response[2:]))
		}
		if size < headerSize || size > maxMessage || got > max(size, headerSize) {
			return nil, fmt.Errorf("a response of %d bytes in a message of %d", size, got)
		}
	}
	return response[:size], nil
}

// wait returns when the TPM is ready for events, at the latest when the context is done.
func (c *conn) wait(events int16) error {
	for {
		if c.ctx.Err() != nil {
			return fmt.Errorf("no response in time: %w", context.Cause(c.ctx))
		}
		fds := []unix.PollFd{{Fd: int32(c.fd), Events: events}}
		switch n, err := unix.Poll(fds, int(poll.Milliseconds())); {
		case err != nil && !errors.Is(err, unix.EINTR):
			return err
		case n > 0:
			return nil
		}
	}
}
