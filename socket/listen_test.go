package socket

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"unsafe"

	"github.com/keyward/keyward/audit"
	"golang.org/x/sys/unix"
)

func TestListenMode(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077)) // takes bits away that are asked for
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, 0o660)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode() != os.ModeSocket|0o660 {
		t.Errorf("mode %v, %v, want a socket of 0660", info.Mode(), err)
	}
}

// The file never has more rights than asked for, also before the final chmod.
func TestListenModeBeforeChmod(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return fchmod(c, 0o600) }}
	l, err := config.Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", info.Mode(), err)
	}
}

func TestListenInTheWay(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	l, err = Listen(stale, 0o600)
	if err != nil {
		t.Fatalf("a stale socket is not replaced: %v", err)
	}
	defer l.Close()
	if _, err := Listen(stale, 0o600); !errors.Is(err, ErrInUse) {
		t.Errorf("Listen on a live socket = %v, want ErrInUse", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file, 0o600); err == nil {
		t.Error("Listen replaced a file that is no socket")
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "precious" {
		t.Errorf("the file is now %q, %v", data, err)
	}
}

func TestInheritedNotForUs(t *testing.T) {
	for _, pid := range []string{"", "1"} {
		t.Setenv("LISTEN_PID", pid)
		t.Setenv("LISTEN_FDS", "2")
		t.Setenv("LISTEN_FDNAMES", "agent:admin")
		got, err := Inherited()
		if err != nil || len(got) != 0 {
			t.Errorf("LISTEN_PID=%q: %v, %v, want nothing", pid, got, err)
		}
		if _, ok := os.LookupEnv("LISTEN_FDS"); ok {
			t.Error("LISTEN_FDS is left for child processes")
		}
	}
}

func TestInheritedMistakes(t *testing.T) {
	for name, env := range map[string][2]string{
		"no number":     {"x", "agent"},
		"negative":      {"-1", "agent"},
		"too few names": {"2", "agent"},
	} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", env[0])
		t.Setenv("LISTEN_FDNAMES", env[1])
		if got, err := Inherited(); err == nil {
			t.Errorf("%s: %v, want an error", name, got)
		}
	}
}

func TestFileListener(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ours, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ours.Close()
	file, err := ours.(*net.UnixListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(file.Fd())) // fileListener closes its own
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	l, err := fileListener(fd, "agent")
	if err != nil {
		t.Fatal(err)
	}
	if l.Addr().String() != path {
		t.Errorf("address %v, want %v", l.Addr(), path)
	}
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing an inherited listener took its path away: %v", err)
	}

	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	file, err = tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err = syscall.Dup(int(file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	if _, err := fileListener(fd, "agent"); err == nil {
		t.Error("a TCP socket was taken for one of ours")
	}
}

// dialWithGroups connects, as root from a thread of its own that has two more groups, and returns the groups that the
// other end should see: the kernel notes those of the thread that connects (SO_PEERGROUPS).
func dialWithGroups(path string) (conn net.Conn, groups []int, err error) {
	if os.Getuid() != 0 {
		if groups, err = os.Getgroups(); err == nil {
			conn, err = net.Dial("unix", path)
		}
		return conn, groups, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its groups
		gids := []uint32{4711, 4712}
		if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(gids)), uintptr(unsafe.Pointer(&gids[0])),
			0); errno != 0 {
			err = errno
			return
		}
		groups = []int{4711, 4712}
		conn, err = net.Dial("unix", path)
	}()
	<-done
	return conn, groups, err
}

func TestPeer(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, groups, err := dialWithGroups(path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	peer, err := peerOf(server.(*net.UnixConn))
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if int(peer.UID) != os.Getuid() || int(peer.GID) != os.Getgid() || int(peer.PID) != os.Getpid() || peer.Exe != exe {
		t.Errorf("peer %+v, want this process", peer)
	}
	for _, g := range groups {
		if !slices.Contains(peer.Groups, uint32(g)) {
			t.Errorf("group %d is not among the peer's %v", g, peer.Groups)
		}
	}
	if len(peer.Groups) != len(groups) {
		t.Errorf("the peer has groups %v, this process %v", peer.Groups, groups)
	}
}

// A stranger on admin.sock gets an answer, and it is no.
func TestAdminPeer(t *testing.T) {
	s := New(Config{})
	s.owner = 1000
	for uid, want := range map[uint32]bool{0: true, 1000: true, 1001: false} {
		if got := s.operator(audit.Peer{UID: uid}); got != want {
			t.Errorf("operator(uid %d) = %v, want %v", uid, got, want)
		}
	}
	from := &client{socket: s.admin, refuse: errNotOperator}
	msg, _ := parseMessage([]byte(`{"jsonrpc":"2.0","id":1,"method":"admin_status"}`), 1)
	if got := code(t, string(s.run(from, msg).line)); got != 4100 {
		t.Errorf("a stranger gets code %d, want 4100", got)
	}
}
