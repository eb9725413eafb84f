package command

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

func (a *agent) setLogger(w io.Writer) {
	a.level.Set(logLevel(a.conf))
	opts := &slog.HandlerOptions{Level: &a.level}
	if a.logsJSON() {
		a.log = slog.New(slog.NewJSONHandler(w, opts))
	} else {
		a.log = slog.New(slog.NewTextHandler(w, opts))
	}
}

// logsJSON reports whether the log is JSON: if the configuration says so, or says nothing and systemd reads the log,
// which sets JOURNAL_STREAM (systemd.exec(5)).
func (a *agent) logsJSON() bool {
	format := a.conf.Agent.LogFormat
	return format == "json" || format == "auto" && os.Getenv("JOURNAL_STREAM") != ""
}

func logLevel(conf *config.Config) (level slog.Level) {
	_ = level.UnmarshalText([]byte(conf.Agent.LogLevel)) // config knows these names only
	return level
}

func (a *agent) serverConfig() socket.Config {
	chains := make(map[string]socket.Chain, len(a.conf.Chains))
	nodeRules := make(map[uint64]zktx.ChainRules, len(a.conf.Chains))
	for name, c := range a.conf.Chains {
		chains[name] = socket.Chain{ID: c.ID, Validator: c.Validator}
		nodeRules[c.ID] = zktx.ChainRules{Kind: c.Kind, Fork: c.Fork, MaxGasLimit: c.MaxGasLimit,
			MaxTxSize: uint64(c.MaxTxSize)}
	}
	l := a.conf.Limits
	signer := &session.Signer{Sessions: a.sessions, Watcher: a.watcher, Rules: nodeRules}
	signer.Guard.Store(a.conf.Guard)
	return socket.Config{
		Signer:   signer,
		Backends: a.backends,
		Chains:   chains,
		Reload:   a.reload,
		Version:  version(),
		Started:  a.started,
		Confined: a.protections,
		Logger:   a.log,
		Observe:  a.metrics.Request,
		Limits: socket.Limits{
			MaxMessage:         int(l.MessageBytes),
			MaxDepth:           l.Depth,
			MaxBatch:           l.Batch,
			MaxConnections:     l.Connections,
			MaxInFlight:        l.InFlight,
			MaxInFlightPerConn: l.InFlightPerConn,
			MaxInFlightBytes:   int(l.InFlightBytes),
			MaxPendingOutput:   int(l.PendingOutput),
			WriteTimeout:       l.WriteTimeout,
			RequestTimeout:     l.RequestTimeout,
		},
	}
}

// greet says what the agent is and has, on stderr.
func (t *tool) greet(ctx context.Context, a *agent) {
	if a.logsJSON() {
		a.log.Info("serving", "version", version(), "dir", a.dirs.Config, "agent", a.app.Addr().String(), "admin",
			a.admin.Addr().String())
		return
	}
	t.note("version %s, directory %s", version(), a.dirs.Config)
	t.note("apps      %s", a.app.Addr())
	t.note("operator  %s", a.admin.Addr())
	for _, name := range slices.Sorted(maps.Keys(a.backends)) {
		state := backends.Status{State: "open"}
		if p, ok := a.backends[name].Backend.(backends.Prober); ok {
			state = p.Status(ctx)
		}
		t.note("backend   %s: %s", name, joined(state.State, state.Detail))
		if state.State == "locked" {
			t.hint("keyward unlock --dir %s", a.dirs.Config)
		}
	}
	byStatus := map[string]int{}
	for status, n := range a.sessions.Counts() {
		byStatus[string(status)] = n
	}
	t.note("sessions  %s", strings.TrimSpace(counts(byStatus)))
}
