package client

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// A process that the socket's file keeps out is told whom to ask for what, in Dial and when a call connects again.
func TestRefusedByTheSocketsFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if os.Getuid() == 0 {
		if err := os.Chown(path, -1, 4_200_000_123); err != nil {
			t.Fatal(err)
		}
	}
	for at := dir; at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		mode os.FileMode // of the socket
		hide bool        // the directory is closed
		want string
	}{
		{"group", 0o060, false, "ask the agent's operator to add this user to its group, "},
		{"owner only", 0o000, false, "only its owner, "},
		{"hidden", 0o660, true, "ask the agent's operator which group may, and to add this user to it"},
	} {
		if err := os.Chmod(path, c.mode); err != nil {
			t.Fatal(err)
		}
		if c.hide {
			if err := os.Chmod(dir, 0); err != nil {
				t.Fatal(err)
			}
		}
		dialed, called := refused(t, path)
		for what, err := range map[string]error{"Dial": dialed, "Call": called} {
			if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "this user may not use the socket: "+c.want) {
				t.Errorf("%s: %s = %v, want fs.ErrPermission and %q", c.name, what, err, c.want)
			}
		}
		if c.hide {
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// refused connects as a user who is not root.
func refused(t *testing.T, path string) (dialed, called error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if os.Getuid() == 0 { // for this thread alone, which ends with the goroutine
			runtime.LockOSThread()
			if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, 4_200_000_123, 0, 0); errno != 0 {
				t.Errorf("setfsuid: %v", errno)
			}
		}
		_, dialed = Dial(t.Context(), path)
		called = (&Client{path: path}).Call(t.Context(), nil, "eth_chainId")
	}()
	<-done
	return dialed, called
}
