// Package pgtest runs PostgreSQL servers for tests: each has a directory and a Unix socket of its own, and nobody else
// reaches it.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is for what takes a second on an idle machine.
const patience = 2 * time.Minute

// Server is a PostgreSQL server. Its superuser is "postgres"; every role connects without a password.
type Server struct {
	t    testing.TB
	dir  string // with the data in "data" and the socket beside it
	data string
	sync bool // its writes survive a power cut
}

// Option changes how a server is started.
type Option func(*Server)

// Durable makes the server sync what it writes, as in production. Without it a test is faster; a process that is killed
// loses nothing either way.
func Durable(s *Server) { s.sync = true }

// Start starts a server and stops it when the test ends. A missing installation is fatal: scripts/deps installs it.
func Start(t testing.TB, options ...Option) *Server {
	t.Helper()
	s := newServer(t, options...)
	s.run("initdb", "-D", s.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
	s.configure("max_connections = 100", "max_wal_senders = 8", "wal_level = replica", "wal_log_hints = on")
	s.begin()
	return s
}

// newServer makes the directory of a server.
func newServer(t testing.TB, options ...Option) *Server {
	t.Helper()
	dir, err := os.MkdirTemp("", "kwpg") // short: the path of a Unix socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{t: t, dir: dir, data: filepath.Join(dir, "data")}
	for _, o := range options {
		o(s)
	}
	if who := account(); who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return s
}

// begin starts the server for the first time and sees to its end.
func (s *Server) begin() {
	s.t.Helper()
	s.t.Cleanup(func() {
		if s.Running() {
			s.Stop("immediate")
		}
	})
	s.Start()
}

// account is the one that the server runs as: it refuses to run as root.
func account() *syscall.Credential {
	if os.Geteuid() != 0 {
		return nil
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534} // nobody
}

// programs is the directory of PostgreSQL's programs, the newest version's.
var programs = sync.OnceValue(func() string {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	newest, dir := 0, ""
	for _, path := range found {
		bin := filepath.Dir(path)
		if version, err := strconv.Atoi(filepath.Base(filepath.Dir(bin))); err == nil && version > newest {
			newest, dir = version, bin
		}
	}
	return dir
})

// run runs one of PostgreSQL's programs as the server's account.
func (s *Server) run(name string, args ...string) {
	s.t.Helper()
	if out, err := s.try(name, args...); err != nil {
		s.t.Fatalf("%s %s: %v\n%s\n%s", name, strings.Join(args, " "), err, out, s.log())
	}
}

func (s *Server) try(name string, args ...string) ([]byte, error) {
	if programs() == "" {
		return nil, fmt.Errorf("PostgreSQL is not installed: run scripts/deps test")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(programs(), name), args...)
	cmd.Dir = s.dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: account()}
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C", "TZ=UTC"}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	return out.Bytes(), err
}

// configure appends lines to the server's configuration.
func (s *Server) configure(lines ...string) {
	s.t.Helper()
	lines = append(lines, "listen_addresses = ''", "unix_socket_directories = '"+s.dir+"'", "shared_buffers = 32MB",
		"autovacuum_naptime = 10s", "logging_collector = off")
	if !s.sync {
		lines = append(lines, "fsync = off", "full_page_writes = off")
	}
	s.Set(lines...)
}

// Set appends lines to the server's configuration. They count after [Server.Reload] or the next start.
func (s *Server) Set(lines ...string) {
	s.t.Helper()
	f, err := os.OpenFile(filepath.Join(s.data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Join(lines, "\n") + "\n"); err != nil {
		s.t.Fatal(err)
	}
}

// Reload makes the server read its configuration.
func (s *Server) Reload() { s.t.Helper(); s.run("pg_ctl", "-D", s.data, "reload") }

// Start starts a server that was stopped and returns when it answers.
func (s *Server) Start() {
	s.t.Helper()
	s.run("pg_ctl", "-D", s.data, "-l", filepath.Join(s.dir, "log"), "-w", "-t", strconv.Itoa(int(patience/time.Second)),
		"start")
}

// Stop stops the server; mode is "fast", or "immediate" for a crash.
func (s *Server) Stop(mode string) {
	s.t.Helper()
	s.run("pg_ctl", "-D", s.data, "-m", mode, "-w", "-t", strconv.Itoa(int(patience/time.Second)), "stop")
}

// Running reports whether the server runs.
func (s *Server) Running() bool {
	_, err := s.try("pg_ctl", "-D", s.data, "status")
	return err == nil
}

// Promote makes a standby the primary of a new timeline.
func (s *Server) Promote() {
	s.t.Helper()
	s.run("pg_ctl", "-D", s.data, "-w", "-t", strconv.Itoa(int(patience/time.Second)), "promote")
}

// Standby starts a standby that follows s under a name. It is asynchronous until s's synchronous_standby_names has its
// name.
func (s *Server) Standby(name string) *Server {
	s.t.Helper()
	b := newServer(s.t)
	b.sync = s.sync
	b.run("pg_basebackup", "-D", b.data, "-h", s.dir, "-U", "postgres", "-X", "stream", "-c", "fast", "-N")
	b.configure("hot_standby = on",
		fmt.Sprintf("primary_conninfo = 'host=%s user=postgres application_name=%s'", s.dir, name))
	if err := os.WriteFile(filepath.Join(b.data, "standby.signal"), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if who := account(); who != nil {
		if err := os.Chown(filepath.Join(b.data, "standby.signal"), int(who.Uid), int(who.Gid)); err != nil {
			s.t.Fatal(err)
		}
	}
	b.begin()
	return b
}

// URL is where role connects to a database of the servers, the first that takes writes.
func URL(role, database string, servers ...*Server) string {
	var hosts []string
	for _, s := range servers {
		hosts = append(hosts, s.dir)
	}
	q := url.Values{"host": {strings.Join(hosts, ",")}, "user": {role}, "target_session_attrs": {"read-write"}}
	return "postgres:///" + database + "?" + q.Encode()
}

// URL is where role connects to a database of s.
func (s *Server) URL(role, database string) string { return URL(role, database, s) }

// log is the end of the server's log.
func (s *Server) log() string {
	b, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(b[max(0, len(b)-4000):])
}
