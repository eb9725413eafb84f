package config

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// At names the line of the setting, or of the innermost section around it that the file has.
func TestAt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[agent]\nsocket = \"a\"\n\n[backends.hsm]\n  pin_file = \"pin\"\n"),
		0o600); err != nil {
		t.Fatal(err)
	}
	bare := &fs.PathError{Op: "open", Path: "/pin", Err: fs.ErrNotExist}
	for _, tt := range []struct {
		file string
		path []string
		want string
	}{
		{file, []string{"backends", "hsm", "pin_file"}, file + ":5:3: " + bare.Error()},
		{file, []string{"backends", "hsm", "module"}, file + ":4:11: " + bare.Error()},
		{file, []string{"agent", "socket"}, file + ":2:1: " + bare.Error()},
		{file, []string{"metrics", "listen"}, bare.Error()},
		{file, nil, bare.Error()},
		{file + ".gone", []string{"agent", "socket"}, bare.Error()},
	} {
		got := At(tt.file, bare, tt.path...)
		if got.Error() != tt.want || !errors.Is(got, fs.ErrNotExist) {
			t.Errorf("At %q = %q, want %q", tt.path, got, tt.want)
		}
	}
	if err := At(file, nil, "agent"); err != nil {
		t.Errorf("At of no error = %v", err)
	}
}
