package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/owned"
	"github.com/keyward/keyward/socket"
	"github.com/keyward/keyward/socket/api"
)

// reload puts the configuration into effect as it is on disk now. After an error everything stays as it was: what can
// fail comes before the swap.
//
// Requests that began before the swap are finished with the configuration and the devices that they began with.
func (p *process) reload(ctx context.Context) (*api.Reloaded, error) {
	p.reloading.Lock()
	defer p.reloading.Unlock()
	old := p.newest.Load()
	next, src, err := p.readAgain(old)
	if err != nil {
		return nil, err
	}
	changed := config.Differences(old.conf, next.conf)
	locks := old.server.Signer.LockVersion()
	next.locked = old.server.Signer.Locked()
	if err := next.prepare(ctx, old, src); err != nil {
		return nil, errors.Join(err, next.discard(ctx, old))
	}
	before, err := old.server.Renew(next.serverConfig(), locks)
	if err != nil {
		return nil, errors.Join(err, next.discard(ctx, old))
	}
	next.server = before.Now()
	p.level.Set(logLevel(next.conf))
	p.newest.Store(next)
	p.handOver(old, next, before)
	return &api.Reloaded{OK: true, Changed: changed, Unlock: next.waitForPIN(ctx)}, nil
}

// readAgain reads the configuration, and refuses what only a start can change.
func (p *process) readAgain(old *agent) (*agent, *config.Source, error) {
	file := p.dirs.ConfigFile()
	if err := owned.Check(file); err != nil {
		return nil, nil, err
	}
	conf, src, err := config.Open(file)
	if err != nil {
		return nil, nil, err
	}
	var fixed []error
	for _, key := range config.NeedsStart(old.conf, conf) {
		fixed = append(fixed, src.Errorf(key, "%s: a change takes effect only when the agent is started again (%s)", key,
			startCommand(p.dirs)))
	}
	return &agent{process: p, conf: conf}, src, errors.Join(fixed...)
}

// prepare opens and tests what next has and old has not, and makes next's view of the sessions. It changes nothing that
// requests use. After an error [agent.discard] closes what it has opened.
func (a *agent) prepare(ctx context.Context, old *agent, src *config.Source) error {
	a.backends = map[string]socket.Backend{}
	for name, b := range a.conf.Backends {
		if reflect.DeepEqual(b, old.conf.Backends[name]) {
			a.backends[name] = old.backends[name]
		}
	}
	if err := a.checkOwned(); err != nil {
		return err
	}
	if err := a.checkSwap(old, src); err != nil {
		return err
	}
	for _, name := range a.fresh(old) {
		if err := a.openBackend(ctx, name); err != nil {
			return src.Errorf("backends."+name, "%v", err)
		}
	}
	cfg, err := a.sessionConfig()
	if err != nil {
		return err
	}
	a.sessions = old.sessions.With(cfg)
	for _, name := range a.fresh(old) {
		if err := a.tryBackend(ctx, name); err != nil {
			return src.Errorf("backends."+name, "backend %q: %v", name, err)
		}
	}
	if err := a.openWatcher(old.watcher); err != nil {
		return err
	}
	if err := a.tryChains(ctx, old, src); err != nil {
		return err
	}
	if err := a.listenMetrics(old.monitors); err != nil {
		return src.Errorf("metrics.listen", "%v", err)
	}
	return nil
}

// fresh names the backends that old has not, or has with other settings, in order.
func (a *agent) fresh(old *agent) (names []string) {
	for _, name := range slices.Sorted(maps.Keys(a.conf.Backends)) {
		if !reflect.DeepEqual(a.conf.Backends[name], old.conf.Backends[name]) {
			names = append(names, name)
		}
	}
	return names
}

// discard closes what prepare has opened for a configuration that is not put into effect. The error says what is left.
func (a *agent) discard(ctx context.Context, old *agent) error {
	var errs []error
	for _, name := range a.fresh(old) {
		b := a.backends[name]
		if b.Backend == nil {
			continue
		}
		if a.sessions != nil && old.conf.Backends[name] == nil { // else old's upkeep has that backend
			errs = append(errs, a.sessions.CleanUp(ctx, name))
		}
		errs = append(errs, b.Close())
	}
	for _, c := range a.clients {
		c.Close()
	}
	for listen, m := range a.monitors {
		if old.monitors[listen] != m {
			m.close()
		}
	}
	return errors.Join(errs...)
}

// handOver has next do what is not part of a request, and closes what only old used, once the requests that began with
// it are over.
func (p *process) handOver(old, next *agent, before *socket.Server) {
	old.stopUpkeep()
	old.kept.Wait()
	next.sessions.Adopt()
	next.startUpkeep()
	next.serveMetrics()
	for listen, m := range old.monitors {
		if next.monitors[listen] != m {
			m.close()
		}
	}
	p.retiring.Go(func() {
		_ = before.Drain(context.Background()) // each request ends in its time
		for name, b := range old.backends {
			if next.backends[name] == b {
				continue
			}
			if err := b.Close(); err != nil {
				p.log.Warn("closing a backend of the configuration before", "backend", name, "error", err)
			}
		}
		for _, c := range old.clients {
			c.Close()
		}
	})
}

// reloadOnSignal is reload, as SIGHUP and systemctl reload (Type=notify-reload) ask for it.
func (a *agent) reloadOnSignal(ctx context.Context) {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // fails for unknown clocks only
	a.notify.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
	defer a.notify.send("READY=1")
	result, err := a.reload(ctx)
	if err != nil {
		a.log.Error("the configuration stays as it was", "error", err)
		return
	}
	rec := audit.Record{Event: audit.AgentReloaded, Detail: map[string]any{"changed": append([]string{},
		result.Changed...)}}
	if err := a.newest.Load().sessions.Record(ctx, rec); err != nil {
		a.log.Error("configuration reloaded, but not recorded", "error", err)
		return
	}
	a.log.Info("configuration reloaded", "changed", strings.Join(result.Changed, ", "), "unlock",
		strings.Join(result.Unlock, ", "))
}
