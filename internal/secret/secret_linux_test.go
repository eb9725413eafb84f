package secret

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestTakeWipesItsInput(t *testing.T) {
	in := []byte("1234")
	b := take(t, in)
	if !bytes.Equal(in, make([]byte, 4)) {
		t.Errorf("input is %q after Take, want zeros", in)
	}
	if got := reveal(b); got != "1234" || b.Len() != 4 {
		t.Errorf("secret = %q, length %d, want 1234, 4", got, b.Len())
	}
}

func TestCloseWipesAndRepeats(t *testing.T) {
	b := take(t, []byte("1234"))
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatalf("Close = %v", err)
		}
	}
	if got := reveal(b); got != "" {
		t.Errorf("secret after Close = %q", got)
	}
	if c, err := b.Clone(); err == nil {
		t.Errorf("Clone after Close = %q, want an error: an empty PIN is another one", reveal(c))
	}
	var none *Buffer
	if err := none.Close(); err != nil {
		t.Errorf("Close of nil = %v", err)
	}
}

func TestNeverPrinted(t *testing.T) {
	b := take(t, []byte("hunter22"))
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%s", "%q", "%x", "%d", "%+v", "%#v"} {
		fmt.Fprintf(&out, verb+"\n", b)
	}
	fmt.Fprintln(&out, struct{ B *Buffer }{b})
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "pin", b)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "pin", b)
	if err := json.NewEncoder(&out).Encode(map[string]*Buffer{"pin": b}); err != nil {
		t.Fatal(err)
	}
	for _, leak := range []string{"hunter22", fmt.Sprintf("%x", "hunter22"), "104 117"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("output has %q:\n%s", leak, out.String())
		}
	}
	if n := strings.Count(out.String(), redacted); n != 11 {
		t.Errorf("output has %d redacted values:\n%s", n, out.String())
	}
}

func TestEqual(t *testing.T) {
	a, same, longer := take(t, []byte("1234")), take(t, []byte("1234")), take(t, []byte("12345"))
	closed := take(t, []byte("1234"))
	closed.Close()
	clone, err := a.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer clone.Close()
	for _, tt := range []struct {
		name string
		b    *Buffer
		want bool
	}{{"itself", a, true}, {"same", same, true}, {"clone", clone, true}, {"longer", longer, false}, {"nil", nil, false},
		{"closed", closed, false}} {
		if got := a.Equal(tt.b); got != tt.want {
			t.Errorf("Equal(%s) = %v, want %v", tt.name, got, tt.want)
		}
	}
	other := take(t, []byte("1234"))
	other.Close()
	if closed.Equal(other) {
		t.Error("a closed Buffer equals another")
	}
}

func TestGuardPages(t *testing.T) {
	b := take(t, []byte("1234"))
	for name, at := range map[string]int{"before": 0, "after": len(b.mem) - 1} {
		if !faults(&b.mem[at]) {
			t.Errorf("the page %s the secret can be read", name)
		}
	}
	// The secret ends where the guard begins, so that an overrun by one byte faults.
	end := uintptr(unsafe.Pointer(unsafe.SliceData(b.data))) + uintptr(len(b.data))
	if end%uintptr(unix.Getpagesize()) != 0 {
		t.Errorf("secret ends at %#x, want a page boundary", end)
	}
}

// faults reports whether reading p is a memory fault.
func faults(p *byte) (fault bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { fault = recover() != nil }()
	runtime.KeepAlive(*p)
	return false
}

func TestLockedAndNotDumped(t *testing.T) {
	b := take(t, []byte("1234"))
	flags := vmFlags(t, uintptr(unsafe.Pointer(&b.data[0])))
	for _, want := range []string{"lo", "dd"} { // locked, don't dump; proc_pid_smaps(5)
		if !strings.Contains(flags+" ", " "+want+" ") {
			t.Errorf("VmFlags = %q, want %q among them", flags, want)
		}
	}
}

// vmFlags returns the VmFlags line of the mapping that addr is in.
func vmFlags(t *testing.T, addr uintptr) string {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	here := false
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var lo, hi uintptr
		if n, _ := fmt.Sscanf(sc.Text(), "%x-%x ", &lo, &hi); n == 2 {
			here = lo <= addr && addr < hi
		}
		if flags, ok := strings.CutPrefix(sc.Text(), "VmFlags:"); ok && here {
			return flags
		}
	}
	t.Fatalf("no mapping has %#x", addr)
	return ""
}

func TestLockRefusedBySystem(t *testing.T) {
	err := withoutLockedMemory(t, func() error {
		b, err := New(4)
		if err == nil {
			err = errors.Join(errors.New("New succeeded"), b.Close())
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "RLIMIT_MEMLOCK") {
		t.Errorf("New without the right to lock memory = %v, want a hint at RLIMIT_MEMLOCK", err)
	}
}

func TestEqualNeedsNoMemory(t *testing.T) {
	a, b := take(t, []byte("1234")), take(t, []byte("1234"))
	err := withoutLockedMemory(t, func() error {
		if !a.Equal(b) || !b.Equal(a) {
			return errors.New("two that are the same are not equal")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// Two comparisons of the same two, the one the other way round, go on for ever.
func TestEqualBothWays(t *testing.T) {
	a, b := take(t, []byte("1234")), take(t, []byte("1234"))
	var both sync.WaitGroup
	for _, pair := range [][2]*Buffer{{a, b}, {b, a}} {
		both.Go(func() {
			for range 200000 {
				if !pair[0].Equal(pair[1]) {
					t.Error("two that are the same are not equal")
				}
			}
		})
	}
	both.Wait()
}

// withoutLockedMemory calls f where no memory can be locked.
func withoutLockedMemory(t *testing.T, f func() error) error {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 0, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_MEMLOCK, &old)
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its reduced capabilities
		if err := dropIPCLock(); err != nil {
			result <- fmt.Errorf("dropping CAP_IPC_LOCK: %w", err)
			return
		}
		result <- f()
	}()
	return <-result
}

// dropIPCLock takes CAP_IPC_LOCK from the calling thread, if it has it.
func dropIPCLock() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	return unix.Capset(&hdr, &data[0])
}

func take(t *testing.T, b []byte) *Buffer {
	t.Helper()
	s, err := Take(b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// reveal copies the secret out.
func reveal(b *Buffer) (s string) {
	b.Use(func(p []byte) error { s = string(p); return nil })
	return s
}
