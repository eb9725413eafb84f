package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/pkcs11"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

func (a *agent) setLogger(w io.Writer) {
	a.level.Set(logLevel(a.conf))
	opts := &slog.HandlerOptions{Level: &a.level}
	if a.conf.Agent.LogFormat == "json" {
		a.log = slog.New(slog.NewJSONHandler(w, opts))
	} else {
		a.log = slog.New(slog.NewTextHandler(w, opts))
	}
}

func logLevel(conf *config.Config) (level slog.Level) {
	_ = level.UnmarshalText([]byte(conf.Agent.LogLevel)) // config knows these names only
	return level
}

// openBackends opens every configured backend. A device that is absent or locked is no
// error: its state says so, and it may come later.
func (a *agent) openBackends(ctx context.Context) error {
	a.backends = map[string]socket.Backend{}
	for _, name := range slices.Sorted(maps.Keys(a.conf.Backends)) {
		b := a.conf.Backends[name]
		backend, err := pkcs11.Open(ctx, pkcs11.Config{
			Name:        name,
			Module:      a.dirs.Path(b.Module),
			Env:         b.Env,
			TokenLabel:  b.Token,
			TokenSerial: b.Serial,
			PIN:         pinSource(a.dirs, b),
			Sessions:    b.Sessions,
			OpTimeout:   b.Timeout,
			Logger:      a.log,
		})
		if err != nil {
			return fmt.Errorf("backend %q: %w", name, err)
		}
		a.backends[name] = socket.Backend{Backend: backend, Type: b.Type}
	}
	return nil
}

// pinSource is where a backend's PIN comes from; nil if only the operator has it.
func pinSource(dirs config.Dirs, b *config.Backend) secret.Source {
	switch {
	case b.PINFile != "":
		return secret.FromFile(dirs.Path(b.PINFile))
	case b.PINCredential != "":
		return secret.FromCredential(b.PINCredential)
	case b.PINEnv != "":
		return secret.FromEnv(b.PINEnv)
	}
	return nil
}

func (a *agent) serverConfig() socket.Config {
	chains := make(map[string]socket.Chain, len(a.conf.Chains))
	for name, c := range a.conf.Chains {
		chains[name] = socket.Chain{ID: c.ID, Validator: c.Validator}
	}
	l := a.conf.Limits
	return socket.Config{
		Signer:   &session.Signer{Sessions: a.sessions},
		Backends: a.backends,
		Chains:   chains,
		Reload:   a.reload,
		Version:  version(),
		Started:  a.started,
		Logger:   a.log,
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
			RefusalsPerSecond:  float64(l.RefusalsPerSecond),
			RefusalBurst:       l.RefusalBurst,
		},
	}
}

// reload reads the configuration again. Only the log level changes at once; that the rest
// needs a restart is logged, if anything else changed.
func (a *agent) reload(context.Context) error {
	conf, err := config.Load(a.dirs.ConfigFile())
	if err != nil {
		return err
	}
	a.level.Set(logLevel(conf))
	conf.Agent.LogLevel = a.conf.Agent.LogLevel
	if !reflect.DeepEqual(conf, a.conf) {
		a.log.Warn("the configuration has changes that take effect when the agent is started again")
	}
	return nil
}

// greet says what the agent is and has, on stderr.
func (t *tool) greet(ctx context.Context, a *agent) {
	if a.conf.Agent.LogFormat == "json" {
		a.log.Info("serving", "version", version(), "dir", a.dirs.Config, "agent", a.app.Addr().String(), "admin", a.admin.Addr().String())
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
	for _, s := range a.sessions.List() {
		byStatus[string(s.Status)]++
	}
	t.note("sessions  %s", strings.TrimSpace(counts(byStatus)))
}
