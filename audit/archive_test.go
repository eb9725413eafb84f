package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"
)

// archiveFirst archives the first n sealed segments of the trail at path, with its record, and returns the head after
// it.
func archiveFirst(t *testing.T, path string, head Head, n int, to string, compress bool) (Head, *Gone) {
	t.Helper()
	all, err := SealedSegments(path)
	if err != nil || len(all) < n {
		t.Fatalf("SealedSegments = %v, %v, want %d at least", all, err, n)
	}
	tree, err := OpenTree(TreePath(path))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if err := tree.Extend(path, head.Seq); err != nil {
		t.Fatal(err)
	}
	var gone *Gone
	for _, segment := range all[:n] {
		if gone, err = Archive(segment, to, compress, tree); err != nil {
			t.Fatal(err)
		}
		tr, at, err := OpenTrail(vfs.Default, path, head, nil)
		if err != nil {
			t.Fatal(err)
		}
		line, next, err := at.Seal(nil, &Record{Event: TrailArchived, Detail: gone})
		if err = errors.Join(err, tr.Append(line), tr.Sync(), tr.Close()); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(path, next, nil, false); err != nil {
			t.Fatalf("with the record and the segments still there: %v", err)
		}
		if err := segment.Remove(); err != nil {
			t.Fatal(err)
		}
		head = next
	}
	return head, gone
}

// What is left of a trail after segments were archived, twice, still verifies alone, with its archive, and with
// checkpoints from before and after; and nothing of it can be changed unnoticed.
func TestArchive(t *testing.T) {
	for _, compress := range []bool{false, true} {
		t.Run(fmt.Sprintf("compressed %v", compress), func(t *testing.T) {
			path, lines, head := segmentedTrail(t, 40, 7) // 1-7, 8-14, 15-21, 22-28, 29-35, and 36-40 in the newest
			to := t.TempDir()
			head, _ = archiveFirst(t, path, head, 2, to, compress)
			head, gone := archiveFirst(t, path, head, 1, to, compress)
			if gone.Records != 21 {
				t.Fatalf("records up to %d are gone, want 21", gone.Records)
			}
			rep, err := Verify(path, head, nil, false)
			if err != nil || rep.Gone != 21 {
				t.Fatalf("Verify of the rest = %+v, %v, want 21 records gone", rep, err)
			}
			if missing, err := VerifyArchive(to, path); err != nil || missing != 0 {
				t.Errorf("VerifyArchive = %d, %v, want a whole chain", missing, err)
			}
			for i, root := range referenceRoots(t, lines) {
				err := VerifyCheckpoint(path, Checkpoint{"test", tlog.Tree{N: int64(i) + 1, Hash: root}})
				if left := i+1 >= 21; left != (err == nil) || errors.Is(err, ErrDamaged) {
					t.Errorf("checkpoint of %d records: %v; 21 were archived", i+1, err)
				}
			}
			if err := os.Remove(TreePath(path)); err != nil {
				t.Fatal(err)
			}
			tree, err := OpenTree(TreePath(path))
			if err != nil {
				t.Fatal(err)
			}
			defer tree.Close()
			if err := tree.Extend(path, 40); err != nil {
				t.Fatal(err)
			}
			if root, err := tree.Root(40); err != nil || root != referenceRoots(t, lines)[39] {
				t.Errorf("the root of a tree that begins with the record of the archive is %v, %v", root, err)
			}
			tamperWithArchive(t, path, to, head)
		})
	}
}

// tamperWithArchive changes the archive and the rest of the trail.
func tamperWithArchive(t *testing.T, path, to string, head Head) {
	t.Helper()
	sealed, err := SealedSegments(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(sealed[0].Path, sealed[0].Path+".away"); err != nil { // one more than the record says
		t.Fatal(err)
	}
	if _, err := Verify(path, head, nil, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("a segment is missing that no record says was archived: %v, want ErrDamaged", err)
	}
	if err := os.Rename(sealed[0].Path+".away", sealed[0].Path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte("trail.archived"), []byte("agent.archived")),
		0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(path, head, nil, false); !errors.Is(err, ErrDamaged) {
		t.Errorf("the record of the archive was edited: %v, want ErrDamaged", err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(to, "audit-*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("the archive has %v, %v, want 3 files", files, err)
	}
	kept, err := os.ReadFile(files[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(files[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyArchive(to, path); !errors.Is(err, ErrDamaged) {
		t.Errorf("an archived segment is missing: %v, want ErrDamaged", err)
	}
	bad := bytes.Clone(kept)
	bad[len(bad)/2] ^= 1
	if err := os.WriteFile(files[1], bad, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := VerifyArchive(to, path); !errors.Is(err, ErrDamaged) {
		t.Errorf("an archived segment was edited: %v, want ErrDamaged", err)
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(files[1], kept, 0o600); err != nil {
		t.Fatal(err)
	}
	if missing, err := VerifyArchive(to, path); err != nil || missing != 7 {
		t.Errorf("an archive without its first segment: %d, %v, want 7 records in neither", missing, err)
	}
}

// The trail verifies while its segments are archived, however far the reader is.
func TestVerifyWhileArchiving(t *testing.T) {
	for range 20 {
		path, _, head := segmentedTrail(t, 60, 3)
		done := make(chan error)
		go func() {
			for {
				select {
				case done <- nil:
					return
				default:
				}
				if _, err := Verify(path, head, nil, true); err != nil {
					done <- err
					return
				}
			}
		}()
		all, err := SealedSegments(path)
		if err != nil {
			t.Fatal(err)
		}
		archiveFirst(t, path, head, len(all), t.TempDir(), false)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

// A reader that is behind goes on with the first segment that is left.
func TestReaderSkipsArchivedSegments(t *testing.T) {
	path, lines, head := segmentedTrail(t, 40, 7)
	r, err := OpenSegments(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, len(lines[0]))
	if _, err := io.ReadFull(r, buf); err != nil { // opens the first one
		t.Fatal(err)
	}
	archiveFirst(t, path, head, 3, "", false)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Contains(rest, lines[6]) || bytes.Contains(rest, lines[7]) ||
		!bytes.Contains(rest, lines[39]) {
		t.Errorf("%d bytes, %v: want records 2 to 7, which were open, and 22 to 40", len(rest), err)
	}
}
