package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"
)

// segmentedTrail makes a trail of n records with a new segment after each size records, and returns its path, lines and
// head.
func segmentedTrail(t *testing.T, n, size int) (path string, lines [][]byte, head Head) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	tr, _, err := OpenTrail(vfs.Default, path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	for i := range n {
		if i > 0 && i%size == 0 {
			if head, err = tr.Rotate(head); err != nil {
				t.Fatal(err)
			}
		}
		var line []byte
		if line, head, err = head.Seal(nil, &Record{Event: SignGranted, Session: string(rune('a' + i%26))}); err != nil {
			t.Fatal(err)
		}
		if err := tr.Append(line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, bytes.TrimSuffix(line, []byte("\n")))
	}
	if err := tr.Sync(); err != nil {
		t.Fatal(err)
	}
	return path, lines, head
}

// referenceRoots are the roots of the first 1, 2, … lines, as package tlog computes them.
func referenceRoots(t *testing.T, lines [][]byte) (roots []tlog.Hash) {
	t.Helper()
	var hashes []tlog.Hash
	read := tlog.HashReaderFunc(func(at []int64) (found []tlog.Hash, err error) {
		for _, i := range at {
			found = append(found, hashes[i])
		}
		return found, nil
	})
	for i, line := range lines {
		more, err := tlog.StoredHashes(int64(i), line, read)
		if err != nil {
			t.Fatal(err)
		}
		hashes = append(hashes, more...)
		root, err := tlog.TreeHash(int64(i)+1, read)
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, root)
	}
	return roots
}

// A tree that grows by any steps, over segments, with its file closed, cut at any place and opened again between them,
// has the roots that tlog computes.
func TestTreeGrows(t *testing.T) {
	path, lines, _ := segmentedTrail(t, 40, 7)
	roots := referenceRoots(t, lines)
	for step := 1; step <= len(lines); step++ {
		file := filepath.Join(t.TempDir(), "audit.tree")
		for n := step; n <= len(lines); n += step {
			tree, err := OpenTree(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := tree.Extend(path, uint64(n)); err != nil {
				t.Fatalf("step %d: Extend to %d: %v", step, n, err)
			}
			for _, at := range []int{1, n/2 + 1, n} {
				if root, err := tree.Root(int64(at)); err != nil || root != roots[at-1] {
					t.Fatalf("step %d: the root of %d of %d records is %v, %v, want %v", step, at, n, root, err, roots[at-1])
				}
			}
			tree.Close()
			fi, err := os.Stat(file)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(file, fi.Size()-int64(step*13)%fi.Size()); err != nil { // as a crash may leave it
				t.Fatal(err)
			}
		}
	}
}

func TestTreeNoticesAnotherTrail(t *testing.T) {
	path, _, _ := segmentedTrail(t, 20, 6)
	file := TreePath(path)
	tree, err := OpenTree(file)
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.Extend(path, 20); err != nil {
		t.Fatal(err)
	}
	for cut := uint64(1); cut <= 20; cut++ {
		if err := tree.Extend(path, 20-cut); !errors.Is(err, ErrDamaged) {
			t.Errorf("a trail without its last %d records: Extend = %v, want ErrDamaged", cut, err)
		}
	}
	newest, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	edited := bytes.Replace(newest, []byte(`"session":"t"`), []byte(`"session":"x"`), 1) // record 20
	if bytes.Equal(edited, newest) {
		t.Fatal("there is no record of session t")
	}
	if err := os.WriteFile(path, edited, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tree.Extend(path, 20); !errors.Is(err, ErrDamaged) {
		t.Errorf("a trail with another last record: Extend = %v, want ErrDamaged", err)
	}
}

// VerifyCheckpoint needs no file of the tree: each record is read.
func TestVerifyCheckpoint(t *testing.T) {
	path, lines, _ := segmentedTrail(t, 30, 9)
	for i, root := range referenceRoots(t, lines) {
		c := Checkpoint{"test", tlog.Tree{N: int64(i) + 1, Hash: root}}
		if err := VerifyCheckpoint(path, c); err != nil {
			t.Fatalf("checkpoint of %d records: %v", i+1, err)
		}
		c.Tree.Hash[0] ^= 1
		if err := VerifyCheckpoint(path, c); !errors.Is(err, ErrDamaged) {
			t.Fatalf("checkpoint of %d other records: %v, want ErrDamaged", i+1, err)
		}
	}
	if err := VerifyCheckpoint(path, Checkpoint{"test", tlog.Tree{N: 31}}); !errors.Is(err, ErrDamaged) {
		t.Errorf("checkpoint of more records: %v, want ErrDamaged", err)
	}
}
