package sealed

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
	"github.com/keyward/keyward/internal/secret"
)

// lockedKB is how much memory the process has locked; see proc_pid_status(5).
func lockedKB(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := bytes.Cut(status, []byte("\nVmLck:"))
	kb, err := strconv.Atoi(string(bytes.Fields(after)[0]))
	if err != nil {
		t.Fatal(err)
	}
	return kb
}

// TestLockedMemoryIsGivenBack: keys and file keys that were opened do not stay in locked memory, of which there is
// little.
func TestLockedMemoryIsGivenBack(t *testing.T) {
	b := open(t, Config{Wrapper: newDevice(t, "d")})
	k := backendtest.Generate(t, b, "keyward-x")
	before := lockedKB(t)
	for i := range 20 {
		if _, err := k.SignDigest(t.Context(), [32]byte{byte(i)}); err != nil {
			t.Fatal(err)
		}
	}
	if now := lockedKB(t); now != before {
		t.Errorf("%d KB are locked after 20 signatures, %d KB before", now, before)
	}
	for range 20 {
		backendtest.Generate(t, b, "keyward-y")
	}
	if now := lockedKB(t); now != before {
		t.Errorf("%d KB are locked after 20 keys were made, %d KB before", now, before)
	}
}

// verbose is a device whose answers are long.
type verbose struct {
	*device
	more int // bytes
}

func (d *verbose) Wrap(ctx context.Context, key *secret.Buffer, bind Binding) (Wrapped, error) {
	w, err := d.device.Wrap(ctx, key, bind)
	w.Blob = append(w.Blob, make([]byte, d.more)...)
	return w, err
}

func (d *verbose) Unwrap(ctx context.Context, w Wrapped, bind Binding) (*secret.Buffer, error) {
	w.Blob = w.Blob[:len(w.Blob)-d.more]
	return d.device.Unwrap(ctx, w, bind)
}

// TestNoFileThatIsNotReadBack: a key whose file would be too long to be read is not made.
func TestNoFileThatIsNotReadBack(t *testing.T) {
	d := &verbose{newDevice(t, "d"), 7 << 10}
	b := open(t, Config{Wrapper: d})
	backendtest.Verify(t, backendtest.Generate(t, b, "keyward-x"), [32]byte{1})
	d.more = 9 << 10
	if k, err := b.Generate(t.Context(), backends.KeyAttributes{Label: "keyward-y"}); err == nil {
		t.Errorf("Generate = %s with a file key of more than 9 KiB", k.URI())
	}
	if names := ls(t, b); len(names) != 1 {
		t.Errorf("the directory has %v, want one file", names)
	}
}

// TestCloseWaitsForCalls: a call that is under way ends with a signature, and then the device is closed.
func TestCloseWaitsForCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDevice(t, "d")
		b := open(t, Config{Wrapper: d})
		k := backendtest.Generate(t, b, "keyward-x")
		goOn := make(chan struct{})
		d.onUnwrap = func() error { <-goOn; return nil }
		signed, closed := make(chan error, 1), make(chan error, 1)
		go func() { _, err := k.SignDigest(t.Context(), [32]byte{1}); signed <- err }()
		synctest.Wait()
		go func() { closed <- b.Close() }()
		synctest.Wait()
		if len(closed) > 0 || d.closed > 0 {
			t.Errorf("the device was closed %d times in the middle of a call", d.closed)
		}
		close(goOn)
		if err := <-signed; err != nil {
			t.Errorf("SignDigest = %v", err)
		}
		if err := <-closed; err != nil || d.closed != 1 {
			t.Errorf("Close = %v, the device was closed %d times", err, d.closed)
		}
	})
}
