package softhsmtest

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Faults controls the fault module of a test: a PKCS#11 module that passes calls on to another one, and misbehaves to
// order. What is stored takes effect with the next call, in whatever process the module is: it is struct control of
// testdata/fault.c, in memory that the module maps too.
type Faults struct {
	Release, Hanging atomic.Uint64 // calls that hang now end once Release is 1
	Busy             atomic.Uint64 // calls in flight
	Overlaps         atomic.Uint64 // C_Finalize with calls in flight
	SignFlip         atomic.Uint64 // if 1, a bit of each signature is flipped
	SignShort        atomic.Uint64 // so many bytes are missing from each signature
	Lie              atomic.Uint64 // the attribute (CKA_…) of that number reads as the opposite; 0: none
	Flags, NoFlags   atomic.Uint64 // added to the token's flags, and taken away
	MaxSessions      atomic.Uint64 // p11Sessions open at a time; 0: any
	Sessions         atomic.Uint64 // open now
	KeepLogin        atomic.Uint64 // if 1, C_Finalize does not log out
	LoggedIn         atomic.Uint64
	RefuseUsage      atomic.Uint64 // if 1, C_GenerateKeyPair refuses attributes that some HSMs refuse
	Intruded, Tried  atomic.Uint64 // by Intrude: a bit of each try that succeeded, and the number of tries
	Text             atomic.Uint64 // if 1, the next two replace what the token says
	Label            [32]byte
	Serial           [16]byte
	of               [faultFunctions]Fault
}

// Fault is what befalls one function.
type Fault struct {
	kind, rv    atomic.Uint64
	pass, times atomic.Uint64
	calls       atomic.Uint64
}

// FaultKind is what a Fault does.
type FaultKind uint64

// Kinds of fault. The number that goes with one is an answer (CKR_…), if nothing else is said.
const (
	Return    FaultKind = iota // the call is not made
	Lose                       // the call is made, and another answer given
	Hang                       // until Release; then the answer is given, or if it is 0 the call made
	HangAfter                  // the call is made, and hangs until Release
	Delay                      // of so many milliseconds
	Abort                      // of the process
	SegFault
	CloseAll // all descriptors of the process but the standard ones are closed
	Intrude  // what is forbidden to a library is tried before the call: files of FAULT_FILES, programs, system calls
)

//go:embed testdata/fault.c
var faultSource []byte

// faultFunctions is the number of functions in faultNames.
const faultFunctions = 67

// faultNames are the functions in the order of struct control.
var faultNames = sync.OnceValue(func() (names []string) {
	for _, m := range regexp.MustCompile(`(?m)^\tF\((\w+), `).FindAllSubmatch(faultSource, -1) {
		names = append(names, string(m[1]))
	}
	if len(names) != faultFunctions {
		panic(fmt.Sprintf("testdata/fault.c has %d functions, not %d", len(names), faultFunctions))
	}
	return names
})

// On is what befalls the function of that name, without the C_.
func (f *Faults) On(function string) *Fault {
	for i, name := range faultNames() {
		if name == function {
			return &f.of[i]
		}
	}
	panic("no PKCS#11 function " + function)
}

// Set orders a fault for the next calls, so many times.
func (f *Fault) Set(kind FaultKind, rv, times uint64) { f.SetAfter(0, kind, rv, times) }

// SetAfter is Set, which lets the next calls pass, so many of them.
func (f *Fault) SetAfter(pass uint64, kind FaultKind, rv, times uint64) {
	f.times.Store(0)
	f.kind.Store(uint64(kind))
	f.rv.Store(rv)
	f.pass.Store(pass)
	f.times.Store(times)
}

// Left is how many times the fault is still to happen.
func (f *Fault) Left() uint64 { return f.times.Load() }

// Calls is how often the function was called, in all processes.
func (f *Fault) Calls() uint64 { return f.calls.Load() }

// faultModule builds the module, unless there is one of this source.
var faultModule = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "keyward-test", fmt.Sprintf("fault-%x", sha256.Sum256(faultSource))[:22])
	module := filepath.Join(dir, "fault.so")
	if _, err := os.Stat(module); err == nil {
		return module, nil
	}
	headers, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return "", fmt.Errorf("finding PKCS#11's headers: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	mine := fmt.Sprintf("%s.%d", module, os.Getpid()) // other tests may build it too
	cmd := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror",
		"-I"+strings.TrimSpace(string(headers)), "-o", mine, "-x", "c", "-", "-ldl")
	cmd.Stdin = bytes.NewReader(faultSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the fault module needs gcc: %w\n%s", err, bytes.TrimSpace(out))
	}
	return module, os.Rename(mine, module)
})

// NewFaults puts the fault module before the token's module: tok.Module and tok.Env() are the fault module's from now
// on.
func NewFaults(t testing.TB, tok *Token) *Faults {
	t.Helper()
	module, err := faultModule()
	if err != nil {
		t.Fatal(err)
	}
	faults, file := newFaults(t)
	tok.env = map[string]string{"FAULT_MODULE": tok.Module, "FAULT_CONTROL": file}
	tok.Module = module
	t.Cleanup(func() {
		if n := faults.Overlaps.Load(); n != 0 {
			t.Errorf("C_Finalize was called %d times with a call in flight", n)
		}
	})
	return faults
}

// newFaults maps a control file.
func newFaults(t testing.TB) (*Faults, string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "control")
	size := int(unsafe.Sizeof(Faults{}))
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
	return (*Faults)(unsafe.Pointer(unsafe.SliceData(mem))), file // mapped until the process ends
}
