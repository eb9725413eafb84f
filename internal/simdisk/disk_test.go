package simdisk

import (
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keyward/keyward/internal/durable"
)

// put makes a file with a text.
func put(t *testing.T, d *Disk, path, text string) vfs.File {
	t.Helper()
	f, err := d.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	return f
}

func syncNames(t *testing.T, d *Disk, dir string) {
	t.Helper()
	if err := (durable.Files{FS: d}).SyncDir(dir); err != nil {
		t.Fatal(err)
	}
}

// got is a file's text, "none" if there is no such file.
func got(t *testing.T, d *Disk, path string) string {
	t.Helper()
	f, err := d.Open(path)
	if err != nil {
		return "none"
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A power cut loses what was not synced, with its name or without; a kill loses nothing.
func TestCrash(t *testing.T) {
	d := New()
	f := put(t, d, "named only", "text")
	syncNames(t, d, "")
	g := put(t, d, "synced only", "text")
	if err := g.Sync(); err != nil {
		t.Fatal(err)
	}
	both := put(t, d, "both", "text")
	if err := errors.Join(both.Sync(), (durable.Files{FS: d}).SyncDir("")); err != nil {
		t.Fatal(err)
	}
	put(t, d, "neither", "text")
	if err := errors.Join(d.Remove("synced only"), d.Rename("both", "renamed")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(" and more")); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		crash Crash
		want  map[string]string
	}{
		{Crash{Power: true}, map[string]string{"named only": "", "synced only": "text", "both": "text", "neither": "none",
			"renamed": "none"}},
		{Crash{}, map[string]string{"named only": "text and more", "synced only": "none", "both": "none", "neither": "text",
			"renamed": "text"}},
		{Crash{Power: true, Kept: 100, RNG: rand.New(rand.NewPCG(1, 1))},
			map[string]string{"named only": "text and more", "synced only": "none", "both": "none", "neither": "text",
				"renamed": "text"}},
	} {
		after := d.Snapshot(tc.crash)
		for path, want := range tc.want {
			if text := got(t, after, path); text != want {
				t.Errorf("%+v: %s has %q, want %q", tc.crash, path, text, want)
			}
		}
	}
}

// Sectors reach the disk in any order: a file has holes of zeros where one did not.
func TestTornWrite(t *testing.T) {
	holes := 0
	for seed := range uint64(20) {
		d := New()
		put(t, d, "f", strings.Repeat("x", 4*sector))
		syncNames(t, d, "")
		text := got(t, d.Snapshot(Crash{Power: true, Kept: 50, RNG: rand.New(rand.NewPCG(seed, 1))}), "f")
		for at := 0; at < len(text); at += sector {
			if part := text[at : at+sector]; part != strings.Repeat("x", sector) && part != strings.Repeat("\x00", sector) {
				t.Fatalf("seed %d: a sector is torn", seed)
			}
		}
		if strings.Contains(text, "\x00") {
			holes++
		}
	}
	if holes == 0 {
		t.Error("no file has a hole")
	}
}

// A sync that failed drops what it had to write. Programs still see it, also after a restart; only what is written
// again is synced again.
func TestFailedSync(t *testing.T) {
	d := New()
	f := put(t, d, "f", "lost")
	syncNames(t, d, "")
	d.SetBefore(func(op Op) (int, error) {
		if op.Kind == Sync {
			return 0, syscall.EIO
		}
		return 0, nil
	})
	if err := f.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatalf("Sync = %v, want EIO", err)
	}
	d.SetBefore(nil)
	if d.Misuse() != nil {
		t.Errorf("Misuse = %v after one sync", d.Misuse())
	}
	if err := f.Sync(); err != nil || d.Misuse() == nil {
		t.Errorf("the second Sync = %v, Misuse = %v; want success, and the misuse", err, d.Misuse())
	}
	killed := d.Snapshot(Crash{})
	if text := got(t, killed, "f"); text != "lost" {
		t.Errorf("after a kill the file has %q", text)
	}
	g, err := killed.OpenReadWrite("f", vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteAt([]byte("LO"), 0); err != nil {
		t.Fatal(err)
	}
	if err := g.Sync(); err != nil || killed.Misuse() != nil {
		t.Errorf("Sync by another process = %v, Misuse = %v", err, killed.Misuse())
	}
	if text := got(t, killed.Snapshot(Crash{Power: true}), "f"); text != "LO" {
		t.Errorf("after a power cut the file has %q, want what was written again", text)
	}
}

// A file that became shorter is so after a power cut once it is synced, and what is written behind the cut is not what
// was there.
func TestTruncate(t *testing.T) {
	d := New()
	f := put(t, d, "f", "a long text")
	if err := errors.Join(f.Sync(), (durable.Files{FS: d}).SyncDir(""), d.Truncate("f", 1)); err != nil {
		t.Fatal(err)
	}
	if text := got(t, d, "f"); text != "a" {
		t.Errorf("the file has %q, want %q", text, "a")
	}
	if text := got(t, d.Snapshot(Crash{Power: true}), "f"); text != "a long text" {
		t.Errorf("before the sync, a power cut leaves %q", text)
	}
	if err := errors.Join(f.Sync(), d.Truncate("f", 3)); err != nil {
		t.Fatal(err)
	}
	if text := got(t, d.Snapshot(Crash{Power: true}), "f"); text != "a" {
		t.Errorf("after the sync, a power cut leaves %q", text)
	}
	if text := got(t, d, "f"); text != "a\x00\x00" {
		t.Errorf("the longer file has %q", text)
	}
}
