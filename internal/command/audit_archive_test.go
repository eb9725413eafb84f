package command

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/session"
)

// segmentedState makes the state of an agent in dir, whose trail has two sealed segments.
func segmentedState(t *testing.T, dir string) {
	t.Helper()
	state := filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := session.Open(session.Config{
		LedgerPath: filepath.Join(state, "ledger"), AuditPath: filepath.Join(state, "audit.jsonl"),
		LockPath: filepath.Join(state, "locked"), SegmentBytes: 16 << 10, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	for sealed := 0; sealed < 2; {
		rec := audit.Record{Time: time.Now().UTC(), Event: audit.AgentReloaded, Detail: strings.Repeat("x", 1000)}
		if err := s.Record(t.Context(), rec); err != nil {
			t.Fatal(err)
		}
		all, err := audit.SealedSegments(filepath.Join(state, "audit.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		sealed = len(all)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// archiveUnder runs audit archive in dir with strace and those of its options, and returns what it said and how it
// ended.
func archiveUnder(t *testing.T, dir string, strace ...string) (string, *os.ProcessState) {
	t.Helper()
	keyward, err := testbin.Plain()
	if err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{"-f", "-qq", "-o", "/dev/null"}, strace...),
		keyward, "audit", "archive", "--dir", dir, "--to", filepath.Join(dir, "archive"), "--gzip")
	cmd := exec.Command("strace", args...)
	cmd.Env = append(os.Environ(), "GOMAXPROCS=1")
	out, err := cmd.CombinedOutput()
	if ended := (*exec.ExitError)(nil); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState
}

// wholeTrail verifies the trail of the agent in dir by its ledger, and returns how many segments are sealed.
func wholeTrail(t *testing.T, dir string) int {
	t.Helper()
	path := filepath.Join(dir, "state", "audit.jsonl")
	head, journal, err := session.ReadTrail(filepath.Join(dir, "state", "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Verify(path, head, journal, false); err != nil {
		t.Fatal(err)
	}
	all, err := audit.SealedSegments(path)
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// wholeArchive verifies the archive of the agent in dir with its trail.
func wholeArchive(t *testing.T, dir string) {
	t.Helper()
	missing, err := audit.VerifyArchive(filepath.Join(dir, "archive"), filepath.Join(dir, "state", "audit.jsonl"))
	if err != nil || missing > 0 {
		t.Fatalf("VerifyArchive: %v, %d records missing", err, missing)
	}
}

// The command is killed at each of its steps: before it names, deletes or syncs a file, and while it writes a copy. The
// trail verifies, and the next call does the rest.
func TestArchiveKilled(t *testing.T) {
	state := t.TempDir()
	segmentedState(t, state)
	seen := map[string]bool{}
	sealed, err := audit.SealedSegments(filepath.Join(state, "state", "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	part := func(i int) string { return filepath.Join("archive", filepath.Base(sealed[i].Path)+".gz.part") }
	// strace counts the calls of each thread. With a file, it counts those on that file only, which are one thread's.
	for _, step := range []struct{ call, file string }{
		{"renameat", ""}, {"unlinkat", ""}, {"fsync", ""},
		{"write", part(0)}, {"write", part(1)}, {"unlinkat", filepath.Join("state", filepath.Base(sealed[0].Path))},
	} {
		call := step.call
		for when := 1; ; when++ {
			dir := filepath.Join(t.TempDir(), "agent")
			if err := os.CopyFS(dir, os.DirFS(state)); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(dir, "archive"), 0o700); err != nil {
				t.Fatal(err)
			}
			watch := []string{"-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, when)}
			if step.file != "" {
				watch = append(watch, "-P", filepath.Join(dir, step.file))
			}
			out, ended := archiveUnder(t, dir, watch...)
			killed := !ended.Success()
			if killed && ended.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("%s %d: %v: %s", call, when, ended, out)
			}
			left := wholeTrail(t, dir)
			seen[fmt.Sprintf("%d segments, %s", left, archiveState(t, dir))] = true
			if out, ended := archiveUnder(t, dir, "-e", "trace=none"); !ended.Success() {
				t.Fatalf("%s %d: after a kill with %d segments left: %s", call, when, left, out)
			}
			if left := wholeTrail(t, dir); left > 0 {
				t.Fatalf("%s %d: the second call leaves %d segments", call, when, left)
			}
			wholeArchive(t, dir)
			if !killed {
				break
			}
		}
	}
	for _, want := range []string{"2 segments, 0 copies and a part", "2 segments, 1 copies",
		"1 segments, 1 copies and a part",
		"0 segments, 2 copies"} {
		if !seen[want] {
			t.Errorf("no kill left %s; seen: %v", want, seen)
		}
	}
}

// archiveState says what is in the archive.
func archiveState(t *testing.T, dir string) string {
	t.Helper()
	copies, err := filepath.Glob(filepath.Join(dir, "archive", "*.gz"))
	if err != nil {
		t.Fatal(err)
	}
	parts, err := filepath.Glob(filepath.Join(dir, "archive", "*.part"))
	if err != nil {
		t.Fatal(err)
	}
	state := fmt.Sprintf("%d copies", len(copies))
	if len(parts) > 0 {
		state += " and a part"
	}
	return state
}

// A disk that is full or fails while a copy is written leaves the trail as it was, and no copy.
func TestArchiveToAFullDisk(t *testing.T) {
	dir := t.TempDir()
	segmentedState(t, dir)
	if err := os.Mkdir(filepath.Join(dir, "archive"), 0o700); err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "archive", "audit-00000000000000000001.jsonl.gz.part")
	for _, fault := range []struct{ inject, want string }{
		{"write:error=ENOSPC", "no space left on device"},
		{"fsync:error=EIO", "input/output error"},
	} {
		call, _, _ := strings.Cut(fault.inject, ":")
		out, ended := archiveUnder(t, dir, "-P", part, "-e", "trace="+call, "-e", "inject="+fault.inject)
		if ended.Success() || !strings.Contains(out, fault.want) {
			t.Errorf("%s: %v: %s, want %q", fault.inject, ended, out, fault.want)
		}
		if left, in := wholeTrail(t, dir), archiveState(t, dir); left != 2 || in != "0 copies" {
			t.Errorf("%s: %d segments and %s, want 2 and 0", fault.inject, left, in)
		}
	}
	if out, ended := archiveUnder(t, dir, "-e", "trace=none"); !ended.Success() {
		t.Errorf("with a disk that is well again: %s", out)
	}
	wholeArchive(t, dir)
}

// A trail with a segment missing, and a directory with another agent's segments, are left as they are.
func TestArchiveRefuses(t *testing.T) {
	dir := t.TempDir()
	segmentedState(t, dir)
	foreign := filepath.Join(dir, "archive", "audit-00000000000000000001.jsonl.gz")
	if err := os.Mkdir(filepath.Dir(foreign), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(foreign, []byte("another agent's"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, ended := archiveUnder(t, dir, "-e", "trace=none")
	if data, err := os.ReadFile(foreign); ended.Success() || err != nil || string(data) != "another agent's" {
		t.Errorf("into an archive of another agent: %v: %s; its segment is %q, %v", ended, out, data, err)
	}
	if left := wholeTrail(t, dir); left != 2 {
		t.Errorf("%d segments left, want 2", left)
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	segments, err := audit.SealedSegments(filepath.Join(dir, "state", "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(segments[1].Path, filepath.Join(dir, "away")); err != nil {
		t.Fatal(err)
	}
	out, ended = archiveUnder(t, dir, "-e", "trace=none")
	if ended.ExitCode() != exitDamaged || archiveState(t, dir) != "0 copies" {
		t.Errorf("without the second segment: %v, %s: %s", ended, archiveState(t, dir), out)
	}
}
