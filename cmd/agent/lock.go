package main

import (
	"context"
	"maps"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/secret"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) lockCommand() *cli.Command {
	return &cli.Command{
		Name:   "lock",
		Usage:  "stop signing at once and forget the PINs, until unlock",
		Action: t.simple("locked", (*client.Client).Lock),
	}
}

func (t *tool) reloadCommand() *cli.Command {
	return &cli.Command{
		Name:   "reload",
		Usage:  "read the configuration again; what can't change while the agent runs is named in its log",
		Action: t.simple("configuration reloaded", (*client.Client).Reload),
	}
}

// simple is the action of a command that does one thing in the agent.
func (t *tool) simple(done string, do func(*client.Client, context.Context) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		if err := required(c); err != nil {
			return err
		}
		cl, err := t.dialAdmin(c)
		if err != nil {
			return err
		}
		defer cl.Close()
		if err := do(cl, c.Context); err != nil {
			return err
		}
		return t.done(c, done)
	}
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
		},
		Action: t.unlock,
	}
}

func (t *tool) unlock(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	cl, err := p.dial(c.Context, p.agent().AdminSocket)
	if err != nil {
		return err
	}
	defer cl.Close()
	only := c.String("backend")
	prompting := p.prompting(only)
	for _, name := range prompting {
		pin, err := askPIN(c.Context, name)
		if err != nil {
			return err
		}
		err = cl.Unlock(c.Context, name, pin)
		clear(pin)
		if err != nil {
			return err
		}
	}
	if only == "" || len(prompting) == 0 { // the PINs that the agent gets by itself
		if err := cl.Unlock(c.Context, only, nil); err != nil {
			return err
		}
	}
	return t.done(c, "unlocked")
}

// prompting returns the backends whose PIN the operator gives: all, or the one that is named.
func (p *place) prompting(only string) (names []string) {
	if p.conf == nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(p.conf.Backends)) {
		if pin := p.conf.Backends[name].PIN(); pin != nil && pin.Prompt && (only == "" || only == name) {
			names = append(names, name)
		}
	}
	return names
}

// askPIN asks for a backend's PIN on the terminal. The caller wipes it.
func askPIN(ctx context.Context, backend string) (pin []byte, err error) {
	buf, err := secret.FromTerminal("PIN of backend " + backend + ": ")(ctx)
	if err != nil {
		return nil, err
	}
	defer buf.Close()
	err = buf.Use(func(b []byte) error { pin = append(pin, b...); return nil })
	return pin, err
}
