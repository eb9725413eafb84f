package command

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"
)

func (t *tool) keyCommand() *cli.Command {
	return &cli.Command{
		Name:  "key",
		Usage: "see the keys in the devices",
		Subcommands: []*cli.Command{
			{Name: "list", Usage: "list all keys and the sessions they belong to", Action: t.keyList},
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
	keys, err := cl.Keys(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(keys)
	}
	if len(keys) == 0 {
		t.note("no keys")
		return nil
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
	return t.table(rows)
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
	at, err := cl.Attest(c.Context, args[0])
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
