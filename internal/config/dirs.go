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

// FindDirs says where an agent is: in dir (from --dir) if that is given, else in
// $KEYWARD_DIR, else where systemd says if it started us (systemd.exec(5),
// RuntimeDirectory=), else in ~/.keyward. A client, which systemd does not start,
// falls back on the system's agent if there is no ~/.keyward.
func FindDirs(dir string, client bool) (Dirs, error) {
	if dir == "" {
		dir = os.Getenv("KEYWARD_DIR")
	}
	if dir != "" {
		return OneDir(dir)
	}
	if dirs, ok := serviceDirs(os.Getenv); ok {
		return dirs, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return Dirs{}, errors.New("no home directory: give --dir")
	}
	own := filepath.Join(home, ".keyward")
	if client && !exists(own) && systemDirs.Configured() {
		return systemDirs, nil
	}
	return OneDir(own)
}

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
		return "", fmt.Errorf("socket path %s has %d bytes, and the system allows %d: use a shorter directory, or set socket and admin_socket to shorter paths",
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
