package config

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// What only a start can change is named, and nothing else is.
func TestNeedsStart(t *testing.T) {
	const hsm = "[backends.hsm]\ntype = \"pkcs11\"\nmodule = \"/m.so\"\ntoken = \"t\"\n"
	for _, tt := range []struct {
		name, running, next string
		want                []string
	}{
		{"nothing", hsm + "pin_prompt = true", hsm + "pin_prompt = true", nil},
		{"what a reload changes", hsm + "pin_file = \"p\"",
			"[limits]\ndepth = 65\n[agent]\nlog_level = \"debug\"\nshutdown_timeout = \"1s\"\n[metrics]\nlisten = \"m.sock\"\n" +
				hsm + "pin_file = \"q\"", nil},
		{"sockets and the log's form", hsm + "pin_file = \"p\"",
			"[agent]\nsocket = \"a\"\nadmin_socket = \"b\"\nsocket_mode = \"0600\"\nlog_format = \"json\"\n" + hsm +
				"pin_file = \"p\"",
			[]string{"agent.socket", "agent.socket_mode", "agent.admin_socket", "agent.log_format"}},
		{"what it gave up", hsm + "pin_file = \"p\"", "[confine]\nread = [\"/x\"]\n" + hsm + "pin_file = \"p\"",
			[]string{"confine.read"}},
		{"a PIN that is typed", hsm + "pin_prompt = true", hsm + "pin_prompt = true\ntimeout = \"3s\"",
			[]string{"backends.hsm.pin_prompt"}},
		{"a new backend whose PIN is typed", hsm + "pin_prompt = true", hsm + "pin_prompt = true\n" +
			strings.Replace(hsm, "hsm", "new", 1) + "pin_prompt = true", nil},
		{"a PIN of the environment", hsm + "pin_file = \"p\"", hsm + "pin_env = \"P\"", []string{"backends.hsm.pin_env"}},
		{"a library in the agent", hsm + "pin_file = \"p\"\nprocess = \"agent\"", hsm +
			"pin_file = \"p\"\nprocess = \"agent\"\nsessions = 3", []string{"backends.hsm.process"}},
		{"a library that the agent has not loaded", hsm + "pin_file = \"p\"", hsm + "pin_file = \"p\"\nprocess = \"agent\"",
			nil},
	} {
		running, err := Parse([]byte(tt.running), "running")
		if err != nil {
			t.Fatal(err)
		}
		next, err := Parse([]byte(tt.next), "next")
		if err != nil {
			t.Fatal(err)
		}
		if got := NeedsStart(running, next); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

// An error about a key stands where the key does, or its section, or at the beginning.
func TestSource(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(file, []byte("[limits]\ndepth = 3\n[backends.tpm]\ntype = \"tpm\"\nhandle = "+
		"\"0x81000001\"\nkey = \"ecc\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	src := &Source{&document{file: file, at: positions(data)}}
	for key, want := range map[string]string{"limits.depth": ":2:1: no", "backends.tpm": ":3:11: no",
		"backends.tpm.pin_file": ":3:11: no", "chains.x": ":1:1: no"} {
		if err := src.Errorf(key, "no"); err.Error() != file+want {
			t.Errorf("%s: %v, want %s", key, err, want)
		}
	}
}
