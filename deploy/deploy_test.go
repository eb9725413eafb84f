// Package deploy_test checks what a package installs, without a build of it. "make install-test" installs it.
package deploy_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// units copies the units into a directory of the test, with drop-ins for the service, and with a command that exists.
func units(t *testing.T, dropIns ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"keyward.service", "keyward.socket", "keyward-admin.socket"} {
		data, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "/usr/bin/keyward", "/bin/true")
		if name == "keyward.service" {
			for _, in := range dropIns {
				more, err := os.ReadFile(filepath.Join("systemd", in))
				if err != nil {
					t.Fatal(err)
				}
				text += "\n" + string(more)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestUnitsVerify(t *testing.T) {
	for _, dropIns := range [][]string{nil, {"local-device.conf"}} {
		dir := units(t, dropIns...)
		out, err := exec.Command("systemd-analyze", "verify", "--man=no",
			filepath.Join(dir, "keyward.service"), filepath.Join(dir, "keyward.socket"),
			filepath.Join(dir, "keyward-admin.socket")).CombinedOutput()
		if err != nil || len(out) > 0 {
			t.Errorf("with %v: systemd-analyze verify: %v\n%s", dropIns, err, out)
		}
	}
}

// The exposure is at most 1.5 as shipped, which is for sockets and clouds, and 2.0 with local devices
// (systemd-analyze(1), security).
func TestUnitExposure(t *testing.T) {
	for _, tt := range []struct {
		tenths  string
		dropIns []string
	}{
		{"15", nil},
		{"20", []string{"local-device.conf"}},
	} {
		out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=yes", "--threshold="+tt.tenths,
			filepath.Join(units(t, tt.dropIns...), "keyward.service")).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Overall exposure level") {
			t.Errorf("with %v: more than %s tenths: %v\n%s", tt.dropIns, tt.tenths, err, out)
		}
	}
}

// The service may confine itself: its filter of system calls lets the calls through that package confine needs.
func TestUnitAllowsConfinement(t *testing.T) {
	unit, err := os.ReadFile("systemd/keyward.service")
	if err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for line := range strings.Lines(string(unit)) {
		names, ok := strings.CutPrefix(strings.TrimSpace(line), "SystemCallFilter=")
		if !ok {
			continue
		}
		names, without := strings.CutPrefix(names, "~")
		for _, name := range strings.Fields(names) {
			for _, call := range systemCalls(t, name) {
				allowed[call] = !without
			}
		}
	}
	if !allowed["openat"] || allowed["mount"] {
		t.Fatalf("the filter is read wrongly: openat %v, mount %v", allowed["openat"], allowed["mount"])
	}
	for _, call := range []string{"seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
		"prctl"} {
		if !allowed[call] {
			t.Errorf("SystemCallFilter= refuses %s", call)
		}
	}
}

// systemCalls returns the calls that an entry of SystemCallFilter= means (systemd.exec(5)).
func systemCalls(t *testing.T, name string) []string {
	t.Helper()
	if !strings.HasPrefix(name, "@") {
		return []string{name}
	}
	out, err := exec.Command("systemd-analyze", "syscall-filter", "--no-pager", name).Output()
	if err != nil {
		t.Fatalf("systemd-analyze syscall-filter %s: %v", name, err)
	}
	var calls []string
	for line := range strings.Lines(string(out)) {
		entry, indented := strings.CutPrefix(line, "    ")
		if entry = strings.TrimSpace(entry); indented && entry != "" && !strings.HasPrefix(entry, "#") {
			calls = append(calls, systemCalls(t, entry)...)
		}
	}
	return calls
}

// What the units and the maintainers need is in the packages.
func TestPackageNamesWhatIsThere(t *testing.T) {
	data, err := os.ReadFile("nfpm.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		"systemd/keyward.service", "systemd/keyward.socket", "systemd/keyward-admin.socket", "systemd/local-device.conf",
		"sysusers.conf", "tmpfiles.conf", "polkit/keyward.rules", "debian/postinst", "debian/prerm", "debian/postrm",
	} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		if !strings.Contains(string(data), "deploy/"+path) {
			t.Errorf("no package has deploy/%s", path)
		}
	}
}

// The maintainers' scripts are correct shell.
func TestScripts(t *testing.T) {
	for _, pattern := range []string{"debian/p*", "debian/config", "rpm/*", "../scripts/packages",
		"../scripts/install-test", "../scripts/container-*"} {
		scripts, err := filepath.Glob(pattern)
		if err != nil || len(scripts) == 0 {
			t.Fatalf("%s: nothing there (%v)", pattern, err)
		}
		for _, script := range scripts {
			if out, err := exec.Command("bash", "-n", script).CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", script, err, out)
			}
		}
	}
}
