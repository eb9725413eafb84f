package isolated

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/backendtest"
)

func TestChildSaysThatNothingWasSigned(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "refuse to sign"}})
	k := backendtest.Generate(t, b, "x")
	os.WriteFile(once, nil, 0o600)
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) ||
		!errors.Is(err, backends.ErrRefused) {
		t.Errorf("%v, want ErrNotSigned and ErrRefused", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := k.SignDigest(ctx, [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("not begun: %v, want ErrNotSigned", err)
	}
	if err := b.Destroy(t.Context(), k.URI()); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("destroyed: %v, want ErrNotSigned", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("closed: %v, want ErrNotSigned", err)
	}
}

// A child that waited until its time was over without sending anything says so before the parent's time is over.
func TestChildAnswersInTime(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "wait in line"}})
	k := backendtest.Generate(t, b, "x")
	for try := 1; ; try++ { // the child may be late on a busy machine: then it is in doubt
		os.WriteFile(once, nil, 0o600)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		_, err := k.SignDigest(ctx, [32]byte{1})
		cancel()
		if err == nil {
			t.Fatal("it signed")
		}
		if errors.Is(err, backends.ErrNotSigned) {
			return
		}
		if try == 50 {
			t.Fatalf("after %d tries: %v, want ErrNotSigned", try, err)
		}
	}
}

// A child that does not start has signed nothing.
func TestNoChildSignsNothing(t *testing.T) {
	once := filepath.Join(t.TempDir(), "once")
	b := open(t, Config{Type: "soft", Settings: softSettings{once, "crash at open"}})
	k := backendtest.Generate(t, b, "x")
	os.WriteFile(once, nil, 0o600)
	killed := base(b).pid()
	process, err := os.FindProcess(killed)
	if err != nil {
		t.Fatal(err)
	}
	process.Kill()
	gone(t, killed)
	for deadline := time.Now().Add(30 * time.Second); base(b).holdsChild(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the end of the child goes unnoticed") // a call that was written to it is in doubt
		}
	}
	if _, err := k.SignDigest(t.Context(), [32]byte{1}); !errors.Is(err, backends.ErrNotSigned) {
		t.Errorf("%v, want ErrNotSigned", err)
	}
}

// shortConn takes left bytes and then fails.
type shortConn struct {
	net.Conn
	left int
}

func (s *shortConn) Write(b []byte) (int, error) {
	n := min(s.left, len(b))
	s.left -= n
	if n < len(b) {
		return n, errors.New("the other side is gone")
	}
	return n, nil
}

// Only a call whose last byte was written can have been understood.
func TestCallThatWasNotWritten(t *testing.T) {
	body := []byte("what to sign")
	frame := 4 + frameHeader + len(body)
	for left, certain := range map[int]bool{0: true, 1: true, frame - 1: true, frame: false} {
		ours, theirs := pair(t)
		c := new(conn)
		c.start(&shortConn{ours, left})
		if left == frame {
			time.AfterFunc(50*time.Millisecond, func() { theirs.Close() }) // the child dies
		}
		_, err := c.call(t.Context(), opSign, append([]byte(nil), body...), time.Second)
		if err == nil || errors.Is(err, backends.ErrNotSigned) != certain {
			t.Errorf("%d of %d bytes written: %v, certain %v, want %v", left, frame, err, !certain, certain)
		}
		if _, err := c.call(t.Context(), opSign, append([]byte(nil), body...), time.Second); !errors.Is(err,
			backends.ErrNotSigned) {
			t.Errorf("on a connection that has ended: %v, want ErrNotSigned", err)
		}
	}
}
