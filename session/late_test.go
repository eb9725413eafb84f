package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
)

// hungStore is a disk that hangs until it is let go.
type hungStore struct {
	store
	free chan struct{}
}

func (s hungStore) commit(b *batch) error {
	<-s.free
	return s.store.commit(b)
}

// hang has the agent's disk hang until the function that it returns is called.
func (a *agent) hang() (free func()) {
	l := a.Sessions.ledger
	s := hungStore{l.store, make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store = s
	return func() { close(s.free) }
}

// awaitRecord waits until the trail has a record of the event for the digest.
func (a *agent) awaitRecord(t *testing.T, event audit.Event, digest string) {
	t.Helper()
	for begun := time.Now(); ; time.Sleep(time.Millisecond) {
		trail, err := os.ReadFile(a.auditPath())
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(trail)) {
			if strings.Contains(line, string(event)) && strings.Contains(line, digest) {
				return
			}
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("the trail has no %s of %s", event, digest)
		}
	}
}

// A request whose time is over while the disk hangs is answered. Its signature was made, charged and not released: the
// trail says so.
func TestLateSignatureIsRecorded(t *testing.T) {
	a := newAgent(t)
	req := transfer(a.active(t), 1)
	free := a.hang()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := a.Sign(ctx, app, req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Sign = %v, want that its time is over", err)
	}
	if took := time.Since(begun); took > 10*writerPatience {
		t.Errorf("Sign took %v on a disk that hangs", took)
	}
	free()
	a.awaitRecord(t, audit.SignGranted, req.Tx.Digest().String())
	a.awaitRecord(t, audit.SignFailed, req.Tx.Digest().String())
	if counts := a.Signer.Counts(); counts.Failed != 1 || counts.Granted != 0 {
		t.Errorf("counts are %+v, want one failed", counts)
	}
}

// A signature that is withheld while the disk hangs does not hold up a revoke, which waits for its writer.
func TestWithheldOnAHungDisk(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	pass := a.signed(t, sess, 1)
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	free := a.hang()
	released := make(chan error, 1)
	go func() {
		refused, done := a.Release([]*Pass{pass}, func() {})
		released <- refused[0]
		done()
	}()
	waited := make(chan struct{})
	go func() {
		for len(released) == 0 { // it is in Release, or was
			a.Sessions.ledger.awaitWriters(sess.ID)
			time.Sleep(time.Millisecond)
		}
		a.Sessions.ledger.awaitWriters(sess.ID)
		close(waited)
	}()
	select {
	case <-waited:
	case <-time.After(20 * writerPatience):
		t.Error("the writer is waited for as long as the disk hangs")
	}
	free()
	if err := <-released; !errors.Is(err, ErrLocked) {
		t.Errorf("Release = %v, want ErrLocked", err)
	}
	a.awaitRecord(t, audit.SignFailed, pass.granted.Digest)
}

// A backend that panics leaves no signature behind that counts as being in the device.
func TestPanicLeavesTheDevice(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) { panic("a defect of the backend") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("Sign did not panic")
			}
		}()
		_, _ = a.Sign(t.Context(), app, transfer(sess, 1))
	}()
	if n := a.InDevice(sess.ID); n != 0 {
		t.Errorf("%d signatures are in the device, want none", n)
	}
	a.soft.OnSign = nil
	a.signed(t, sess, 2)
}

// The record of an unlock is made when the lock file is gone, and before anything can be signed. An unlock that can't
// be recorded is none.
func TestUnlockIsRecordedWhenItIsTrue(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "locked")
	a.cfg.LockPath = path
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	full := errors.New("no space left on device")
	if err := a.Unlock(a.LockVersion(), func() error { return full }); !errors.Is(err, full) || !a.Locked() ||
		!LockedOnDisk(path) {
		t.Errorf("an unlock without a record = %v, locked: %v, on disk: %v", err, a.Locked(), LockedOnDisk(path))
	}
	err := a.Unlock(a.LockVersion(), func() error {
		if !a.Locked() || LockedOnDisk(path) {
			t.Errorf("when it is recorded: locked: %v, on disk: %v", a.Locked(), LockedOnDisk(path))
		}
		return nil
	})
	if err != nil || a.Locked() || LockedOnDisk(path) {
		t.Errorf("Unlock = %v, locked: %v, on disk: %v", err, a.Locked(), LockedOnDisk(path))
	}
}
