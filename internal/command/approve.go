package command

import (
	"context"
	"encoding/json"
	"fmt"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/userdb"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/socket/api"
	"github.com/keyward/keyward/socket/client"
)

func (t *tool) approveCommand() *cli.Command {
	socket := &cli.StringFlag{Name: "socket", TakesFile: true,
		Usage: "`FILE` of the socket (default: [approval] socket in the configuration, or approve.sock)"}
	return &cli.Command{
		Name:  "approve",
		Usage: "decide on requests that guard rules want an operator to approve",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the requests that wait",
				Flags: []cli.Flag{socket, &cli.DurationFlag{Name: "wait",
					Usage: "`DURATION` to wait for a request, if there is none"}}, Action: t.approveList,
			},
			{
				Name: "show", Usage: "show who asks for what, what it may cost, and what is left",
				ArgsUsage: "ID", Flags: []cli.Flag{socket}, Action: t.approveShow,
			},
			{
				Name: "yes", Usage: "approve a request; it is signed once enough operators have, if everything else still allows it",
				ArgsUsage: "ID", Flags: []cli.Flag{socket}, Action: func(c *cli.Context) error { return t.vote(c, true) },
			},
			{
				Name: "no", Usage: "deny a request; that is final",
				ArgsUsage: "ID", Flags: []cli.Flag{socket}, Action: func(c *cli.Context) error { return t.vote(c, false) },
			},
		},
	}
}

// dialApprove connects to the socket for operators that vote.
func (t *tool) dialApprove(c *cli.Context) (*client.Client, error) {
	p, err := t.findRunning(c)
	if err != nil {
		return nil, err
	}
	socket := c.String("socket")
	if socket == "" && p.conf != nil {
		if socket = p.conf.Approval.Socket; socket == "" {
			return nil, withHint(fmt.Errorf("the configuration has no socket for approvals"),
				`add to config.toml: [approval] socket = "approve.sock"`)
		}
	}
	if socket == "" {
		socket = "approve.sock"
	}
	return t.told(p.dial(c.Context, socket))
}

func (t *tool) approveList(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	cl, err := t.dialApprove(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := awaitApprovals(c.Context, cl, c.Duration("wait"))
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(list)
	}
	if len(list) == 0 {
		t.print("no request waits for an approval")
		return nil
	}
	rows := [][]string{{"ID", "CLIENT", "WHAT", "RULE", "VOTES", "LEFT"}}
	for _, a := range list {
		var names []string
		for _, r := range a.Rules {
			names = append(names, r.Name)
		}
		rows = append(rows, []string{a.ID[:8], userdb.User(a.Client.UID), approvalText(a), strings.Join(names, ", "),
			votesText(a), leftText(a.Until)})
	}
	return t.table(rows)
}

// awaitApprovals lists what waits, once there is anything or the time is over.
func awaitApprovals(ctx context.Context, cl *client.Client, wait time.Duration) ([]*api.Approval, error) {
	const pause = 200 * time.Millisecond
	for begun := time.Now(); ; {
		list, err := cl.Approvals(ctx)
		if err != nil || len(list) > 0 || time.Since(begun)+pause > wait {
			return list, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func votesText(a *api.Approval) string { return fmt.Sprintf("%d of %d", len(a.Votes), a.Required) }

func leftText(until time.Time) string {
	return max(time.Until(until), 0).Round(time.Second).String()
}

// approvalText is what the request is to do.
func approvalText(a *api.Approval) string {
	var tx callText
	_ = json.Unmarshal(a.Transaction, &tx) // the agent made it
	value := strings.Trim(string(tx.Value), `"`)
	switch {
	case a.Call == "":
		return fmt.Sprintf("send %s wei to %s", value, tx.To)
	case value == "" || value == "0" || value == "0x0":
		return fmt.Sprintf("call %s on %s", a.Call, tx.To)
	}
	return fmt.Sprintf("call %s on %s with %s wei", a.Call, tx.To, value)
}

// findApproval returns the request whose id begins with the text.
func findApproval(c *cli.Context, cl *client.Client, text string) (*api.Approval, error) {
	if len(text) < 4 {
		return nil, usageError("%q is too short for an id: give 4 digits or more", text)
	}
	list, err := cl.Approvals(c.Context)
	if err != nil {
		return nil, err
	}
	var found []*api.Approval
	for _, a := range list {
		if strings.HasPrefix(a.ID, strings.ToLower(text)) {
			found = append(found, a)
		}
	}
	switch len(found) {
	case 1:
		return cl.Approval(c.Context, found[0].ID)
	case 0:
		return nil, withHint(fmt.Errorf("no request %q waits for an approval: it may be decided, or its time may be over",
			text), "keyward approve list")
	}
	return nil, fmt.Errorf("%d requests begin with %q: give more of the id", len(found), text)
}

func (t *tool) approveShow(c *cli.Context) error {
	args, err := operands(c, "ID")
	if err != nil {
		return err
	}
	cl, err := t.dialApprove(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	a, err := findApproval(c, cl, args[0])
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(a)
	}
	return t.printApproval(a)
}

func (t *tool) printApproval(a *api.Approval) error {
	program := fmt.Sprintf("user %s (uid %d), process %d", userdb.User(a.Client.UID), a.Client.UID, a.Client.PID)
	if a.Client.Exe != "" {
		program += ", " + rules.Printable(a.Client.Exe)
	}
	t.print("request   %s", a.ID)
	t.print("who       %s", program)
	t.print("asks to   %s", approvalText(a))
	t.print("with      %s, session %s of account %s on chain %d", a.Method, a.Session, a.Account, a.ChainID)
	for _, r := range a.Rules {
		t.print("rule      %s", joined(r.Name, r.Message))
	}
	t.print("digest    %s", a.Digest)
	t.print("votes     %s, denied in %s", votesText(a), leftText(a.Until))
	for _, v := range a.Votes {
		t.print("          %s: %s", voterText(v.By), map[bool]string{true: "yes", false: "no"}[v.Approve])
	}
	if a.Risk != "" {
		t.print("risk      %s", a.Risk)
	}
	t.print("\nThe transaction:\n  %s", a.Transaction)
	if len(a.Charges) > 0 {
		t.print("\nSigning would count:")
		for _, charge := range a.Charges {
			t.print("  %s: %s of %s", charge.Tracker, charge.Amount, charge.Limit)
		}
	}
	if len(a.Limits) > 0 {
		t.print("\nWhat is left of the session's limits:")
		return t.printLimits(a.Limits)
	}
	return nil
}

// voterText names a voter.
func voterText(by string) string {
	uid, ok := strings.CutPrefix(by, "uid:")
	if !ok {
		return by
	}
	if u, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("%s (uid %s)", u.Username, uid)
	}
	return by
}

func (t *tool) vote(c *cli.Context, yes bool) error {
	args, err := operands(c, "ID")
	if err != nil {
		return err
	}
	cl, err := t.dialApprove(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	a, err := findApproval(c, cl, args[0])
	if err != nil {
		return err
	}
	if err := cl.Vote(c.Context, api.ApprovalVote{ID: a.ID, Digest: a.Digest, Approve: yes}); err != nil {
		return err
	}
	if !yes {
		return t.done(c, "denied")
	}
	return t.done(c, "voted yes on "+strconv.Quote(approvalText(a)))
}
