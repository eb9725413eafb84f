package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/internal/metrics"
	"github.com/keyward/keyward/internal/owned"
	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket"
)

func (t *tool) serveCommand() *cli.Command {
	return &cli.Command{
		Name:   "serve",
		Usage:  "run the agent in the foreground",
		Action: t.serve,
	}
}

// process is what an agent has from its start to its end.
type process struct {
	dirs     config.Dirs
	started  time.Time
	level    slog.LevelVar
	log      *slog.Logger
	notify   *notifier
	watchdog *watchdog
	metrics  *metrics.Metrics
	watched  *metrics.Watched

	protections []string       // that are on, for status
	devices     []string       // those of systemDevices that were there at the start
	allowed     *confine.Rules // what the process may do since its start; nil: it may use all files of its user

	app, admin net.Listener
	approve    net.Listener    // nil: there is none
	upkeep     context.Context // of what runs beside requests

	reloading sync.Mutex
	retiring  sync.WaitGroup        // ends what requests of an older configuration still used
	newest    atomic.Pointer[agent] // the configuration in effect
}

// agent is everything that serve opens for one configuration, in the order in which it is opened.
type agent struct {
	*process
	conf     *config.Config
	locked   bool // by the operator, when the backends are opened
	sessions *session.Sessions
	backends map[string]socket.Backend
	clients  []*chain.Client // of the chains that are watched
	watcher  *session.Watcher
	server   *socket.Server
	monitors map[string]*monitor // of the metrics, as the configuration names them

	stopUpkeep context.CancelFunc
	kept       sync.WaitGroup // the upkeep of this configuration
}

