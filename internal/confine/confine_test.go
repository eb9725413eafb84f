package confine

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also the confined process: it applies the rules in RULES and prints what its attempts in DIR gave.
func TestMain(m *testing.M) {
	if os.Getenv("RULES") == "" {
		os.Exit(m.Run())
	}
	var r Rules
	if err := json.Unmarshal([]byte(os.Getenv("RULES")), &r); err != nil {
		panic(err)
	}
	on, missing, err := Apply(r)
	if err != nil {
		panic(err)
	}
	out := outcome{On: on, Missing: missing, Tries: map[string]string{}}
	for name, try := range tries(os.Getenv("DIR"), os.Getenv("PORT")) {
		if only := os.Getenv("ONLY"); only != "" && !slices.Contains(strings.Split(only, ","), name) {
			continue
		}
		done := make(chan error)
		go func() { done <- try() }() // on any thread: the rules hold for all
		if err := <-done; err != nil {
			out.Tries[name] = err.Error()
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

// outcome is what the process found. A try without an error succeeded.
type outcome struct {
	On, Missing []string
	Tries       map[string]string
}

func call(nr uintptr, args ...uintptr) func() error {
	return func() error {
		a := append(args, 0, 0, 0)
		if _, _, errno := unix.Syscall(nr, a[0], a[1], a[2]); errno != 0 {
			return errno
		}
		return nil
	}
}

func tries(dir, port string) map[string]func() error {
	write := func(path string) func() error {
		return func() error { return os.WriteFile(path, []byte("x"), 0o600) }
	}
	read := func(path string) func() error {
		return func() error { _, err := os.ReadFile(path); return err }
	}
	return map[string]func() error{
		"read read":     read(dir + "/read/file"),
		"write read":    write(dir + "/read/file"),
		"write write":   write(dir + "/write/file"),
		"make write":    write(dir + "/write/new"),
		"read other":    read(dir + "/other/file"),
		"write other":   write(dir + "/other/file"),
		"make other":    write(dir + "/other/new"),
		"rename other":  func() error { return os.Rename(dir+"/write/file", dir+"/other/moved") },
		"remove other":  func() error { return os.Remove(dir + "/other/victim") },
		"list other":    func() error { _, err := os.ReadDir(dir + "/other"); return err },
		"write sockets": write(dir + "/sockets/file"),
		"make sockets":  write(dir + "/sockets/new"),
		"bind sockets": func() error {
			l, err := net.Listen("unix", dir+"/sockets/s")
			if err == nil {
				err = l.Close()
			}
			return err
		},
		"write null":    write("/dev/null"),
		"execute":       func() error { return exec.Command("/bin/true").Run() },
		"ptrace":        call(unix.SYS_PTRACE, unix.PTRACE_TRACEME),
		"mount":         func() error { return unix.Mount("none", dir, "tmpfs", 0, "") },
		"keyctl":        func() error { _, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true); return err },
		"bpf":           call(unix.SYS_BPF, 0),
		"perf":          call(unix.SYS_PERF_EVENT_OPEN),
		"io_uring":      call(unix.SYS_IO_URING_SETUP, 1),
		"userfaultfd":   call(unix.SYS_USERFAULTFD),
		"unshare":       func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"namespace":     call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD)),
		"packet socket": func() error { _, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0); return err },
		"netlink":       func() error { _, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0); return err },
		"signal":        func() error { return unix.Kill(os.Getppid(), 0) },
		"tcp": func() error {
			c, err := net.DialTimeout("tcp", "127.0.0.1:"+port, 5*time.Second)
			if err == nil {
				err = c.Close()
			}
			return err
		},
	}
}

// run runs the process with the rules, and only those tries; none: all. Paths in the rules are below the directory.
func run(t *testing.T, r Rules, only ...string) outcome {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"read", "write", "sockets", "other"} {
		sub := filepath.Join(dir, name)
		err := os.Mkdir(sub, 0o700)
		for _, file := range []string{"file", "victim"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(sub, file), nil, 0o600))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range [][]string{r.Read, r.Write, r.Sockets} {
		for i := range list {
			list[i] = filepath.Join(dir, list[i])
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	rules, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "RULES="+string(rules), "DIR="+dir, "PORT="+port, "ONLY="+strings.Join(only, ","))
	cmd.Stderr = os.Stderr
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("the confined process: %v", err)
	}
	var out outcome
	if err := json.Unmarshal(data, &out); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	return out
}

// want fails the test unless just those tries succeeded, and the others were refused.
func (o outcome) want(t *testing.T, succeed ...string) {
	t.Helper()
	for name := range tries("", "") {
		if err, failed := o.Tries[name]; failed == slices.Contains(succeed, name) {
			t.Errorf("%s: error %q, want success: %t", name, err, slices.Contains(succeed, name))
		} else if failed && !strings.Contains(err, "not permitted") && !strings.Contains(err, "permission denied") &&
			!strings.Contains(err, "address family not supported") && !strings.Contains(err, "cross-device") {
			t.Errorf("%s: error %q, want a refusal", name, err)
		}
	}
}

// TestApply tries from inside what the rules allow and what they don't. It needs a kernel with Landlock and seccomp, as
// every distribution's kernel since 2022 is, and version 6 of Landlock for signals.
func TestApply(t *testing.T) {
	rules := func() Rules {
		return Rules{Read: []string{"read", "missing"}, Write: []string{"write"}, Sockets: []string{"sockets"},
			Devices: []string{"/dev/null"}, NoTCP: true}
	}
	out := run(t, rules())
	if len(out.On) != 3 || out.On[0] != NoNewPrivileges || !strings.HasPrefix(out.On[1], "landlock ") ||
		out.On[2] != Seccomp {
		t.Fatalf("protections %q, missing %q: this kernel can't test the agent's", out.On, out.Missing)
	}
	out.want(t, "read read", "write write", "make write", "bind sockets", "write null", "netlink")

	t.Run("tcp and programs", func(t *testing.T) {
		r := rules()
		r.NoTCP, r.Execute = false, []string{"/bin/true", Loader("/bin/true")}
		r.Devices = append(r.Devices, "/usr/lib", "/etc") // not devices, but /bin/true's libraries are read
		run(t, r).want(t, "read read", "write write", "make write", "bind sockets", "write null", "netlink", "tcp", "execute")
	})
	t.Run("no files", func(t *testing.T) {
		allowed, refused := []string{"read other", "make other", "tcp", "signal"}, []string{"ptrace", "execute", "mount"}
		out := run(t, Rules{NoFiles: true}, append(allowed, refused...)...)
		if !slices.Equal(out.On, []string{NoNewPrivileges, Seccomp}) {
			t.Errorf("protections %q", out.On)
		}
		for _, name := range allowed {
			if out.Tries[name] != "" {
				t.Errorf("%s: %s", name, out.Tries[name])
			}
		}
		for _, name := range refused {
			if out.Tries[name] == "" {
				t.Errorf("%s is not refused", name)
			}
		}
	})
	t.Run("no calls", func(t *testing.T) {
		out := run(t, Rules{NoCalls: true}, "netlink", "bpf", "read other")
		if len(out.On) != 2 || out.Tries["netlink"] != "" || out.Tries["bpf"] == "operation not permitted" ||
			out.Tries["read other"] == "" {
			t.Errorf("protections %q, tries %q", out.On, out.Tries)
		}
	})
}
