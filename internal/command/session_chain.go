package command

import (
	"strconv"
	"time"

	"github.com/holiman/uint256"
	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

func (t *tool) sessionImportCommand() *cli.Command {
	return &cli.Command{
		Name:  "import",
		Usage: "recover a session that the agent has lost, whose key a backend still has",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "from-chain", Usage: "take the policy from the session's SessionCreated event"},
			&cli.StringFlag{Name: "chain", Usage: "`NAME` or id of the chain, which needs an rpc in the configuration"},
			&cli.StringFlag{Name: "account", Usage: "`ADDRESS` of the smart account"},
			&cli.StringFlag{Name: "session-hash", Usage: "`HASH` of the session"},
			&cli.StringSliceFlag{Name: "client", Usage: "`CLIENT` that may use the session, as for session create"},
			&cli.StringFlag{Name: "backend", Usage: "`NAME` of the backend that has the key (default: all are looked at)"},
		},
		Action: t.sessionImport,
	}
}

func (t *tool) sessionImport(c *cli.Context) error {
	if err := required(c, "from-chain", "chain", "account", "session-hash"); err != nil {
		return err
	}
	req := &api.ImportSession{Chain: c.String("chain"), Backend: c.String("backend")}
	if err := req.Account.UnmarshalText([]byte(c.String("account"))); err != nil {
		return usageError("--account %s: %v", shortened(c.String("account")), err)
	}
	if err := req.SessionHash.UnmarshalText([]byte(c.String("session-hash"))); err != nil {
		return usageError("--session-hash %q: %v", c.String("session-hash"), err)
	}
	var err error
	if req.Clients, err = t.clients(c.StringSlice("client")); err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	s, err := cl.ImportSession(c.Context, req)
	if err != nil {
		return err
	}
	t.warnUnreachable(c, s.Clients)
	if c.Bool("json") {
		return t.printJSON(s)
	}
	if err := t.printSession(s); err != nil {
		return err
	}
	t.printWarnings(s.Session.UnitWarnings(unixNow()))
	t.note("what the lost agent had signed and has not landed is not known; see outstanding transactions of the account")
	return nil
}

func (t *tool) sessionRenewCommand() *cli.Command {
	return &cli.Command{
		Name:      "renew",
		Usage:     "prepare a successor with a fresh key; clients move over once its owner has approved it",
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "lifetime", Usage: "`DURATION` that the successor is valid for, e.g. 720h (default: as " +
				"long as the session was made for)"},
			uncheckedFlag(),
		},
		Action: t.sessionRenew,
	}
}

func (t *tool) sessionRenew(c *cli.Context) error {
	args, err := operands(c, "ID")
	if err != nil {
		return err
	}
	lifetime := c.Duration("lifetime")
	if c.IsSet("lifetime") && lifetime < time.Minute {
		return usageError("--lifetime %v: want a minute or more", lifetime)
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
	old, err := cl.Session(c.Context, id)
	if err != nil {
		return err
	}
	if err := old.Session.CheckExpiryUnit(); err != nil && lifetime == 0 {
		return usageError("session %s: %v: say how long the successor is to last, with --lifetime", old.ID, err)
	}
	s, err := cl.RenewSession(c.Context, &api.RenewSession{ID: old.ID, ExpiresAt: renewedUntil(old, lifetime, time.Now()),
		Unchecked: c.Bool("unchecked")})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(s)
	}
	if err := t.printCreated(c, s); err != nil {
		return err
	}
	t.note("%s goes on until then; once %s is active, clients that name %s or its account are moved over, and the "+
		"owner can revoke %s",
		old.ID, s.ID, old.ID, old.ID)
	return nil
}

// renewedUntil is when the successor expires, in Unix seconds. A lifetime of 0 is that of old: never, if old never
// does.
func renewedUntil(old *api.Session, lifetime time.Duration, now time.Time) policy.Decimal {
	if lifetime == 0 && old.Session.NeverExpires() {
		return policy.Decimal(old.Session.ExpiresAt)
	}
	seconds := uint256.NewInt(uint64(lifetime / time.Second))
	if lifetime == 0 {
		seconds = new(uint256.Int).Sub(&old.Session.ExpiresAt, uint256.NewInt(uint64(old.CreatedAt.Unix())))
	}
	return policy.Decimal(*seconds.Add(seconds, uint256.NewInt(uint64(now.Unix()))))
}

// onChainFact is what the chain has said about a session.
func onChainFact(s *api.Session) string {
	if s.Chain == nil {
		return ""
	}
	text := s.Chain.Status
	if s.Chain.Block > 0 {
		text += ", settled at block " + strconv.FormatUint(s.Chain.Block, 10)
	}
	if s.Chain.ReadAt != nil {
		text += ", read " + when(s.Chain.ReadAt)
	}
	if len(s.Chain.External) > 0 {
		text += ", USED FROM ELSEWHERE"
	}
	return text
}

// chainFact is a watched chain's line in status.
func chainFact(c api.Chain) [2]string {
	text := c.State
	if c.ReadAt != nil {
		text += ", block " + strconv.FormatUint(c.Block, 10) + " read " + when(c.ReadAt)
	}
	if c.Blocked > 0 {
		text += ", " + strconv.Itoa(c.Blocked) + " stopped by the registry"
	}
	if c.External > 0 {
		text += ", " + strconv.Itoa(c.External) + " USED FROM ELSEWHERE"
	}
	return [2]string{"chain " + c.Name, joined(text, c.Detail)}
}
