package command

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/userdb"
)

// socketIn makes a socket in a directory of its own that everybody finds.
func socketIn(t *testing.T) (dir, path string, owner, group uint32) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for at := filepath.Dir(dir); at != os.TempDir(); at = filepath.Dir(at) { // 0700 otherwise
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path = filepath.Join(dir, "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if os.Getuid() == 0 { // whose files are those of no client
		for _, p := range []string{dir, path} {
			if err := os.Chown(p, 4300, 4301); err != nil {
				t.Fatal(err)
			}
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	stat := info.Sys().(*syscall.Stat_t)
	return dir, path, stat.Uid, stat.Gid
}

func TestObstacle(t *testing.T) {
	dir, path, owner, group := socketIn(t)
	link := filepath.Join(filepath.Dir(dir), "link")
	if err := os.Symlink("run/../run", link); err != nil {
		t.Fatal(err)
	}
	stranger := &identity{uid: owner + 1, groups: []uint32{group + 1, group + 2}}
	member := &identity{uid: owner + 1, groups: []uint32{group + 1, group}}
	self := &identity{uid: owner, groups: []uint32{group}}
	anyMember, anyStranger := &identity{groups: []uint32{group}, anyUser: true},
		&identity{groups: []uint32{group + 1}, anyUser: true}
	add := "add the user to the group " + userdb.Group(group)
	for _, c := range []struct {
		name      string
		dir, sock os.FileMode
		who       *identity
		want      []string // parts of the reason; nil: it can connect
	}{
		{"all may", 0o755, 0o666, stranger, nil},
		{"as shipped, a member", 0o750, 0o660, member, nil},
		{"as shipped, the owner", 0o750, 0o660, self, nil},
		{"as shipped, the group", 0o750, 0o660, anyMember, nil},
		{"as shipped, a stranger", 0o750, 0o660, stranger,
			[]string{"the directory " + dir + " has the mode 0750, owner " + userdb.User(owner), add}},
		{"as shipped, another group", 0o750, 0o660, anyStranger, []string{"mode 0750", add}},
		{"private directory, a member", 0o700, 0o660, member,
			[]string{"the directory " + dir + " has the mode 0700", "give a group of the client's that permission"}},
		{"private directory, the owner", 0o700, 0o600, self, nil},
		{"search is what counts", 0o711, 0o666, stranger, nil},
		{"reading a directory is not", 0o744, 0o666, stranger, []string{"the directory " + dir}},
		{"another group's socket", 0o755, 0o660, stranger, []string{"the socket has the mode 0660", add}},
		{"writing is what counts", 0o755, 0o664, stranger, []string{"the socket has the mode 0664", add}},
		{"reading is not needed", 0o755, 0o622, stranger, nil},
		{"the owner's bits decide for the owner", 0o755, 0o066, self, []string{"the socket has the mode 0066"}},
		{"the group's bits decide for a member", 0o755, 0o606, member, []string{"the socket has the mode 0606"}},
		{"the others' do not count for a member", 0o755, 0o606, stranger, nil},
		{"root", 0o700, 0o600, &identity{uid: 0}, nil},
	} {
		for _, set := range []struct {
			path string
			mode os.FileMode
		}{{dir, c.dir}, {path, c.sock}} {
			if err := os.Chmod(set.path, set.mode); err != nil {
				t.Fatal(err)
			}
		}
		for _, way := range []string{path, filepath.Join(link, "agent.sock")} {
			got := c.who.obstacle(way)
			if (got == "") != (c.want == nil) {
				t.Errorf("%s by %s: %q, want %q", c.name, way, got, c.want)
			}
			for _, part := range c.want {
				if !strings.Contains(got, part) {
					t.Errorf("%s by %s: %q lacks %q", c.name, way, got, part)
				}
			}
		}
		if os.Getuid() == 0 && c.who.uid != 0 && !c.who.anyUser {
			if got := connects(t, path, c.who); got != (c.want == nil) {
				t.Errorf("%s: the kernel connects %v", c.name, got)
			}
		}
	}
	if got := self.obstacle(filepath.Join(dir, "missing.sock")); got != "" {
		t.Errorf("a socket that is not there: %q, want no judgement", got)
	}
}

// connects asks the kernel, by a connection to the socket as who.
func connects(t *testing.T, path string, who *identity) bool {
	t.Helper()
	done := make(chan bool)
	go func() {
		// The thread has another identity from here on. It ends with the goroutine.
		lockThread(t, who)
		conn, err := net.Dial("unix", path)
		if err == nil {
			conn.Close()
		}
		done <- err == nil
	}()
	return <-done
}

// An access control list says more than the mode, so nothing is said.
func TestObstacleWithACL(t *testing.T) {
	dir, path, owner, _ := socketIn(t)
	if err := errors.Join(os.Chmod(dir, 0o700), os.Chmod(path, 0o666)); err != nil {
		t.Fatal(err)
	}
	stranger := &identity{uid: owner + 1}
	if got := stranger.obstacle(path); got == "" {
		t.Error("no obstacle in a private directory")
	}
	// linux/posix_acl_xattr.h: version 2, then entries of tag, permissions and id.
	acl := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, ^uint32(0)}, {2, 5, owner + 1}, {4, 0, ^uint32(0)}, {0x10, 5, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		acl = binary.LittleEndian.AppendUint16(acl, e.tag)
		acl = binary.LittleEndian.AppendUint16(acl, e.perm)
		acl = binary.LittleEndian.AppendUint32(acl, e.id)
	}
	if err := unix.Setxattr(dir, "system.posix_acl_access", acl, 0); err != nil {
		t.Fatal(err)
	}
	if got := stranger.obstacle(path); got != "" {
		t.Errorf("with an access control list: %q", got)
	}
}

func TestIdentityOf(t *testing.T) {
	self, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	who, err := identityOf("uid:" + self.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gids, err := self.GroupIds()
	if err != nil {
		t.Fatal(err)
	}
	for _, gid := range append(gids, self.Gid) {
		n, err := strconv.ParseUint(gid, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(who.name, self.Username) || who.anyUser || !slices.Contains(who.groups, uint32(n)) {
			t.Errorf("identity %+v, want %s with the group %s", who, self.Username, gid)
		}
	}
	if who, err := identityOf("uid:4200000123"); err != nil || who.groups != nil ||
		!strings.Contains(who.name, "not in the user database") {
		t.Errorf("an unknown user: %+v, %v", who, err)
	}
	if who, err := identityOf("gid:4200000123"); err != nil || !who.anyUser || !slices.Contains(who.groups, 4200000123) {
		t.Errorf("a group: %+v, %v", who, err)
	}
}

// lockThread gives the goroutine's thread the identity, which the kernel compares with files (credentials(7)). Other
// threads keep theirs: these are the system calls themselves, not the C library's functions.
func lockThread(t *testing.T, who *identity) {
	t.Helper()
	runtime.LockOSThread()
	groups := append(slices.Clone(who.groups), who.uid+100_000) // so that there is one
	_, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		t.Errorf("setgroups: %v", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSGID, uintptr(who.uid+100_000), 0, 0); errno != 0 {
		t.Errorf("setfsgid: %v", errno)
	}
	if _, _, errno := syscall.RawSyscall(syscall.SYS_SETFSUID, uintptr(who.uid), 0, 0); errno != 0 {
		t.Errorf("setfsuid: %v", errno)
	}
}

// Who may not use the operator's socket has to be the agent's user. An app's user never has to: it needs the group.
func TestDialOfASocketThatIsNotOurs(t *testing.T) {
	dir, path, owner, _ := socketIn(t)
	admin := filepath.Join(dir, "admin.sock")
	if err := errors.Join(os.Chmod(path, 0o060), os.Link(path, admin)); err != nil {
		t.Fatal(err)
	}
	p := &place{dirs: config.Dirs{Config: dir, State: dir, Runtime: dir}}
	for socket, want := range map[string]string{"agent.sock": "",
		"admin.sock": "run this as the user that the agent runs as"} {
		done := make(chan error)
		go func() {
			if os.Getuid() == 0 {
				lockThread(t, &identity{uid: owner + 1})
			}
			_, err := p.dial(t.Context(), socket)
			done <- err
		}()
		err := <-done
		code, hint := verdictOn(err)
		if code != exitUnreachable || hint != want || !strings.Contains(err.Error(),
			"ask the agent's operator to add this user to its group") {
			t.Errorf("%s: %v, exit code %d, hint %q; want %d, %q", socket, err, code, hint, exitUnreachable, want)
		}
	}
}
