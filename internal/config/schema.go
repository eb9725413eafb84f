package config

import (
	"time"
)

// A field is one key of a section: its name, where its value goes (which also
// says its type, and holds its default), and what it means.
type field struct {
	key string
	dst any      // pointer; see [document.assign] for the types
	one []string // if not nil, the only values allowed
	doc string

	serial bool // a serial number: an integer or a string of digits, whichever dst is
	single bool // a list of which one item may stand without brackets
}

// Defaults returns what a file that says nothing means. Without a backend the
// agent can hold no keys, so this alone is no valid configuration.
func Defaults() *Config {
	return &Config{
		Agent: Agent{
			Socket:      "agent.sock",
			SocketMode:  0o660,
			AdminSocket: "admin.sock",
			LogLevel:    "info",
			LogFormat:   "auto",

			ShutdownTimeout: 10 * time.Second,
		},
		Session: Session{
			ExpiryMargin: 60 * time.Second,
			KeyGrace:     24 * time.Hour,
			WarnAhead:    72 * time.Hour,
		},
		Watch: defaultWatch(),
		Limits: Limits{
			Connections:       16384,
			InFlight:          4096,
			InFlightPerConn:   1024,
			InFlightBytes:     64 << 20,
			MessageBytes:      1 << 20,
			Depth:             64,
			Batch:             100,
			PendingOutput:     16 << 20,
			RequestTimeout:    60 * time.Second,
			WriteTimeout:      30 * time.Second,
			RefusalsPerSecond: 20,
			RefusalBurst:      2000,
		},
		Audit:   Audit{SegmentSize: 64 << 20},
		Metrics: Metrics{Listen: []string{}, SocketMode: 0o660},
		Confine: Confine{Files: true, Calls: true, Read: []string{}, Write: []string{}, Devices: []string{},
			Execute: []string{}},
		Approval: Approval{Required: 1, Timeout: 5 * time.Minute},
		Backends: map[string]*Backend{},
		Chains:   builtInChains(),
	}
}

func (a *Agent) fields() []field {
	return []field{
		{key: "socket", dst: &a.Socket, doc: "Unix socket for apps"},
		{key: "socket_mode", dst: &a.SocketMode, doc: "permissions of the app socket; who may use a session is checked " +
			"apart from them"},
		{key: "admin_socket", dst: &a.AdminSocket, doc: "Unix socket for the operator, always 0600"},
		{key: "log_level", dst: &a.LogLevel, one: []string{"debug", "info", "warn", "error"},
			doc: "debug, info, warn or error"},
		{key: "log_format", dst: &a.LogFormat, one: []string{"auto", "text", "json"},
			doc: "text, json, or auto: json under systemd"},
		{key: "shutdown_timeout", dst: &a.ShutdownTimeout, doc: "for answers in flight when the agent stops"},
	}
}

func (s *Session) fields() []field {
	return []field{
		{key: "expiry_margin", dst: &s.ExpiryMargin, doc: "stop signing this long before a session's expiresAt; nodes " +
			"refuse the last 60s"},
		{key: "key_grace", dst: &s.KeyGrace, doc: "destroy an ended session's key in the device after this"},
		{key: "max_lifetime", dst: &s.MaxLifetime, doc: "warn of a session that is made to last longer; 0s: of none"},
		{key: "warn_ahead", dst: &s.WarnAhead, doc: "warn in the log this long before a limit is used up or a session ends"},
	}
}

func (a *Audit) fields() []field {
	return []field{
		{key: "segment_size", dst: &a.SegmentSize, doc: "begin a new segment of the audit trail at this size"},
		{key: "segment_age", dst: &a.SegmentAge, doc: "and when its first record is this old; 0s: at any age"},
	}
}

func (l *Limits) fields() []field {
	return []field{
		{key: "connections", dst: &l.Connections, doc: "open at once, on each socket; fewer where the limit on open files " +
			"is low"},
		{key: "in_flight", dst: &l.InFlight, doc: "requests being worked on"},
		{key: "in_flight_per_connection", dst: &l.InFlightPerConn, doc: "the same, of one connection"},
		{key: "in_flight_bytes", dst: &l.InFlightBytes, doc: "size of all requests of more than 16 KiB being read or " +
			"worked on"},
		{key: "message_bytes", dst: &l.MessageBytes, doc: "size of one request"},
		{key: "depth", dst: &l.Depth, doc: "nesting of a request's JSON"},
		{key: "batch", dst: &l.Batch, doc: "requests in one JSON-RPC batch"},
		{key: "pending_output_bytes", dst: &l.PendingOutput,
			doc: "size of answers that a user does not fetch, over all its connections"},
		{key: "request_timeout", dst: &l.RequestTimeout, doc: "to answer one request"},
		{key: "write_timeout", dst: &l.WriteTimeout, doc: "for a client to take its answer"},
		{key: "refusals_per_second", dst: &l.RefusalsPerSecond,
			doc: "refusals with an audit record of their own, of all users together; more are only counted"},
		{key: "refusal_burst", dst: &l.RefusalBurst, doc: "how many of these may come together"},
	}
}
