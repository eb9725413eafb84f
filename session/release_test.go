package session

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// signed signs a transfer, and returns the pass of the signature.
func (a *agent) signed(t *testing.T, sess *Session, nonce uint64) *Pass {
	t.Helper()
	req := transfer(sess, 1)
	req.Tx.Nonce = nonce
	s, err := a.Sign(t.Context(), app, req)
	if err != nil {
		t.Fatal(err)
	}
	return s.Pass
}

// A session that the registry stopped, and released again, does not release what was charged before.
func TestReleaseAfterABlock(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	before := a.signed(t, sess, 1)
	block := func(what string) {
		t.Helper()
		_, err := a.change(t.Context(), sess.ID, nil, audit.SessionBlocked, nil, func(next *Session) error {
			next.Blocked = what
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	block("policy 0")
	refused, done := a.Release([]*Pass{before}, func() {})
	done()
	var d *policy.Denial
	if !errors.As(refused[0], &d) || d.Reason != ReasonBlocked {
		t.Errorf("blocked: Release = %v, want %s", refused[0], ReasonBlocked)
	}
	block("")
	after := a.signed(t, sess, 2)
	refused, done = a.Release([]*Pass{before, after}, func() {})
	done()
	if !errors.As(refused[0], &d) || d.Reason != ReasonBlocked || refused[1] != nil {
		t.Errorf("released again: Release = %v, want the first refused and the second not", refused)
	}
}

// A revoke waits for a write that has begun. It ends the connection of a client that does not take the
// signature within a second.
func TestRevokeWaitsForWriters(t *testing.T) {
	a := newAgent(t)
	sess, other := a.active(t), a.active(t)
	cut := make(chan string, 2)
	_, quick := a.Release([]*Pass{a.signed(t, sess, 1)}, func() { cut <- "quick" })
	_, slow := a.Release([]*Pass{a.signed(t, sess, 2)}, func() { cut <- "slow" })
	_, others := a.Release([]*Pass{a.signed(t, other, 1)}, func() { cut <- "another session's" })
	defer others()
	revoked := make(chan error, 1)
	begun := time.Now()
	go func() { _, err := a.Revoke(t.Context(), operator, sess.ID); revoked <- err }()
	quick()
	select {
	case err := <-revoked:
		t.Fatalf("Revoke = %v while a signature was being written", err)
	case who := <-cut:
		if took := time.Since(begun); who != "slow" || took < writerPatience {
			t.Errorf("the %s connection was ended after %v, want the slow one after %v", who, took, writerPatience)
		}
	}
	slow() // write(2) has failed
	if err := <-revoked; err != nil {
		t.Error(err)
	}
}

// The lock file counts whatever it holds, belongs to the owner of its folder, and survives a new start.
func TestLockFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "locked")
	if LockedOnDisk(path) {
		t.Error("locked without a file")
	}
	if err := os.Chown(filepath.Dir(path), 65534, 65534); err != nil && os.Geteuid() == 0 {
		t.Fatal(err)
	}
	if err := WriteLock(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if owner(dir) != owner(file) || file.Mode().Perm() != 0o600 {
		t.Errorf("the file has owner %v and mode %v, want owner %v and mode 0600", owner(file), file.Mode(), owner(dir))
	}
	if err := os.WriteFile(path, nil, 0); err != nil {
		t.Fatal(err)
	}
	if !LockedOnDisk(path) {
		t.Error("an empty lock file is no lock")
	}
}

// An unlock does not end a lock that came after it began.
func TestUnlockOfAnEarlierLock(t *testing.T) {
	a := newAgent(t)
	path := filepath.Join(t.TempDir(), "locked")
	a.cfg.LockPath = path
	lock := func() uint64 {
		t.Helper()
		if err := a.Lock(); err != nil {
			t.Fatal(err)
		}
		return a.LockVersion()
	}
	first, second := lock(), lock()
	if err := a.Unlock(first, nil); !errors.Is(err, ErrLocked) || !a.Locked() || !LockedOnDisk(path) {
		t.Errorf("Unlock of the first lock = %v, locked: %v, on disk: %v", err, a.Locked(), LockedOnDisk(path))
	}
	if err := a.Unlock(second, nil); err != nil || a.Locked() || LockedOnDisk(path) {
		t.Errorf("Unlock of the second lock = %v, locked: %v, on disk: %v", err, a.Locked(), LockedOnDisk(path))
	}
}
