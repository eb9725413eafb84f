package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/bench"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/socket"
)

func (t *tool) benchCommand() *cli.Command {
	return &cli.Command{
		Name:  "bench",
		Usage: "measure a backend: its device alone, and an agent in front of it",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backend", Usage: "`NAME` of the backend (default: the only one)"},
			&cli.StringFlag{Name: "key", Usage: "sign with the key of session `ID`, of a running agent; none is made"},
			&cli.BoolFlag{Name: "create", Usage: "make a key although one costs money or a slot in this backend; it is " +
				"destroyed afterwards"},
			&cli.DurationFlag{Name: "duration", Value: 4 * time.Second, Usage: "measure each figure for `TIME`"},
		},
		Description: `It runs an agent of its own, with a ledger beside the real one, and signs with a throw-away key for a chain that does
not exist; the signatures are dropped. A running agent is not touched, but shares the device. The key is destroyed
at the end, also after Ctrl-C; after a kill, by the next run.`,
		Action: t.bench,
	}
}

// benchReport is what the command prints with --json.
type benchReport struct {
	Backend string `json:"backend"`
	Type    string `json:"type"`
	Version string `json:"version"`
	*bench.Report
}

func (t *tool) bench(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Duration("duration") <= 0 {
		return usageError("--duration %v: want more than 0", c.Duration("duration"))
	}
	if c.Bool("create") && c.String("key") != "" {
		return usageError("give --key or --create, not both")
	}
	a, name, err := t.benchBackend(c)
	if err != nil {
		return err
	}
	borrow, err := t.borrowedKey(c, name)
	if err != nil {
		return err
	}
	if err := harden(); err != nil { // it may hold a PIN, or sealed keys
		return err
	}
	ctx, stop := signal.NotifyContext(c.Context, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	report, err := t.measure(ctx, a, name, borrow, c.Duration("duration"))
	if err != nil {
		return err
	}
	full := benchReport{Backend: name, Type: a.conf.Backends[name].Type, Version: version(), Report: report}
	if c.Bool("json") {
		return t.printJSON(full)
	}
	return t.printBench(&full)
}

// benchBackend finds the backend to measure, and refuses one where a key would cost something unasked.
func (t *tool) benchBackend(c *cli.Context) (*agent, string, error) {
	dirs, err := config.FindDirs(c.String("dir"), false)
	if err != nil {
		return nil, "", err
	}
	conf, err := config.Load(dirs.ConfigFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", withHint(fmt.Errorf("no agent in %s: %w", dirs.Config, err), "keyward init --dir %s --softhsm",
			dirs.Config)
	}
	if err != nil {
		return nil, "", err
	}
	names := slices.Sorted(maps.Keys(conf.Backends))
	name := c.String("backend")
	switch {
	case name == "" && len(names) != 1:
		return nil, "", usageError("say which backend to measure: --backend %s", strings.Join(names, " or "))
	case name == "":
		name = names[0]
	case conf.Backends[name] == nil:
		return nil, "", usageError("there is no backend %q in the configuration; want %s", name, strings.Join(names, " or "))
	}
	if why := costs[conf.Backends[name].Type]; why != "" && !c.Bool("create") && c.String("key") == "" {
		return nil, "", usageError("backend %q: %s: give --key SESSION to sign with that session's key, or --create to "+
			"make a key all the same", name, why)
	}
	a := &agent{process: &process{dirs: dirs, notify: newNotifier()}, conf: conf, backends: map[string]socket.Backend{}}
	a.newest.Store(a)
	a.log = slog.New(slog.NewTextHandler(t.stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	return a, name, nil
}

// costs says, by type of backend, why a key is not made unasked.
var costs = map[string]string{
	"openpgp": "a key takes one of the card's few slots",
	"piv":     "a key is kept until it is destroyed, and the card may have to be touched for each signature",
	"awskms":  "a key costs money until it is deleted, days later",
	"gcpkms":  "a key costs money until it is destroyed, and its name stays for ever",
	"azurekv": "a key costs money, and its name stays until it is purged",
}

// borrowedKey returns the URI of the key of --key's session; "" without --key.
func (t *tool) borrowedKey(c *cli.Context, backend string) (string, error) {
	if c.String("key") == "" {
		return "", nil
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	id, err := wholeID(c.Context, cl.AllSessions, c.String("key"))
	if err != nil {
		return "", err
	}
	sess, err := cl.Session(c.Context, id)
	if err != nil {
		return "", err
	}
	if sess.Backend != backend {
		return "", usageError("the key of session %s is in backend %q, not in %q", sess.ID, sess.Backend, backend)
	}
	return sess.KeyURI, nil
}

// measure opens the backend and runs the benchmark. However it ends, the throw-away key is destroyed.
func (t *tool) measure(ctx context.Context, a *agent, name, borrow string, d time.Duration) (report *bench.Report,
	err error) {
	if err := a.openBackend(ctx, name); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	if err := t.benchUnlock(ctx, a, name); err != nil {
		return nil, err
	}
	dir := filepath.Join(a.dirs.State, "bench", name)
	t.note("measuring backend %s: its ledger is in %s; Ctrl-C ends it and leaves nothing", name, dir)
	b, err := bench.Start(ctx, dir, &bench.Device{Backend: a.backends[name].Backend, Borrow: borrow}, a.log)
	if err != nil {
		return nil, fmt.Errorf("%w; what is left in the device, if anything, is destroyed by the next keyward bench", err)
	}
	report, err = b.Run(ctx, d, func(what string) { t.note("%s", what) })
	if closeErr := b.Close(ctx); closeErr != nil {
		return nil, errors.Join(err, fmt.Errorf("%w; run keyward bench again, which destroys it first", closeErr))
	}
	if errors.Is(err, context.Canceled) {
		err = errors.New("interrupted; nothing is left in the device")
	}
	err = errors.Join(err, os.RemoveAll(dir))
	_ = os.Remove(filepath.Dir(dir)) // unless another backend's is in there
	return report, err
}

// benchUnlock asks for the PIN of a backend whose PIN is the operator's to give.
func (t *tool) benchUnlock(ctx context.Context, a *agent, name string) error {
	pin := a.conf.Backends[name].PIN()
	unlocker, ok := a.backends[name].Backend.(backends.Unlocker)
	if pin == nil || !pin.Prompt || !ok {
		return nil
	}
	given, err := askPIN(ctx, "", "PIN of backend "+name)
	if err != nil {
		return err
	}
	return unlocker.Unlock(ctx, given)
}

// printBench writes the report for a person.
func (t *tool) printBench(r *benchReport) error {
	t.print("%s, %d processors, keyward %s", joined("backend "+r.Backend+" ("+r.Type+")", string(r.Protection)), r.CPUs,
		r.Version)
	t.print("")
	rows := [][]string{{"", "AT A TIME", "PER SECOND", "MEDIAN", "P99", "RATIO"}}
	for _, part := range []struct {
		name string
		rows []bench.Row
	}{{"device", r.Device}, {"agent", r.Agent}, {"ledger", r.Ledger}} {
		for _, row := range part.rows {
			ratio := ""
			if row.Ratio != 0 {
				ratio = fmt.Sprintf("%.2f of the device", row.Ratio)
			}
			rows = append(rows, []string{part.name, fmt.Sprint(row.Callers), fmt.Sprintf("%.0f", row.PerSecond), micros(row.P50),
				micros(row.P99), ratio})
		}
	}
	if err := t.table(rows); err != nil {
		return err
	}
	t.print("")
	rows = [][]string{{"ONE SIGNATURE", "MEDIAN", "OF THE WHOLE"}}
	for _, s := range r.Stages {
		rows = append(rows, []string{s.Name, micros(s.Micros), fmt.Sprintf("%.1f %%", 100*s.Share)})
	}
	if err := t.table(rows); err != nil {
		return err
	}
	best := slices.MaxFunc(r.Device, func(a, b bench.Row) int { return cmp.Compare(a.PerSecond, b.PerSecond) })
	t.print("")
	t.print("The device makes up to %.0f signatures a second. Device and ledger work at the same time.", best.PerSecond)
	return nil
}

// micros writes a time for a person.
func micros(us float64) string {
	switch {
	case us < 100:
		return fmt.Sprintf("%.1f µs", us)
	case us < 10_000:
		return fmt.Sprintf("%.0f µs", us)
	}
	return fmt.Sprintf("%.1f ms", us/1000)
}
