package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) keyCommand() *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "see the keys in the devices",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list all keys and the sessions they belong to", Action: t.keyList,
				Description: "If a device is locked or does not answer, the keys of the others are listed, the error names it, " +
					"and the exit code is 1.",
			},
			{
				Name: "rewrap", ArgsUsage: "[SESSION|KEY]", Action: t.keyRewrap,
				Usage: "encrypt keys that are stored outside of their device with the device key of now (default: each session's)",
				Description: `Do this after the device key was rotated, or another was put into the configuration. Keys stay usable throughout,
and an interrupted run is continued by the next. Keys that a device keeps inside are passed over. What is done is recorded in the audit
trail. Exit code 1 if a key could not be encrypted again.`,
				Flags: []cli.Flag{&cli.StringFlag{Name: "backend", Usage: "keys of this `NAME` only"}},
			},
			{
				Name: "attest", ArgsUsage: "SESSION|KEY", Action: t.keyAttest,
				Usage: "print a device's certificates on how a session's key came about; what they say goes to stderr",
				Description: `SESSION is a session's ID or signer, KEY its key as "keyward key list" shows it. A sealed key's attestation is
that of the device key that it is sealed to. Exit code 1 if the certificates lead to no trusted root.`,
			},
		},
	}
}

func (t *tool) keyList(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	keys, failed := allKeys(c.Context, cl)
	if c.Bool("json") {
		return errors.Join(t.printJSON(keys), failed)
	}
	if len(keys) == 0 && failed == nil {
		t.note("no keys")
	}
	if len(keys) == 0 {
		return failed
	}
	rows := [][]string{{"BACKEND", "PROTECTION", "SIGNER", "SESSION", "STATUS", "KEY"}}
	for _, k := range keys {
		session := k.Session
		if session == "" {
			session = "-"
		}
		status := k.Status
		if k.Lost {
			status += ", KEY LOST"
		}
		rows = append(rows, []string{k.Backend, k.Protection, k.Signer.String(), session, status, k.URI})
	}
	return errors.Join(t.table(rows), failed)
}

// allKeys lists the keys of the backends that answer. The error is of the others.
func allKeys(ctx context.Context, cl *client.Client) (keys []api.Key, failed error) {
	keys = []api.Key{}
	backends, err := cl.Backends(ctx)
	if err != nil {
		return keys, err
	}
	for _, b := range backends {
		some, err := cl.KeysOf(ctx, b.Name)
		if err != nil {
			failed = errors.Join(failed, err)
		}
		keys = append(keys, some...)
	}
	return keys, failed
}

func (t *tool) keyRewrap(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) > 1 || len(names) == 1 && c.String("backend") != "" {
		return usageError("key rewrap takes one session or key, or --backend")
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	if len(names) == 0 {
		if names, err = rewrappable(c, cl); err != nil {
			return err
		}
	}
	done, failed := 0, 0
	for _, name := range names {
		key, err := cl.RewrapKey(c.Context, name)
		switch {
		case err != nil && c.Context.Err() != nil:
			return err
		case err != nil:
			failed++
			t.note("%s: %v", name, err)
		case key.Rewrapped:
			done++
		}
	}
	summary := map[string]int{"rewrapped": done, "current": len(names) - done - failed, "failed": failed}
	if c.Bool("json") {
		err = t.printJSON(summary)
	} else {
		t.print("%d keys encrypted with the device key of now, %d were already, %d failed", done, summary["current"], failed)
	}
	if err == nil && failed > 0 {
		err = fmt.Errorf("%d keys could not be encrypted again; they are usable as before", failed)
	}
	return err
}

// rewrappable are the sessions whose keys can be encrypted again, of one backend or of all.
func rewrappable(c *cli.Context, cl *client.Client) (sessions []string, err error) {
	list, err := cl.Backends(c.Context)
	if err != nil {
		return nil, err
	}
	can := map[string]bool{}
	for _, b := range list {
		can[b.Name] = slices.Contains(b.Can, "rewrap")
	}
	name := c.String("backend")
	switch able, known := can[name]; {
	case name != "" && !known:
		return nil, usageError("there is no backend %q: keyward backend list", name)
	case name != "" && !able:
		return nil, fmt.Errorf("backend %q keeps its keys in the device, so there is none to encrypt again", name)
	}
	keys, err := cl.Keys(c.Context)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.Session != "" && can[k.Backend] && (name == "" || k.Backend == name) {
			sessions = append(sessions, k.Session)
		}
	}
	return sessions, nil
}

func (t *tool) keyAttest(c *cli.Context) error {
	args, err := operands(c, "SESSION or KEY")
	if err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	name, err := wholeID(c.Context, cl.AllSessions, args[0])
	if err != nil {
		return err
	}
	at, err := cl.Attest(c.Context, name)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = t.printJSON(at)
	} else {
		_, err = io.WriteString(t.stdout, at.Chain)
		t.note("session %s, %s key %s: %s", at.Session, at.Protection, at.KeyURI, at.Detail)
	}
	if err == nil && !at.Verified {
		err = fmt.Errorf("the attestation of %s is not verified", at.KeyURI)
	}
	return err
}
