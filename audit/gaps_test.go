package audit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

// A peer's ids are written in decimal, however many digits they have.
func TestLineOfAPeerWithLongIDs(t *testing.T) {
	wantJSON(t, &Record{Time: time.Unix(1e9, 0).UTC(), Event: SignGranted,
		Peer: &Peer{UID: 100_123, GID: 100_456, PID: 4_194_303}})
}

// Where the trail is gone, none is begun in its place.
func TestOpenMakesNoTrailInPlaceOfALostOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	_, head := writeTrail(t, path, 3)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := openWithin(t, path, head); !errors.Is(err, ErrDamaged) ||
		!strings.Contains(err.Error(), "is gone, with records up to 3") {
		t.Errorf("opening a trail that is gone: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made in its place: %v", err)
	}
}

// The error says how much there is that the ledger does not know.
func TestOpenSaysHowFarTheTrailIsAhead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	_, head := writeTrail(t, path, 3)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("123456789\n"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := openWithin(t, path, head); !errors.Is(err, ErrAhead) ||
		!strings.Contains(err.Error(), "has 10 bytes after record 3") {
		t.Errorf("opening a trail with 10 bytes more: %v", err)
	}
}

// A trail whose size can't be asked for is not opened.
func TestOpenWithoutTheSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	_, head := writeTrail(t, path, 3)
	failing := errorfs.Wrap(vfs.Default, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileStat {
			return errorfs.ErrInjected
		}
		return nil
	}))
	if _, _, err := OpenTrail(failing, path, head, nil); !errors.Is(err, errorfs.ErrInjected) {
		t.Errorf("OpenTrail on a disk that does not tell sizes = %v", err)
	}
}

// Going back over segments leaves none of them open.
func TestSeekLastClosesWhatItPasses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	tr, head := rotated(t, path)
	if _, err := tr.Rotate(head); err != nil {
		t.Fatal(err)
	}
	open := func() (n int) {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, filepath.Dir(path)) {
				n++
			}
		}
		return n
	}
	before := open()
	r, err := OpenSegments(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SeekLast(100); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if after := open(); after != before {
		t.Errorf("%d files of the trail are open after SeekLast and Close, %d before", after, before)
	}
}
