package durable_test

import (
	"errors"
	"io"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/internal/simdisk"
)

// read is the text of a file, "" if there is none.
func read(t *testing.T, d *simdisk.Disk, name string) string {
	t.Helper()
	f, err := d.Open(name)
	if err != nil {
		return ""
	}
	text, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Once WriteFile or Remove has returned, no power cut undoes it, and before that there is the old file or the new one.
func TestPowerCut(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 3))
		crash := simdisk.Crash{Power: true, Kept: int(seed % 101), RNG: rng}
		d := simdisk.New()
		files := durable.Files{FS: d}
		if err := errors.Join(d.MkdirAll("dir", 0o700), files.SyncDir(""),
			files.WriteFile("dir/f", []byte("old"), 0o600)); err != nil {
			t.Fatal(err)
		}
		at, steps := 1+rng.IntN(7), 0
		var cut *simdisk.Disk
		d.SetBefore(func(op simdisk.Op) (int, error) {
			if steps++; steps == at {
				cut = d.SnapshotLocked(crash)
			}
			return 0, nil
		})
		if err := files.WriteFile("dir/f", []byte("the new text"), 0o600); err != nil {
			t.Fatal(err)
		}
		d.SetBefore(nil)
		if cut != nil {
			if text := read(t, cut, "dir/f"); text != "old" && text != "the new text" {
				t.Errorf("seed %d: a power cut before step %d leaves %q", seed, at, text)
			}
		}
		if text := read(t, d.Snapshot(crash), "dir/f"); text != "the new text" {
			t.Errorf("seed %d: a power cut after WriteFile leaves %q", seed, text)
		}
		if err := files.Remove("dir/f"); err != nil {
			t.Fatal(err)
		}
		if text := read(t, d.Snapshot(crash), "dir/f"); text != "" {
			t.Errorf("seed %d: a power cut after Remove leaves %q", seed, text)
		}
	}
}

// Whichever step fails, WriteFile says so and leaves no temporary file; it tries no failed sync again.
func TestFailingDisk(t *testing.T) {
	broken := errors.New("broken")
	for at := 1; ; at++ {
		d := simdisk.New()
		files := durable.Files{FS: d}
		if err := errors.Join(d.MkdirAll("dir", 0o700), files.SyncDir("")); err != nil {
			t.Fatal(err)
		}
		steps, failed := 0, ""
		d.SetBefore(func(op simdisk.Op) (int, error) {
			if steps++; steps == at {
				failed = string(op.Kind)
				return 1, broken
			}
			return 0, nil
		})
		err := files.WriteFile("dir/f", []byte("text"), 0o600)
		if failed == "" {
			if at < 6 || err != nil {
				t.Errorf("after %d steps: WriteFile = %v", at-1, err)
			}
			return
		}
		if !errors.Is(err, broken) || d.Misuse() != nil {
			t.Errorf("%s fails: WriteFile = %v, misuse: %v", failed, err, d.Misuse())
		}
		names, err := d.List("dir")
		for _, name := range names {
			if path.Base(name) != "f" || err != nil {
				t.Errorf("%s fails: %s is left, %v", failed, name, err)
			}
		}
	}
}

// No power cut undoes a directory that MkdirAll has made, or one above it.
func TestMkdirAll(t *testing.T) {
	d := simdisk.New()
	if err := (durable.Files{FS: d}).MkdirAll("etc/agent/state", 0o700); err != nil {
		t.Fatal(err)
	}
	after := d.Snapshot(simdisk.Crash{Power: true})
	if info, err := after.Stat("etc/agent/state"); err != nil || !info.IsDir() {
		t.Errorf("after a power cut: %v, %v", info, err)
	}
	ops := d.Ops()
	if err := (durable.Files{FS: d}).MkdirAll("etc/agent/state", 0o700); err != nil || d.Ops() != ops {
		t.Errorf("MkdirAll of what is there: %v, %d operations", err, d.Ops()-ops)
	}
}
