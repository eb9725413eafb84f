package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) sessionCommand() *cli.Command {
	return &cli.Command{
		Name:  "session",
		Usage: "make, see and end sessions",
		Subcommands: []*cli.Command{
			t.sessionCreateCommand(),
			t.sessionImportCommand(),
			t.sessionRenewCommand(),
			{Name: "list", Usage: "list all sessions, oldest first", Action: t.sessionList, Flags: []cli.Flag{
				&cli.IntFlag{Name: "limit", Usage: "list at most `N`, 1 to 1000, instead of all"},
				&cli.StringFlag{Name: "after", Usage: "begin after session `ID`, the last of the list before"},
			}},
			{Name: "show", Usage: "show a session, its policy in plain words and what is left of its limits", ArgsUsage: "ID",
				Action: t.sessionShow},
			t.sessionMove("activate", "say that the account's owner has approved the session on chain",
				(*client.Client).ActivateSession),
			t.sessionSetClientsCommand(),
			t.sessionMove("revoke", "end a session here: nothing more is signed", (*client.Client).RevokeSession),
			t.sessionMove("close", "say that the account's owner has ended the session on chain", (*client.Client).CloseSession),
		},
	}
}

// sessionMove is a command that brings the session ID into another status.
func (t *tool) sessionMove(name, usage string, move func(*client.Client, context.Context, string) (*api.Session,
	error)) *cli.Command {
	return &cli.Command{Name: name, Usage: usage, ArgsUsage: "ID", Action: func(c *cli.Context) error {
		args, err := operands(c, "ID")
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
		s, err := move(cl, c.Context, id)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return t.printJSON(s)
		}
		t.print("session %s is %s", s.ID, s.Status)
		if s.InDevice != nil && *s.InDevice > 0 {
			t.note("%d charged signatures are still in the device; none of them is released", *s.InDevice)
		}
		if name == "revoke" && s.RevokeKeysCalldata != "" {
			t.print("revokeKeys calldata  %s", s.RevokeKeysCalldata)
			t.note("what was signed before can still be sent: to end the session on chain %d too, its owner sends the "+
				"calldata from %v to the validator %v",
				s.ChainID, s.Account, s.Validator)
		}
		return nil
	}}
}

// dialReader connects to the operator's socket or, for a user who may not use that, to
// the apps' one, which shows the sessions that this user may use.
func (t *tool) dialReader(c *cli.Context) (*client.Client, bool, error) {
	cl, err := t.dialAdmin(c)
	if errors.Is(err, fs.ErrPermission) {
		cl, err = t.dialAgent(c)
		return cl, false, err
	}
	return cl, true, err
}

func (t *tool) sessionList(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	cl, admin, err := t.dialReader(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	sessions, err := listSessions(c, cl, admin)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(sessions)
	}
	if len(sessions) == 0 {
		t.note("no sessions")
		return nil
	}
	rows := [][]string{{"ID", "STATUS", "KIND", "CHAIN", "ACCOUNT", "SIGNER", "SIGNS UNTIL", "CLIENTS"}}
	for _, s := range sessions {
		rows = append(rows, []string{
			s.ID, s.Status, s.Kind, strconv.FormatUint(s.ChainID, 10), s.Account.String(), s.Signer.String(),
			when(&s.SignsUntil), strings.Join(s.Clients, ", "),
		})
	}
	return t.table(rows)
}

// listSessions asks for the page that the flags name, or for all pages.
func listSessions(c *cli.Context, cl *client.Client, admin bool) ([]*api.Session, error) {
	list := cl.Sessions
	if admin {
		list = cl.AllSessions
	}
	after, err := wholeID(c.Context, list, c.String("after"))
	if err != nil {
		return nil, err
	}
	page := api.Page{After: after, Limit: c.Int("limit")}
	switch {
	case page == api.Page{} && admin:
		return cl.AllSessions(c.Context)
	case page == api.Page{}:
		return cl.Sessions(c.Context)
	case admin:
		return cl.AllSessionsPage(c.Context, page)
	}
	return cl.SessionsPage(c.Context, page)
}

// wholeID returns the id of the one session whose id begins so. Everything else, a whole id or a signer, is returned as
// it is: the agent knows best what to say of it.
func wholeID(ctx context.Context, list func(context.Context) ([]*api.Session, error), name string) (string, error) {
	const idLength = 16
	if name == "" || len(name) >= idLength || strings.Trim(name, "0123456789abcdef") != "" {
		return name, nil
	}
	sessions, err := list(ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, s := range sessions {
		if strings.HasPrefix(s.ID, name) {
			ids = append(ids, s.ID)
		}
	}
	switch len(ids) {
	case 0:
		return name, nil
	case 1:
		return ids[0], nil
	}
	const few = 5
	more := ""
	if len(ids) > few {
		more = fmt.Sprintf(" and %d more", len(ids)-few)
	}
	return "", usageError("session %q: %d ids begin so: %s%s", name, len(ids),
		strings.Join(ids[:min(few, len(ids))], ", "), more)
}
