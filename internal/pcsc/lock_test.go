package pcsc

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyward/keyward/backends"
)

func mustLock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	held, err := Lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return held.Unlock
}

// TestLock: one has it at a time; who waits gets it, or hears in time who has it.
func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "00004711.lock")
	unlock := mustLock(t, path)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := Lock(ctx, path, nil)
		if !errors.Is(err, ErrBusy) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lock of a locked card = %v, want ErrBusy and DeadlineExceeded", err)
		}
		if ctx.Err() != nil {
			t.Error("Lock used all of the time")
		}
		canceled, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := Lock(canceled, path, nil); !errors.Is(err, ErrBusy) || !errors.Is(err, context.Canceled) {
			t.Errorf("Lock until canceled = %v, want ErrBusy and Canceled", err)
		}
		time.AfterFunc(time.Second, unlock)
		mustLock(t, path)()
	})
	mustLock(t, path)()
	defer mustLock(t, "")()
	mustLock(t, "")() // does not wait
	if _, err := Lock(t.Context(), filepath.Join(path, "x"), nil); err == nil || errors.Is(err, ErrBusy) {
		t.Errorf("Lock of what can't be a file = %v, want another error than ErrBusy", err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the lock is %v, %v, want 0600", info.Mode(), err)
	}
}

// TestLockTells: who waits hears what the holder waits for, when that changes, and that it is over; and not of one who
// died.
func TestLockTells(t *testing.T) {
	path := filepath.Join(t.TempDir(), "00004711.lock")
	if err := os.WriteFile(path, []byte("told by one who died\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	held, err := Lock(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		time.AfterFunc(time.Second, func() { held.Tell("touch the card, which blinks") })
		time.AfterFunc(2*time.Second, func() { held.Tell("touch it") })
		_, err := Lock(ctx, path, func(what string) { told = append(told, what) })
		if !errors.Is(err, ErrBusy) || !errors.Is(err, backends.ErrBusy) || !strings.Contains(err.Error(), "(touch it)") {
			t.Errorf("Lock = %v, want ErrBusy, and why", err)
		}
		time.AfterFunc(time.Second, held.Unlock)
		next, err := Lock(t.Context(), path, func(what string) { told = append(told, what) })
		if err != nil {
			t.Fatal(err)
		}
		next.Unlock()
	})
	want := []string{"touch the card, which blinks", "touch it", "", "touch it", ""}
	if !slices.Equal(told, want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// TestLockIsFair: who gives the lock back and wants it again at once has to let another first who waits.
func TestLockIsFair(t *testing.T) {
	path := filepath.Join(t.TempDir(), "00004711.lock")
	synctest.Test(t, func(t *testing.T) {
		had := make(chan struct{})
		unlock := mustLock(t, path)
		go func() {
			defer close(had)
			mustLock(t, path)()
		}()
		synctest.Wait() // the other has looked, and will again in 5 ms
		unlock()
		unlock = mustLock(t, path)
		defer unlock()
		select {
		case <-had:
		case <-time.After(time.Second):
			t.Error("the other waits still")
			unlock()
			<-had
		}
	})
}

// TestLockOfADeadProcess: it is free.
func TestLockOfADeadProcess(t *testing.T) {
	const held = "KEYWARD_TEST_LOCK"
	if path := os.Getenv(held); path != "" {
		defer mustLock(t, path)()
		os.Stdout.WriteString("locked\n")
		io.Copy(io.Discard, os.Stdin)
		return
	}
	path := filepath.Join(t.TempDir(), "00004711.lock")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestLockOfADeadProcess$")
	cmd.Env = append(os.Environ(), held+"="+path)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, len("locked\n"))
	if _, err := io.ReadFull(stdout, line); err != nil || !strings.HasPrefix(string(line), "locked") {
		t.Fatalf("the other process says %q, %v", line, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path, nil); !errors.Is(err, ErrBusy) {
		t.Errorf("Lock while the process lives = %v, want ErrBusy", err)
	}
	cmd.Process.Kill()
	cmd.Wait() // reports the signal
	mustLock(t, path)()
}
