package main

import (
	"github.com/urfave/cli/v2"
)

func (t *tool) keyCommand() *cli.Command {
	return &cli.Command{
		Name:        "key",
		Usage:       "see the keys in the devices",
		Subcommands: []*cli.Command{{Name: "list", Usage: "list all keys and the sessions they belong to", Action: t.keyList}},
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
		rows = append(rows, []string{k.Backend, k.Protection, k.Signer.String(), session, k.Status, k.URI})
	}
	return t.table(rows)
}
