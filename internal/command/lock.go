package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) lockCommand() *cli.Command {
	return &cli.Command{
		Name:   "lock",
		Usage:  "stop signing and forget the PINs until unlock; also while the agent is down",
		Flags:  []cli.Flag{&cli.BoolFlag{Name: "wait", Usage: "until every device has logged out"}},
		Action: t.lock,
	}
}

func (t *tool) reloadCommand() *cli.Command {
	return &cli.Command{
		Name:   "reload",
		Usage:  "put the configuration into effect as it is on disk now; one with a mistake changes nothing",
		Action: t.reload,
	}
}

func (t *tool) lock(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	cl, dialErr := t.told(p.dial(c.Context, p.agent().AdminSocket))
	if dialErr != nil {
		if cl, err = p.lockStopped(c, dialErr); err != nil {
			return err
		}
		if cl == nil {
			t.note("no agent is running: one that starts later starts locked")
			return t.done(c, "locked")
		}
	}
	defer cl.Close()
	locked, err := cl.Lock(c.Context, api.Lock{Wait: c.Bool("wait")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(locked)
	}
	for _, name := range slices.Sorted(maps.Keys(locked.Backends)) {
		if locked.Backends[name] == api.Busy {
			t.note("backend %s is busy and logs out when its call ends (keyward lock --wait waits for that)", name)
		}
	}
	return t.done(c, "locked")
}

// lockStopped locks an agent that can't be reached, by its lock file. The client is not nil if the agent has started
// meanwhile: it may have looked for the file before that was written, and has to be told.
func (p *place) lockStopped(c *cli.Context, unreachable error) (*client.Client, error) {
	if errors.Is(unreachable, fs.ErrPermission) || !p.dirs.Used() {
		return nil, unreachable
	}
	if err := session.WriteLock(p.dirs.LockFile(), time.Now()); err != nil {
		return nil, errors.Join(unreachable, fmt.Errorf("locking it for its next start: %w", err))
	}
	if cl, err := p.dial(c.Context, p.agent().AdminSocket); err == nil {
		return cl, nil
	}
	return nil, nil
}

func (t *tool) reload(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	result, err := cl.Reload(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(result)
	}
	t.print("configuration reloaded")
	if len(result.Changed) > 0 {
		t.note("changes in %s are in effect", strings.Join(result.Changed, ", "))
	}
	for _, name := range result.Unlock {
		t.hint("keyward unlock --backend %s", name)
	}
	return nil
}

// done says that something is done.
func (t *tool) done(c *cli.Context, what string) error {
	if c.Bool("json") {
		return t.printJSON(map[string]bool{"ok": true})
	}
	t.print("%s", what)
	return nil
}

func (t *tool) unlockCommand() *cli.Command {
	return &cli.Command{
		Name:  "unlock",
		Usage: "log in to the devices and sign again; asks for the PINs that are the operator's to give",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "backend", Usage: "`NAME` of the backend to unlock (default: all)"},
			&cli.BoolFlag{Name: "admin-pin", Usage: "give that backend its admin PIN, for the next key that is made or " +
				"destroyed; unlocks nothing"},
			&cli.StringFlag{Name: "pinentry", TakesFile: true,
				Usage: "`PROGRAM` that asks for the PINs (default: the terminal; pinentry where there is none)"},
		},
		Action: t.unlock,
	}
}

