package command

import (
	"strings"

	"github.com/urfave/cli/v2"
)

func (t *tool) sessionSetClientsCommand() *cli.Command {
	return &cli.Command{
		Name:      "set-clients",
		Usage:     "say who may use a session from now on, instead of those who may use it now",
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "client", Usage: "`CLIENT` that may use the session: uid:N, gid:N or a user's name; " +
				"may be repeated"},
		},
		Action: t.sessionSetClients,
	}
}

func (t *tool) sessionSetClients(c *cli.Context) error {
	args, err := operands(c, "ID")
	if err != nil {
		return err
	}
	if !c.IsSet("client") {
		return withHint(usageError("missing flag: --client"), "%s --help", c.Command.HelpName)
	}
	clients, err := t.clients(c.StringSlice("client"))
	if err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	id, err := wholeID(c.Context, cl.AllSessions, args[0])
	if err != nil {
		return err
	}
	s, err := cl.SetClients(c.Context, id, clients)
	if err != nil {
		return err
	}
	t.warnUnreachable(c, s.Clients)
	if c.Bool("json") {
		return t.printJSON(s)
	}
	t.print("session %s may be used by %s", s.ID, strings.Join(s.Clients, ", "))
	return nil
}
