package owned

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(dir string) error // of dir/above/file, and a link to it at dir/link/file
		path    string
		want    string // in the error; "%s" is the directory
	}{
		{"fine", func(string) error { return nil }, "above/file", ""},
		{"readable by others", func(dir string) error { return os.Chmod(dir+"/above/file", 0o644) }, "above/file", ""},
		{"missing", func(string) error { return nil }, "above/none", ""},
		{"missing in an open directory", func(dir string) error { return os.Chmod(dir+"/above", 0o777) }, "above/none",
			"chmod go-w %s/above"},
		{"file written by all", func(dir string) error { return os.Chmod(dir+"/above/file", 0o666) }, "above/file",
			"file %s/above/file may be written to by others (mode 0666)"},
		{"file written by a group", func(dir string) error { return os.Chmod(dir+"/above/file", 0o660) }, "above/file",
			"(mode 0660)"},
		{"directory written by all", func(dir string) error { return os.Chmod(dir+"/above", 0o777) }, "above/file",
			"directory %s/above may be written to by others (mode 0777)"},
		{"directory itself", func(dir string) error { return os.Chmod(dir+"/above", 0o770) }, "above", "chmod go-w %s/above"},
		{"sticky above", func(dir string) error { return os.Chmod(dir+"/above", 0o777|os.ModeSticky) }, "above/file", ""},
		{"sticky itself", func(dir string) error { return os.Chmod(dir+"/above", 0o777|os.ModeSticky) }, "above",
			"(mode 1777)"},
		{"by a link", func(dir string) error { return os.Chmod(dir+"/above", 0o777) }, "link/file", "chmod go-w %s/above"},
		{"where the link is", func(dir string) error { return os.Chmod(dir+"/link", 0o777) }, "link/file",
			"chmod go-w %s/link"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, d := range []string{"above", "link"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.WriteFile(dir+"/above/file", nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(dir+"/above/file", dir+"/link/file"); err != nil {
				t.Fatal(err)
			}
			if err := tt.prepare(dir); err != nil {
				t.Fatal(err)
			}
			err := Check(filepath.Join(dir, tt.path))
			if tt.want == "" {
				if err != nil {
					t.Errorf("Check = %v, want nil", err)
				}
				return
			}
			want := tt.want
			if strings.Contains(want, "%s") {
				want = fmt.Sprintf(want, dir)
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("Check = %v, want %q", err, want)
			}
		})
	}
}

// What belongs to another user is refused, also if only that user may write to it.
func TestCheckOwner(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(file, 4001, -1); err != nil {
		t.Fatalf("chown, which takes root: %v", err)
	}
	if err := check(file, 4002); err == nil || !strings.Contains(err.Error(), "belongs to uid 4001") ||
		!strings.Contains(err.Error(), "chown 4002 "+file) {
		t.Errorf("check as uid 4002 = %v", err)
	}
	if err := checkOne(file, 4001, false); err != nil {
		t.Errorf("the owner's own file: %v", err)
	}
}
