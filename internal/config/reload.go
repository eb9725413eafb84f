package config

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
)

// A Source is a configuration file that was read. It says where in it a key stands.
type Source struct{ doc *document }

// Open is [Load], and also returns the file's Source.
func Open(file string) (*Config, *Source, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, fmt.Errorf("reading configuration: %w", err)
	}
	c, err := Parse(data, file)
	if err != nil {
		return nil, nil, err
	}
	return c, &Source{&document{file: file, at: positions(data)}}, nil
}

// Errorf makes an error about a key, "agent.socket", or a section, "backends.hsm". Its place is the key's, or that of
// the innermost section around it that the file has.
func (s *Source) Errorf(key, format string, args ...any) *Error {
	return s.doc.errorf(strings.Split(key, "."), format, args...)
}

// startKeys are the keys whose changes take effect only when the agent is started, by section. The others take effect
// with a reload.
var startKeys = map[string][]string{
	"agent":    {"socket", "socket_mode", "admin_socket", "log_format"},
	"approval": {"socket", "group", "hook"},
	"confine":  nil, // all of them: what a process has given up it can't take back
}

// NeedsStart lists the keys that differ in two configurations, and whose changes only a start puts into effect:
// "agent.socket".
func NeedsStart(running, next *Config) (keys []string) {
	sections := []struct {
		name string
		a, b []field
	}{
		{"agent", running.Agent.fields(), next.Agent.fields()},
		{"approval", running.Approval.fields(), next.Approval.fields()},
		{"confine", running.Confine.fields(), next.Confine.fields()},
	}
	for _, s := range sections {
		fixed := startKeys[s.name]
		for i, f := range s.a {
			if (fixed == nil || slices.Contains(fixed, f.key)) && !reflect.DeepEqual(f.dst, s.b[i].dst) {
				keys = append(keys, s.name+"."+f.key)
			}
		}
	}
	return append(keys, backendsNeedStart(running, next)...)
}

// backendsNeedStart is the part of [NeedsStart] about backends: a PIN that only the environment of the process had at
// its start, a PIN that the operator would have to type again, and a library that this process can load once only.
func backendsNeedStart(running, next *Config) (keys []string) {
	for name, b := range next.Backends {
		old := running.Backends[name]
		if reflect.DeepEqual(old, b) {
			continue
		}
		pin, key := b.PIN(), "backends."+name
		switch {
		case pin != nil && pin.Env != "":
			keys = append(keys, key+".pin_env")
		case pin != nil && pin.Prompt && old != nil:
			keys = append(keys, key+".pin_prompt")
		case inAgent(b) && anyInAgent(running, b):
			keys = append(keys, key+".process")
		}
	}
	slices.Sort(keys)
	return keys
}

// inAgent reports whether the backend's library runs in the agent's own process.
func inAgent(b *Backend) bool {
	p11, ok := b.Settings.(*PKCS11)
	return ok && p11.Process == AgentProcess
}

// anyInAgent reports whether the running agent has the library of b in its own process.
func anyInAgent(running *Config, b *Backend) bool {
	module := b.Settings.(*PKCS11).Module
	for _, other := range running.Backends {
		if inAgent(other) && other.Settings.(*PKCS11).Module == module {
			return true
		}
	}
	return false
}
