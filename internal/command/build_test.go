package command

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dependencies are the packages that the agent is built from with those tags.
func dependencies(t *testing.T, tags string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-deps", "-tags", tags, ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// go-ethereum's core/types brings in KZG and gnark, two megabytes of cryptography that the agent has no use for.
// accounts/abi, with which explain decodes calls, does without them.
func TestNoKZG(t *testing.T) {
	unwanted := regexp.MustCompile(`(?m)^.*(gnark|kzg|blst|go-ethereum/core|go-ethereum/accounts).*$`)
	found := unwanted.FindAllString(dependencies(t, ""), -1)
	found = slices.DeleteFunc(found, func(name string) bool { return strings.HasSuffix(name, "/accounts/abi") })
	if len(found) > 0 {
		t.Errorf("the agent is built from %q", found)
	}
}

// PC/SC and PKCS#11 libraries are loaded when they are needed, so that the agent starts without them.
func TestLinksNoDeviceLibrary(t *testing.T) {
	self, err := os.Executable() // is made of all that the agent is
	if err != nil {
		t.Fatal(err)
	}
	program, err := elf.Open(self)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	linked, err := program.ImportedLibraries()
	if err != nil || slices.ContainsFunc(linked, func(name string) bool {
		return !strings.HasPrefix(name, "libc.") && !strings.HasPrefix(name, "libresolv.")
	}) {
		t.Errorf("linked are %q, %v, want nothing beyond the C library", linked, err)
	}
}

// Each cloud can be left out, alone and with the others; then its SDK is gone, and only its.
func TestBuildTags(t *testing.T) {
	sdks := map[string]*regexp.Regexp{
		"noaws":   regexp.MustCompile(`(?m)^github\.com/aws/`),
		"noazure": regexp.MustCompile(`(?m)^github\.com/Azure`),
		// the ledger's store has google.golang.org/protobuf, and CEL some of genproto
		"nogcp": regexp.MustCompile(`(?m)^(cloud\.google\.com|google\.golang\.org/(api|grpc))/`),
	}
	const all = "noaws noazure nogcp"
	for _, tags := range []string{"noaws", "noazure", "nogcp", all} {
		deps := dependencies(t, tags)
		for tag, sdk := range sdks {
			if want := tag != tags && tags != all; sdk.MatchString(deps) != want {
				t.Errorf("-tags %q: has packages like %v = %v, want %v", tags, sdk, !want, want)
			}
		}
		// What compiles links: the tags change only which files are compiled.
		if out, err := exec.Command("go", "list", "-export", "-tags", tags, ".").CombinedOutput(); err != nil {
			t.Errorf("-tags %q: %v\n%s", tags, err, out)
		}
	}
}

// "go install …/cmd/keyward" gives a program of that name, which is this package.
func TestInstall(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"keyward", "agent"} {
		install := exec.Command("go", "install", "-ldflags", "-X github.com/keyward/keyward/internal/command.release=1.2.3",
			"github.com/keyward/keyward/cmd/"+name)
		install.Env = append(os.Environ(), "GOBIN="+bin)
		if out, err := install.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", install, err, out)
		}
		out, err := exec.Command(filepath.Join(bin, name), "version").Output()
		if err != nil || !strings.HasPrefix(string(out), "keyward 1.2.3 ") {
			t.Errorf("%s version = %q, %v; want keyward 1.2.3", name, out, err)
		}
	}
}
