package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/socket/client"
)

// place is where a command's agent is.
type place struct {
	dirs  config.Dirs
	conf  *config.Config // nil if this user can't read it, it has a mistake, or there is none
	fault error          // the mistake
}

// findPlace finds the agent that a command is about, and its configuration.
func findPlace(c *cli.Context) (*place, error) {
	p, err := findAgent(c)
	if err != nil {
		return nil, err
	}
	return p, p.fault
}

// findAgent finds the agent that a command talks to. A mistake in the configuration is no error: the agent may run with
// an older version of the file, and has to be reached to be locked.
func findAgent(c *cli.Context) (*place, error) { return findAgentIn(c.String("dir")) }

// findAgentIn is findAgent; dir is what --dir says.
func findAgentIn(dir string) (*place, error) {
	dirs, err := config.FindDirs(dir, true)
	if err != nil {
		return nil, err
	}
	conf, err := config.Load(dirs.ConfigFile())
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return &place{dirs: dirs}, nil
	}
	return &place{dirs: dirs, conf: conf, fault: err}, nil
}

// agent is the part of the configuration that says where the sockets are.
func (p *place) agent() config.Agent {
	if p.conf == nil {
		return config.Sockets(p.dirs.ConfigFile())
	}
	return p.conf.Agent
}

// backends are those of the configuration, by name.
func (p *place) backends() map[string]*config.Backend {
	if p.conf == nil {
		return nil
	}
	return p.conf.Backends
}

// chain finds a chain by its name or id; without a configuration, one of the built-in ones.
func (p *place) chain(name string) (string, *config.Chain, error) {
	if p.conf == nil {
		return config.Defaults().ChainNamed(name)
	}
	return p.conf.ChainNamed(name)
}

// dialAgent connects to the apps' socket.
func (t *tool) dialAgent(c *cli.Context) (*client.Client, error) {
	p, err := t.findRunning(c)
	if err != nil {
		return nil, err
	}
	return t.told(p.dial(c.Context, p.agent().Socket))
}

// dialAdmin connects to the operator's socket.
func (t *tool) dialAdmin(c *cli.Context) (*client.Client, error) {
	p, err := t.findRunning(c)
	if err != nil {
		return nil, err
	}
	return t.told(p.dial(c.Context, p.agent().AdminSocket))
}

// findRunning is findAgent, which says on stderr that the configuration has a mistake.
func (t *tool) findRunning(c *cli.Context) (*place, error) {
	p, err := findAgent(c)
	if err == nil && p.fault != nil {
		t.note("warning: %v; asking the running agent all the same", p.fault)
	}
	return p, err
}

// told has stderr say what the person has to do while a command waits for that.
func (t *tool) told(cl *client.Client, err error) (*client.Client, error) {
	if err != nil {
		return nil, err
	}
	cl.OnWaiting = func(what string) {
		if what != "" {
			t.note("%s", what)
		}
	}
	return cl, nil
}

// dialTimeout bounds connecting to a socket of this machine.
const dialTimeout = 5 * time.Second

func (p *place) dial(ctx context.Context, socket string) (*client.Client, error) {
	path, err := p.dirs.Socket(socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	cl, err := client.Dial(ctx, path)
	switch {
	case err == nil:
		return cl, nil
	case errors.Is(err, fs.ErrPermission) && socket == p.agent().AdminSocket:
		return nil, withHint(withCode(exitUnreachable, err), "run this as the user that the agent runs as")
	case errors.Is(err, fs.ErrPermission): // says which group to ask for
		return nil, withCode(exitUnreachable, err)
	case !p.dirs.Configured():
		return nil, withHint(withCode(exitUnreachable, fmt.Errorf("no agent in %s (%s): %w", p.dirs.Config, p.dirs.Rule,
			err)), "keyward init --dir %s", p.dirs.Config)
	}
	err = fmt.Errorf("no agent is running in %s (%s): %w", p.dirs.Config, p.dirs.Rule, err)
	return nil, withHint(withCode(exitUnreachable, err), "%s", startCommand(p.dirs))
}

// startCommand starts the agent in dirs. The system's agent is started by its service only: another process would run
// as another user, whose files the service can't write.
func startCommand(dirs config.Dirs) string {
	if dirs.System() {
		return "systemctl start keyward || journalctl -u keyward -n 20"
	}
	return "keyward serve --dir " + dirs.Config
}
