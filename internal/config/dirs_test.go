package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// lonely takes away what the surroundings of the test say about directories.
func lonely(t *testing.T) (home string) {
	t.Helper()
	home = t.TempDir()
	t.Setenv("HOME", home)
	for _, name := range []string{"KEYWARD_DIR", "CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY"} {
		t.Setenv(name, "")
	}
	return home
}

func TestFindDirs(t *testing.T) {
	home := lonely(t)
	withoutSystem(t)
	own := Dirs{Config: home + "/.keyward", State: home + "/.keyward/state", Runtime: home + "/.keyward",
		Rule: "the user's own"}
	find := func(dir string, want Dirs) {
		t.Helper()
		got, err := FindDirs(dir, false)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("FindDirs(%q) (-want +got):\n%s", dir, d)
		}
	}
	find("", own)
	t.Setenv("STATE_DIRECTORY", "/s:/t")
	find("", Dirs{Config: systemDirs.Config, State: "/s", Runtime: "/run", Rule: "systemd's variables"})
	t.Setenv("RUNTIME_DIRECTORY", "/r")
	t.Setenv("CONFIGURATION_DIRECTORY", "/c")
	find("", Dirs{Config: "/c", State: "/s", Runtime: "/r", Rule: "systemd's variables"})
	t.Setenv("KEYWARD_DIR", "/k")
	find("", Dirs{Config: "/k", State: "/k/state", Runtime: "/k", Rule: "$KEYWARD_DIR"})
	find("/d", Dirs{Config: "/d", State: "/d/state", Runtime: "/d", Rule: "--dir"})
}

// withoutSystem has the test look for the system's agent in a directory of its own, which it returns.
func withoutSystem(t *testing.T) (etc string) {
	t.Helper()
	etc = t.TempDir()
	saved := systemDirs
	t.Cleanup(func() { systemDirs = saved })
	systemDirs = Dirs{Config: etc, State: "/var", Runtime: "/run"}
	return etc
}

// The system's directory names the system's agent, whose state and sockets are elsewhere, unless all of an agent is in
// it.
func TestFindDirsNamed(t *testing.T) {
	lonely(t)
	etc := withoutSystem(t)
	want := systemDirs
	want.Rule = "--dir"
	if got, err := FindDirs(etc+"/.", false); got != want || err != nil || !got.System() {
		t.Errorf("--dir = the system's: %+v, %v, want %+v", got, err, want)
	}
	t.Setenv("KEYWARD_DIR", etc)
	want.Rule = "$KEYWARD_DIR"
	if got, err := FindDirs("", true); got != want || err != nil {
		t.Errorf("$KEYWARD_DIR = the system's: %+v, %v, want %+v", got, err, want)
	}
	if err := os.Mkdir(filepath.Join(etc, "state"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := FindDirs(etc, false); got.State != filepath.Join(etc, "state") || got.System() || err != nil {
		t.Errorf("with a state in it: %+v, %v", got, err)
	}
}

func TestFindDirsOfClient(t *testing.T) {
	home := lonely(t)
	etc := withoutSystem(t)
	client := func() Dirs {
		t.Helper()
		dirs, err := FindDirs("", true)
		if err != nil {
			t.Fatal(err)
		}
		return dirs
	}
	own := filepath.Join(home, ".keyward")
	if got := client(); got.Config != own {
		t.Errorf("with nothing there: %v", got)
	}
	if err := os.WriteFile(filepath.Join(etc, "config.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := client(); !got.System() || got.Rule != "the system's" {
		t.Errorf("with a system agent only: %+v, want %+v", got, systemDirs)
	}
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	if got := client(); !got.System() {
		t.Errorf("with a system agent and a directory without an agent: %+v", got)
	}
	if err := os.WriteFile(filepath.Join(own, "config.toml"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := client(); got.Config != own || got.Hidden != etc {
		t.Errorf("with an agent of its own: %+v, want %s, which hides %s", got, own, etc)
	}
	t.Setenv("HOME", "") // a service without one
	if got := client(); !got.System() {
		t.Errorf("without a home: %+v", got)
	}
}

func TestSocketPath(t *testing.T) {
	d := Dirs{Config: "/c", Runtime: "/" + strings.Repeat("r", 100)}
	if got, err := d.Socket("/abs/./x.sock"); got != "/abs/x.sock" || err != nil {
		t.Errorf("absolute: %q, %v", got, err)
	}
	if got, err := d.Socket("x.soc"); len(got) != 107 || err != nil {
		t.Errorf("107 bytes: %q, %v", got, err)
	}
	if _, err := d.Socket("x.sock"); err == nil || !strings.Contains(err.Error(),
		"has 108 bytes, and the system allows 107") {
		t.Errorf("108 bytes: %v", err)
	}
	if got := d.Path("pin"); got != "/c/pin" {
		t.Errorf("Path = %q", got)
	}
}
