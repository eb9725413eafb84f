package pkcs11_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/keyward/keyward/backends/pkcs11"
	softhsmtest "github.com/keyward/keyward/softhsm-test"
	"golang.org/x/sys/unix"
)

// control is struct control of testdata/shim.c, in memory that the shim maps too.
type control struct {
	SignRV, SignTimes          atomic.Uint64
	SignFlip                   atomic.Uint64
	SignHang, Hanging, Release atomic.Uint64
	LoginRV, LoginTimes        atomic.Uint64
	GenerateLose               atomic.Uint64
	GenerateHang               atomic.Uint64
	DestroyLose                atomic.Uint64
	FindRV, FindTimes          atomic.Uint64
	Extractable                atomic.Uint64
	Flags                      atomic.Uint64
	InitializeRV               atomic.Uint64

	SignCalls, LoginCalls, InitializeCalls atomic.Uint64
	Busy                                   atomic.Uint64
	Overlaps                               atomic.Uint64
}

// shimPath builds the shim, once for all tests. The directory is TestMain's.
var shimPath = sync.OnceValues(func() (string, error) {
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return "", err
	}
	path := filepath.Join(testDir, "shim.so")
	cmd := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror",
		"-I"+strings.TrimSpace(string(headers)), "-o", path, "testdata/shim.c", "-ldl")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", &buildError{err, string(bytes.TrimSpace(out))}
	}
	return path, nil
})

type buildError struct {
	err error
	out string
}

func (e *buildError) Error() string {
	return "building testdata/shim.c needs gcc: " + e.err.Error() + "\n" + e.out
}

// newShim returns a configuration of a fresh token behind the shim, and what controls the shim.
func newShim(t *testing.T) (pkcs11.Config, *control) {
	t.Helper()
	path, err := shimPath()
	if err != nil {
		t.Fatal(err)
	}
	tok := softhsmtest.NewToken(t)
	ctl, file := newControl(t)
	cfg := tok.Config()
	cfg.Name, cfg.Module = "shim", path
	cfg.Env["SHIM_MODULE"], cfg.Env["SHIM_CONTROL"] = tok.Module, file
	// Set here already: the shim looks for the module as soon as it is loaded, once.
	t.Setenv("SHIM_MODULE", tok.Module)
	t.Cleanup(func() {
		if n := ctl.Overlaps.Load(); n != 0 {
			t.Errorf("C_Finalize was called %d times with a call in flight", n)
		}
	})
	return cfg, ctl
}

func newControl(t *testing.T) (*control, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "control")
	size := int(unsafe.Sizeof(control{}))
	if err := os.WriteFile(file, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	return (*control)(unsafe.Pointer(unsafe.SliceData(mem))), file // mapped until the process ends
}
