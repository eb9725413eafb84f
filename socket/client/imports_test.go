package client_test

import (
	"os/exec"
	"strings"
	"testing"
)

// An app that imports the client must not get the agent with it.
func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, dep := range strings.Fields(string(out)) {
		for _, banned := range []string{"go.etcd.io/bbolt", "keyward/session", "keyward/backends", "keyward/audit",
			"miekg/pkcs11"} {
			if strings.Contains(dep, banned) {
				t.Errorf("the client imports %s", dep)
			}
		}
	}
}
