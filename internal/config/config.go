// Package config reads an agent's one configuration file and says where its
// other files are.
//
// The file is TOML and read strictly: an unknown key, a value of the wrong type or
// one that makes no sense is an error with line and column, and where a name is mistyped
// the nearest known one. Every key, its meaning and its default stand in one
// place, the tables in schema.go; [Template] and the operator's guide are made of them.
package config

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/rules"
)

// Config is a whole configuration file, with defaults where it says nothing.
// Paths are as written; [Dirs] makes them absolute.
type Config struct {
	Agent    Agent
	Session  Session
	Watch    Watch
	Limits   Limits
	Metrics  Metrics
	Audit    Audit
	Confine  Confine
	Approval Approval
	Backends map[string]*Backend // by name
	Chains   map[string]*Chain   // by name; the built-in ones too
	Rules    []rules.Rule        // in their order
	Guard    *rules.Set          // Rules, compiled; nil: none
}

// Agent is what concerns the process as a whole.
type Agent struct {
	Socket      string      // for apps
	SocketMode  fs.FileMode // of Socket
	AdminSocket string      // for the operator; its mode is always 0600
	LogLevel    string      // "debug", "info", "warn" or "error"
	LogFormat   string      // "text", "json" or "auto"

	ShutdownTimeout time.Duration // for answers in flight when the agent stops
}

// Session is what holds for every session.
type Session struct {
	ExpiryMargin time.Duration // a session ends this long before its spec's expiresAt
	KeyGrace     time.Duration // an ended session's key is destroyed after this
	MaxLifetime  time.Duration // of a session, beyond which its making is warned of; 0: any
	WarnAhead    time.Duration // of limits that run out and sessions that end; 0: never
}

// Audit is when a new segment of the audit trail begins.
type Audit struct {
	SegmentSize Size          // of a segment
	SegmentAge  time.Duration // of its first record; 0: any
}

// Limits bound what clients can make the agent hold or do; see socket.Limits.
type Limits struct {
	Connections       int           // open at once, on each socket
	InFlight          int           // requests being worked on
	InFlightPerConn   int           // the same, of one connection
	InFlightBytes     Size          // of requests being read or worked on
	MessageBytes      Size          // one JSON document or HTTP body
	Depth             int           // nesting of a JSON document
	Batch             int           // requests in a JSON-RPC batch
	PendingOutput     Size          // answers that a user does not fetch
	RequestTimeout    time.Duration // for one request
	WriteTimeout      time.Duration // for a client to take an answer
	RefusalsPerSecond int           // with an audit record of their own; see session.Config
	RefusalBurst      int           // how many of these may come together
}

// ChainNamed finds a chain by its name or its ID in decimal. The error names the nearest one.
func (c *Config) ChainNamed(s string) (string, *Chain, error) {
	if chain := c.Chains[s]; chain != nil {
		return s, chain, nil
	}
	names := slices.Sorted(maps.Keys(c.Chains))
	for _, name := range names {
		if fmt.Sprint(c.Chains[name].ID) == s {
			return name, c.Chains[name], nil
		}
	}
	return "", nil, fmt.Errorf("unknown chain %q%s", s, suggest.DidYouMean(s, names))
}

// Load reads the file at path. What is wrong in it is an *[Error].
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading configuration: %w", err)
	}
	return Parse(data, path)
}

// An Error is something wrong in a configuration file, and where.
type Error struct {
	File         string
	Line, Column int // from 1
	Msg          string
	Err          error // what went wrong when the setting was used; nil: the file itself is wrong
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
}

func (e *Error) Unwrap() error { return e.Err }