func (t *tool) serve(c *cli.Context) (err error) {
	if err := required(c); err != nil {
		return err
	}
	dirs, err := config.FindDirs(c.String("dir"), false)
	if err != nil {
		return err
	}
	if err := checkServes(dirs); err != nil {
		return err
	}
	if err := owned.Check(dirs.ConfigFile()); err != nil { // before it is believed
		return err
	}
	conf, err := config.Load(dirs.ConfigFile())
	if errors.Is(err, fs.ErrNotExist) {
		return withHint(fmt.Errorf("no agent in %s: %w", dirs.Config, err), "keyward init --dir %s --softhsm", dirs.Config)
	}
	if err != nil {
		return err
	}
	if err := secret.HideEnv(pinEnv(conf)); err != nil {
		return err
	}
	if err := harden(); err != nil {
		return err
	}
	p := &process{dirs: dirs, started: time.Now(), notify: newNotifier(), watchdog: newWatchdog(), metrics: metrics.New()}
	a := &agent{process: p, conf: conf}
	p.newest.Store(a)
	a.setLogger(t.stderr)
	if err := a.checkOwned(); err != nil {
		return err
	}
	if err := a.confine(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	defer func() { err = errors.Join(err, p.close()) }()
	if err := a.open(c.Context); err != nil {
		return err
	}
	t.greet(c.Context, a)
	return a.run(c.Context, signals)
}

// checkServes refuses to run the system's agent as another user than its service does: it would leave files that the
// service can't write.
func checkServes(dirs config.Dirs) error {
	info, err := os.Stat(dirs.State)
	if err != nil || !dirs.System() {
		return nil
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(os.Geteuid()) {
		return withHint(fmt.Errorf("the system's agent runs as uid %d, which owns %s", owner, dirs.State), "%s",
			startCommand(dirs))
	}
	return nil
}

// open opens devices, state and sockets. What it has opened when it fails, close closes.
func (a *agent) open(ctx context.Context) error {
	appPath, err := a.dirs.Socket(a.conf.Agent.Socket)
	if err != nil {
		return err
	}
	adminPath, err := a.dirs.Socket(a.conf.Agent.AdminSocket)
	if err != nil {
		return err
	}
	a.locked = session.LockedOnDisk(a.dirs.LockFile())
	// Another agent on this state, and a state that is damaged, end the start before a PIN is used and a device logs
	// anybody in.
	devices := map[string]backends.Backend{}
	if err := a.openSessions(devices); err != nil {
		return err
	}
	if err := a.openBackends(ctx); err != nil {
		return err
	}
	for name, b := range a.backends {
		devices[name] = b.Backend
	}
	if err := a.openWatcher(nil); err != nil {
		return err
	}
	// The ledger's lock is held from here on, so no other agent wants these sockets.
	if err := a.listen(appPath, adminPath); err != nil {
		return err
	}
	return a.listenMetrics(nil)
}

// checkOwned refuses state, and libraries to load, that others could change.
func (a *agent) checkOwned() error {
	paths := []string{a.dirs.State}
	entries, err := os.ReadDir(a.dirs.State)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		paths = append(paths, filepath.Join(a.dirs.State, e.Name()))
	}
	for _, name := range slices.Sorted(maps.Keys(a.conf.Backends)) {
		if p11, ok := a.conf.Backends[name].Settings.(*config.PKCS11); ok {
			if err := checkModule(a.dirs.Path(p11.Module)); err != nil {
				return a.placed(fmt.Errorf("backend %q: module: %w", name, err), "backends", name, "module")
			}
		}
	}
	for _, path := range paths {
		if err := owned.Check(path); err != nil {
			return err
		}
	}
	return nil
}

// checkModule refuses a PKCS#11 library that is not there, or that others could change.
func checkModule(path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	return owned.Check(path)
}

// openSessions opens the state. devices is filled before anything is asked of the sessions.
func (a *agent) openSessions(devices map[string]backends.Backend) error {
	cfg, err := a.sessionConfig()
	if err != nil {
		return err
	}
	cfg.Backends = devices
	cfg.LedgerPath, cfg.AuditPath, cfg.LockPath, cfg.CountsPath = a.dirs.Ledger(), a.dirs.AuditTrail(), a.dirs.LockFile(),
		a.dirs.DeviceCounts()
	cfg.Observe = a.metrics.Stage
	sessions, err := session.Open(cfg)
	if errors.Is(err, session.ErrInUse) {
		return withHint(err, "keyward status --dir %s", a.dirs.Config)
	}
	if err != nil {
		return fmt.Errorf("opening state: %w", err)
	}
	a.sessions = sessions
	unmapped, err := sessions.UnmappedClients()
	if err != nil {
		return fmt.Errorf("reading the user namespace's map of ids: %w", err)
	}
	if len(unmapped) > 0 {
		a.log.Warn("the agent runs in a user namespace that does not map clients of its sessions: they are strangers to it",
			"clients", unmapped)
	}
	return nil
}

// sessionConfig is what the configuration says about sessions.
func (a *agent) sessionConfig() (session.Config, error) {
	approval, err := a.approvalConfig()
	if err != nil {
		return session.Config{}, err
	}
	devices := make(map[string]backends.Backend, len(a.backends))
	for name, b := range a.backends {
		devices[name] = b.Backend
	}
	return session.Config{
		Backends:     devices,
		ExpiryMargin: a.conf.Session.ExpiryMargin,
		KeyGrace:     a.conf.Session.KeyGrace,
		WarnAhead:    a.conf.Session.WarnAhead,
		MaxLifetime:  a.conf.Session.MaxLifetime,
		Logger:       a.log,

		RefusalsPerSecond: float64(a.conf.Limits.RefusalsPerSecond),
		RefusalBurst:      a.conf.Limits.RefusalBurst,

		SegmentBytes: int64(a.conf.Audit.SegmentSize),
		SegmentAge:   a.conf.Audit.SegmentAge,

		Approval: approval,
	}, nil
}

// listen takes over the sockets that systemd listens on, and makes those that it does not.
func (a *agent) listen(appPath, adminPath string) error {
	inherited, err := socket.Inherited()
	if err != nil {
		return err
	}
	a.app, a.admin, a.approve = inherited["agent"], inherited["admin"], inherited["approve"]
	delete(inherited, "agent")
	delete(inherited, "admin")
	delete(inherited, "approve")
	for name, l := range inherited {
		return errors.Join(fmt.Errorf("systemd passes a socket %q; FileDescriptorName has to be agent, admin or approve",
			name), l.Close())
	}
	if a.app == nil {
		if a.app, err = socket.Listen(appPath, a.conf.Agent.SocketMode); err != nil {
			return a.placed(err, "agent", "socket")
		}
	}
	if a.admin == nil {
		if a.admin, err = socket.Listen(adminPath, 0o600); err != nil {
			return a.placed(err, "agent", "admin_socket")
		}
	}
	a.approve, err = a.listenApprove(a.approve)
	return err
}

// run serves until a signal or a failure. The first signal lets answers in flight
// finish; the second does not.
func (a *agent) run(ctx context.Context, signals <-chan os.Signal) error {
	a.server = socket.New(a.serverConfig())
	a.server.ServeVoters(a.approve)
	a.watch()
	// "keyward lock" finds no agent until the sockets are there, and may have written its file after open looked.
	if !a.locked && session.LockedOnDisk(a.dirs.LockFile()) {
		if err := a.server.Lock(); err != nil {
			return err
		}
	}
	if err := a.record(ctx, audit.AgentStarted); err != nil {
		return err
	}
	defer func() { a.newest.Load().kept.Wait() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	a.upkeep = ctx
	a.startUpkeep()
	a.serveMetrics()
	failed := make(chan error, 1)
	wg.Go(func() { failed <- a.server.Serve(ctx, a.app, a.admin) })
	a.notify.send("READY=1")
	wg.Go(func() { a.watchdog.run(ctx, a.process) })
	for {
		select {
		case <-a.watchdog.alive:
			a.notify.send("WATCHDOG=1")
		case err := <-failed:
			return fmt.Errorf("serving: %w", err)
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				wg.Go(func() { a.reloadOnSignal(ctx) })
				continue
			}
			a.log.Info("stopping", "signal", sig.String())
			a.notify.send("STOPPING=1")
			return a.stop(ctx, signals)
		}
	}
}

// stop ends serving.
func (a *agent) stop(ctx context.Context, signals <-chan os.Signal) error {
	limit, cancel := context.WithTimeout(ctx, a.newest.Load().conf.Agent.ShutdownTimeout)
	defer cancel()
	go func() {
		select {
		case <-signals:
			cancel()
		case <-limit.Done():
		}
	}()
	if err := a.server.Shutdown(limit); err != nil {
		a.log.Warn("stopped before all answers were out", "error", err)
	}
	return a.record(ctx, audit.AgentStopped)
}

// record writes what the agent itself did into the audit trail.
func (p *process) record(ctx context.Context, event audit.Event) error {
	return p.newest.Load().sessions.Record(ctx, audit.Record{Time: time.Now().UTC(), Event: event,
		Detail: map[string]string{"version": version()}})
}

// startUpkeep begins what this configuration does beside requests, until it is replaced or the agent ends.
func (a *agent) startUpkeep() {
	ctx, cancel := context.WithCancel(a.upkeep)
	a.stopUpkeep = cancel
	a.kept.Go(func() { a.sessions.Run(ctx) })
	a.kept.Go(func() { a.sessions.CountDevices(ctx) })
	a.kept.Go(func() { a.watcher.Run(ctx) })
	a.kept.Go(func() { a.recordLatency(ctx) })
}

// close closes what open and reload opened, last first.
func (p *process) close() error {
	p.retiring.Wait()
	a := p.newest.Load()
	var errs []error
	for _, m := range a.monitors {
		m.close()
	}
	for _, l := range []net.Listener{a.app, a.admin, a.approve} {
		if l != nil {
			if err := l.Close(); !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	for _, c := range a.clients {
		c.Close()
	}
	for _, b := range a.backends {
		errs = append(errs, b.Close())
	}
	if a.sessions != nil { // last: another agent may not start while this one has the devices
		errs = append(errs, a.sessions.Close())
	}
	return errors.Join(errs...)
}
