package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// grow appends n records and returns the head after them.
func grow(t *testing.T, tr *Trail, head Head, n int) Head {
	t.Helper()
	for range n {
		var line []byte
		var err error
		rec := &Record{Time: time.Unix(int64(head.Seq), 0).UTC(), Event: SignGranted, Session: fmt.Sprintf("s%d", head.Seq)}
		if line, head, err = head.Seal(nil, rec); err != nil || tr.Append(line) != nil {
			t.Fatal("Seal or Append failed")
		}
	}
	return head
}

// rotated makes a trail of three segments with 3, 2 and 1 records.
func rotated(t *testing.T, path string) (*Trail, Head) {
	t.Helper()
	tr, head, err := OpenTrail(vfs.Default, path, Head{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	for n := 3; ; n-- {
		head = grow(t, tr, head, n)
		if err := tr.Sync(); err != nil {
			t.Fatal(err)
		}
		if n == 1 {
			return tr, head
		}
		if head, err = tr.Rotate(head); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSegments(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	_, head := rotated(t, path)
	files, err := Segments(path)
	want := []string{SegmentPath(path, 1), SegmentPath(path, 4), path}
	if err != nil || fmt.Sprint(files) != fmt.Sprint(want) {
		t.Fatalf("Segments = %v, %v, want %v", files, err, want)
	}
	if head.Seq != 6 || head.Sealed != 5 {
		t.Errorf("head %+v, want record 6 with 5 sealed", head)
	}
	if rep, err := Verify(path, head, nil, false); err != nil || rep.Head.Seq != 6 {
		t.Errorf("Verify = %+v, %v, want 6 records", rep, err)
	}
	again, same, err := OpenTrail(vfs.Default, path, head, nil)
	if err != nil || same != head {
		t.Fatalf("OpenTrail = %+v, %v, want %+v", same, err, head)
	}
	again.Close()
	for _, file := range want { // whichever is edited, moved away or emptied
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, damage := range []func() error{
			func() error { return os.WriteFile(file, bytes.Replace(data, []byte("s"), []byte("x"), 3), 0o600) },
			func() error { return os.WriteFile(file, nil, 0o600) },
			func() error { return os.Remove(file) },
		} {
			if err := damage(); err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(path, head, nil, false); !errors.Is(err, ErrDamaged) {
				t.Errorf("%s damaged: Verify = %v, want ErrDamaged", filepath.Base(file), err)
			}
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A crash between the steps of a rotation: the ledger's head is the one from before.
func TestRotationIsCompleted(t *testing.T) {
	for _, step := range []string{"renamed", "begun"} {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		tr, head, err := OpenTrail(vfs.Default, path, Head{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		head = grow(t, tr, head, 4)
		tr.Close()
		journal, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path, SegmentPath(path, 1)); err != nil {
			t.Fatal(err)
		}
		if step == "begun" {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if rep, err := Verify(path, head, journal[len(journal)/2:], false); err != nil || rep.Head.Seq != 4 {
			t.Errorf("%s: Verify = %+v, %v, want 4 records", step, rep, err)
		}
		tr, next, err := OpenTrail(vfs.Default, path, head, journal)
		if err != nil || next.Sealed != 4 || next.Size != 0 || next.Hash != head.Hash {
			t.Fatalf("%s: OpenTrail = %+v, %v, want a new segment after record 4", step, next, err)
		}
		next = grow(t, tr, next, 2)
		if rep, err := Verify(path, next, nil, false); err != nil || rep.Head.Seq != 6 {
			t.Errorf("%s: Verify = %+v, %v, want 6 records", step, rep, err)
		}
		tr.Close()
		if _, _, err := OpenTrail(vfs.Default, path, head, journal); !errors.Is(err, ErrAhead) {
			t.Errorf("%s: OpenTrail with the old head = %v, want ErrAhead", step, err)
		}
	}
}

// A reader that follows the newest segment goes on in the next one and misses nothing.
func TestReaderFollowsRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	tr, head := rotated(t, path)
	r, err := OpenSegments(path)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var read bytes.Buffer
	more := func(want int) {
		t.Helper()
		if _, err := io.Copy(&read, r); err != nil {
			t.Fatal(err)
		}
		if got := bytes.Count(read.Bytes(), []byte("\n")); got != want {
			t.Fatalf("%d records were read, want %d", got, want)
		}
	}
	more(6)
	head = grow(t, tr, head, 1) // appended after the end was seen, and sealed before the next look
	if head, err = tr.Rotate(head); err != nil {
		t.Fatal(err)
	}
	head = grow(t, tr, head, 2)
	if head, err = tr.Rotate(head); err != nil { // and one more that the reader never saw as the newest
		t.Fatal(err)
	}
	grow(t, tr, head, 1)
	more(10)
	var at Head
	for _, line := range bytes.Split(bytes.TrimSpace(read.Bytes()), []byte("\n")) {
		if at, err = at.follows(line); err != nil {
			t.Fatal(err)
		}
	}
}

// The last records are found in whichever segments they are.
func TestSeekLast(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	tr, head := rotated(t, path)
	if _, err := tr.Rotate(head); err != nil { // and an empty one
		t.Fatal(err)
	}
	for n := range 9 {
		r, err := OpenSegments(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.SeekLast(n); err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		r.Close()
		if got := bytes.Count(data, []byte("\n")); err != nil || got != min(n, 6) {
			t.Errorf("SeekLast(%d): %d records follow, %v, want %d", n, got, err, min(n, 6))
		}
	}
}

func TestSeekBack(t *testing.T) {
	long := strings.Repeat("x", 70<<10) // more than is read at once
	for _, tt := range []struct {
		name, file string
		n          int
		want       string
	}{
		{"empty", "", 3, ""},
		{"none", "a\nb\n", 0, ""},
		{"some", "a\nb\nc\n", 2, "b\nc\n"},
		{"all", "a\nb\n", 2, "a\nb\n"},
		{"more than there are", "a\nb\n", 9, "a\nb\n"},
		{"long lines", "a\n" + long + "\nc\n", 2, long + "\nc\n"},
		{"an unfinished line counts", "a\nb\nc", 1, "b\nc"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := strings.NewReader(tt.file)
			if _, err := seekBack(r, tt.n); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("seekBack(%d) leaves %d bytes, want %d", tt.n, len(got), len(tt.want))
			}
		})
	}
}
