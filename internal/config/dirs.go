package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Dirs are the directories of one agent. They are one and the same, but for an
// agent that runs as a system service.
type Dirs struct {
	Config  string // config.toml, and what relative paths in it start from
	State   string // ledger and audit trail
	Runtime string // sockets, if their paths are relative

	Rule   string // by which [FindDirs] found them, for a person
	Hidden string // the configuration directory of another agent, which that rule passes over; "": none
}

// The places of a system service (file-hierarchy(7)).
var systemDirs = Dirs{Config: "/etc/keyward", State: "/var/lib/keyward", Runtime: "/run/keyward"}

// OneDir is an agent with everything below dir.
func OneDir(dir string) (Dirs, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Dirs{}, fmt.Errorf("resolving directory %q: %w", dir, err)
	}
	return Dirs{Config: abs, State: filepath.Join(abs, "state"), Runtime: abs}, nil
}

// FindDirs finds the agent that a command is about. The first rule that fits decides:
//
//  1. dir, which is what --dir says
//  2. $KEYWARD_DIR
//  3. what systemd says if it started this process (systemd.exec(5), ConfigurationDirectory=)
//  4. ~/.keyward, if it has a configuration
//  5. the system's agent, if /etc/keyward has a configuration; only for a client
//  6. ~/.keyward
//
// A client is every command but those that make or run an agent. The directory /etc/keyward names the system's agent
// also in the first two rules, unless it has a directory state: then all of an agent is there.
func FindDirs(dir string, client bool) (Dirs, error) {
	if dir != "" {
		return namedDirs(dir, "--dir")
	}
	if dir := os.Getenv("KEYWARD_DIR"); dir != "" {
		return namedDirs(dir, "$KEYWARD_DIR")
	}
	if dirs, ok := serviceDirs(os.Getenv); ok {
		dirs.Rule = "systemd's variables"
		return dirs, nil
	}
	home, err := os.UserHomeDir()
	if err != nil && client && systemDirs.Configured() {
		return systemAgent("the system's"), nil
	}
	if err != nil {
		return Dirs{}, errors.New("no home directory: give --dir")
	}
	own, err := OneDir(filepath.Join(home, ".keyward"))
	if err != nil {
		return Dirs{}, err
	}
	if client && !own.Configured() && systemDirs.Configured() {
		return systemAgent("the system's"), nil
	}
	own.Rule = "the user's own"
	if systemDirs.Configured() {
		own.Hidden = systemDirs.Config
	}
	return own, nil
}

// namedDirs is the agent in a directory that was named.
func namedDirs(dir, rule string) (Dirs, error) {
	dirs, err := OneDir(dir)
	if err == nil && dirs.Config == systemDirs.Config && !exists(dirs.State) {
		return systemAgent(rule), nil
	}
	dirs.Rule = rule
	return dirs, err
}

func systemAgent(rule string) Dirs {
	dirs := systemDirs
	dirs.Rule = rule
	return dirs
}

// System reports whether this is the system's agent, which the service keyward runs.
func (d Dirs) System() bool { return d.Config == systemDirs.Config && d.State == systemDirs.State }

// serviceDirs reads what systemd sets for a service; ok is false if it set nothing.
func serviceDirs(getenv func(string) string) (dirs Dirs, ok bool) {
	dirs = systemDirs
	for _, v := range []struct {
		name string
		dst  *string
	}{
		{"CONFIGURATION_DIRECTORY", &dirs.Config},
		{"STATE_DIRECTORY", &dirs.State},
		{"RUNTIME_DIRECTORY", &dirs.Runtime},
	} {
		// Several directories are separated by colons; the first is the service's own.
		if first, _, _ := strings.Cut(getenv(v.name), ":"); first != "" {
			*v.dst, ok = first, true
		}
	}
	return dirs, ok
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// ConfigFile is the configuration's path.
func (d Dirs) ConfigFile() string { return filepath.Join(d.Config, "config.toml") }

// Configured reports whether there is a configuration, readable or not.
func (d Dirs) Configured() bool { return exists(d.ConfigFile()) }

// Ledger is the directory of the sessions and what they have used. Until keyward 0.3 it was a file of the same name
// and .db; since then that is a mark for older versions.
func (d Dirs) Ledger() string { return filepath.Join(d.State, "ledger") }

// AuditTrail is the audit trail's path.
func (d Dirs) AuditTrail() string { return filepath.Join(d.State, "audit.jsonl") }

// LockFile is the path of the file whose existence says that the operator has locked the agent.
func (d Dirs) LockFile() string { return filepath.Join(d.State, "locked") }

// Keys is where a backend keeps the keys that it seals.
func (d Dirs) Keys(backend string) string { return filepath.Join(d.State, "keys", backend) }

// CardLocks is where backends that share a card have its lock.
func (d Dirs) CardLocks() string { return filepath.Join(d.State, "cards") }

// DeviceCounts is the file with what devices have counted.
func (d Dirs) DeviceCounts() string { return filepath.Join(d.State, "device-counts.json") }

// PINTries is where tries of PINs are noted whose devices have no retry counter that can be read.
func (d Dirs) PINTries() string { return filepath.Join(d.State, "pin-tries") }

// Used reports whether an agent has left any state.
func (d Dirs) Used() bool {
	return exists(d.Ledger()) || exists(d.Ledger()+".db") || exists(d.AuditTrail())
}

// Path makes a path in the configuration absolute.
func (d Dirs) Path(p string) string { return under(d.Config, p) }

// maxSocketPath is the longest path a Unix socket can have: sun_path has 108
// bytes, one of them the closing zero (unix(7)).
const maxSocketPath = 107

// Socket makes a socket's path in the configuration absolute.
func (d Dirs) Socket(p string) (string, error) {
	p = under(d.Runtime, p)
	if len(p) > maxSocketPath {
		return "", fmt.Errorf("socket path %s has %d bytes, and the system allows %d: use a shorter directory, or set "+
			"socket and admin_socket to shorter paths",
			p, len(p), maxSocketPath)
	}
	return p, nil
}

func under(dir, p string) string {
	if filepath.IsAbs(p) {
		return filepath.Clean(p)
	}
	return filepath.Join(dir, p)
}