func (t *tool) unlock(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Bool("admin-pin") && c.String("backend") == "" {
		return usageError("--admin-pin needs --backend: say whose it is")
	}
	if err := harden(); err != nil { // it will hold PINs
		return err
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	cl, err := p.dial(c.Context, p.agent().AdminSocket)
	if err != nil {
		return err
	}
	defer cl.Close()
	only := c.String("backend")
	if c.Bool("admin-pin") {
		return t.giveAdminPIN(c, cl, only)
	}
	names := p.withPIN(only)
	if len(names) == 0 { // the agent knows better
		names = []string{only}
	}
	// One by one: a PIN that was given for one is forgotten when all are told to get theirs.
	var failed []string
	for _, name := range names {
		err := p.unlock(c, cl, name)
		switch {
		case err == nil:
			continue
		case only != "" || name == "" || !isOneBackends(err):
			return err
		}
		t.report(err)
		failed = append(failed, name)
	}
	if only == "" && names[0] != "" {
		if err := cl.UnlockAgent(c.Context); err != nil {
			return err
		}
	}
	if failed != nil {
		return fmt.Errorf("not unlocked: backend %s", strings.Join(failed, ", "))
	}
	status, err := cl.Status(c.Context)
	if err != nil {
		return err
	}
	if status.State == "locked" {
		t.note("backend %s is unlocked; the agent stays locked until: keyward unlock", only)
		return t.done(c, "backend unlocked")
	}
	return t.done(c, "unlocked")
}

// unlock unlocks one backend, whose PIN a person is asked for if it is theirs to give.
func (p *place) unlock(c *cli.Context, cl *client.Client, backend string) error {
	if !p.prompts(backend) {
		return cl.Unlock(c.Context, backend, nil) // the agent gets it
	}
	pin, err := askPIN(c.Context, c.String("pinentry"), "PIN of backend "+backend)
	if err != nil {
		return &promptError{fmt.Errorf("backend %q: %w", backend, err)}
	}
	defer clear(pin)
	return cl.Unlock(c.Context, backend, pin)
}

// promptError: no PIN was given.
type promptError struct{ error }

func (e *promptError) Unwrap() error { return e.error }

// isOneBackends reports whether the other backends may be unlocked for all that err says: it is the agent's
// answer, or a prompt's failure, unless a person ended that.
func isOneBackends(err error) bool {
	var prompt *promptError
	return client.Details(err) != nil || errors.As(err, &prompt) && !errors.Is(err, context.Canceled)
}

// withPIN returns the configured backends that have a PIN: all, or the one that is named.
func (p *place) withPIN(only string) (names []string) {
	if p.conf == nil {
		return nil
	}
	for name, b := range p.conf.Backends {
		if b.PIN() != nil && (only == "" || only == name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// prompts reports whether the operator gives the backend's PIN.
func (p *place) prompts(backend string) bool {
	if p.conf == nil || p.conf.Backends[backend] == nil {
		return false
	}
	pin := p.conf.Backends[backend].PIN()
	return pin != nil && pin.Prompt
}

// giveAdminPIN asks for a backend's admin PIN, which then waits in the agent.
func (t *tool) giveAdminPIN(c *cli.Context, cl *client.Client, backend string) error {
	pin, err := askPIN(c.Context, c.String("pinentry"), "Admin PIN of backend "+backend)
	if err != nil {
		return err
	}
	defer clear(pin)
	if err := cl.UnlockAdmin(c.Context, backend, pin); err != nil {
		return err
	}
	return t.done(c, "the admin PIN waits for the next key that is made or destroyed")
}

// askPIN has a person asked for a PIN: by the program pinentry, or if that is "" on the terminal,
// or by the pinentry that is installed. The caller wipes it.
func askPIN(ctx context.Context, pinentry, what string) (pin []byte, err error) {
	source := secret.FromPinentry(pinentry, what)
	if pinentry == "" {
		source = secret.FromTerminal(what + ": ")
	}
	buf, err := source(ctx)
	if pinentry == "" && errors.Is(err, secret.ErrNoTerminal) {
		program, lookErr := exec.LookPath("pinentry")
		if lookErr != nil {
			return nil, withHint(fmt.Errorf("%w, and no pinentry is installed", err),
				"keyward unlock --pinentry PROGRAM, or run it on a terminal (ssh -t)")
		}
		buf, err = secret.FromPinentry(program, what)(ctx)
	}
	if errors.Is(err, secret.ErrNoTerminal) {
		return nil, withHint(err, "run it on a terminal (ssh -t), or have the agent get the PIN: pin_file or "+
			"pin_credential in config.toml")
	}
	if err != nil {
		return nil, err
	}
	defer buf.Close()
	err = buf.Use(func(b []byte) error { pin = append(pin, b...); return nil })
	return pin, err
}
