package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// What another program does to the file while the agent has it open is noticed, unless it leaves the records alone.
func TestCheckNoticesChanges(t *testing.T) {
	write := func(t *testing.T, path string, data []byte) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(data, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		change func(t *testing.T, path string, all []byte) error
		want   error
	}{
		{"nothing", func(*testing.T, string, []byte) error { return nil }, nil},
		{"mode", func(_ *testing.T, path string, _ []byte) error { return os.Chmod(path, 0o640) }, nil},
		{"another name", func(_ *testing.T, path string, _ []byte) error { return os.Link(path, path+".2") }, nil},
		{"the same bytes", func(t *testing.T, path string, all []byte) error { write(t, path, all); return nil }, nil},
		{"copytruncate", func(_ *testing.T, path string, _ []byte) error { return os.Truncate(path, 0) }, ErrDamaged},
		{"cut", func(_ *testing.T, path string, all []byte) error { return os.Truncate(path, int64(len(all)-1)) },
			ErrDamaged},
		{"cut and filled with zeros", func(_ *testing.T, path string, all []byte) error {
			return errors.Join(os.Truncate(path, 0), os.Truncate(path, int64(len(all))))
		}, ErrDamaged},
		{"appended", func(t *testing.T, path string, all []byte) error { write(t, path, append(all, '\n')); return nil },
			ErrDamaged},
		{"first record edited", func(t *testing.T, path string, all []byte) error {
			write(t, path, bytes.Replace(all, []byte("s0"), []byte("sX"), 1))
			return nil
		}, ErrDamaged},
		{"last record edited", func(t *testing.T, path string, all []byte) error {
			write(t, path, bytes.Replace(all, []byte("s4"), []byte("sX"), 1))
			return nil
		}, ErrDamaged},
		{"replaced by a copy", func(_ *testing.T, path string, all []byte) error {
			return errors.Join(os.WriteFile(path+".2", all, 0o600), os.Rename(path+".2", path))
		}, ErrDamaged},
		{"moved", func(_ *testing.T, path string, _ []byte) error { return os.Rename(path, path+".1") }, ErrDamaged},
		{"removed", func(_ *testing.T, path string, _ []byte) error { return os.Remove(path) }, ErrDamaged},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "audit.jsonl")
			lines, head := writeTrail(t, path, 5)
			tr, _, err := OpenTrail(vfs.Default, path, head, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer tr.Close()
			time.Sleep(20 * time.Millisecond) // the kernel's clock for files ticks every few ms
			if err := tt.change(t, path, bytes.Join(lines, nil)); err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time after a stamp that was taken again
				if err := tr.Check(head); !errors.Is(err, tt.want) {
					t.Errorf("Check = %v, want %v", err, tt.want)
				}
			}
			if tt.want != nil {
				return
			}
			line, next, err := head.Seal(nil, &Record{Event: "x"})
			if err != nil {
				t.Fatal(err)
			}
			if err := tr.Append(line); err != nil {
				t.Fatal(err)
			}
			if err := tr.Check(next); err != nil {
				t.Errorf("Check after our own write = %v", err)
			}
		})
	}
}

// At the start every record of the file is compared with the head, not only the last.
func TestOpenNoticesAnEditedRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	lines, head := writeTrail(t, path, 5)
	if err := os.WriteFile(path, bytes.Replace(bytes.Join(lines, nil), []byte("s1"), []byte("sX"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenTrail(vfs.Default, path, head, nil); !errors.Is(err, ErrDamaged) {
		t.Errorf("OpenTrail = %v, want ErrDamaged", err)
	}
}

func TestVerifyOfAMissingTrail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if _, err := Verify(path, Head{Seq: 1}, nil, true); !errors.Is(err, ErrDamaged) {
		t.Errorf("Verify of a trail that is gone = %v, want ErrDamaged", err)
	}
	if _, err := Verify(path, Head{}, nil, true); err != nil {
		t.Errorf("Verify of a trail that never was = %v", err)
	}
}
