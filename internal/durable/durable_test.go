package durable

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func TestWriteFileReplacesWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	for _, want := range []string{"a long first version", "short"} {
		if err := WriteFile(path, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v, want 0600", fi.Mode(), err)
	}
}

func TestWriteFileLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	// A directory in the way makes the rename fail after the temporary file is written.
	if err := os.MkdirAll(filepath.Join(dir, "f", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "f"), []byte("data"), 0o600); err == nil {
		t.Fatal("WriteFile over a directory succeeded")
	}
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 {
		t.Errorf("directory holds %v, %v, want only f", names, err)
	}
}

// TestRewrite: a file keeps who may read it, and a link to it stays one.
func TestRewrite(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "f"), filepath.Join(dir, "link")
	gid := os.Getgid()
	if os.Geteuid() == 0 {
		gid = 4242 // anybody else may give a file to a group of theirs only
	}
	for _, err := range []error{os.WriteFile(path, []byte("old"), 0o600), os.Chown(path, -1, gid), os.Chmod(path, 0o640),
		os.Symlink("f", link), Rewrite(link, []byte("new"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); info.Mode() != 0o640 || int(st.Gid) != gid {
		t.Errorf("mode %v, group %d, want 0640 and %d", info.Mode(), st.Gid, gid)
	}
	if to, err := os.Readlink(link); err != nil || to != "f" {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "new" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := Rewrite(filepath.Join(dir, "none"), nil); err == nil {
		t.Error("a file that is not there was rewritten")
	}
}
