package command

import (
	"fmt"
	"os"
	"os/user"
	"regexp"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/socket/api"
)

func (t *tool) sessionCreateCommand() *cli.Command {
	return &cli.Command{
		Name:  "create",
		Usage: "make a key in the device and a session around it",
		Flags: []cli.Flag{
			specFlag(),
			&cli.StringFlag{Name: "account", Usage: "`ADDRESS` of the smart account that the session is for"},
			&cli.StringFlag{Name: "chain", Usage: "`NAME` or id of the chain: abstract, abstract-testnet, or one from the " +
				"configuration"},
			&cli.StringSliceFlag{Name: "client", Usage: "`CLIENT` that may use the session: uid:N, gid:N or a user's name; " +
				"may be repeated (default: the user who runs this)"},
			&cli.StringFlag{Name: "kind", Value: "agw", Usage: "`KIND`: agw (a smart account's session) or eoa (the signer " +
				"is the account)"},
			&cli.StringFlag{Name: "backend", Usage: "`NAME` of the backend that keeps the key; needed if there are several"},
			uncheckedFlag(),
		},
		Action: t.sessionCreate,
	}
}

func (t *tool) sessionCreate(c *cli.Context) error {
	flags := []string{"spec", "chain"}
	if c.String("kind") == "agw" {
		flags = append(flags, "account")
	}
	if err := required(c, flags...); err != nil {
		return err
	}
	req, err := t.createRequest(c)
	if err != nil {
		return err
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	s, err := cl.CreateSession(c.Context, req)
	if err != nil {
		return err
	}
	t.warnUnreachable(c, s.Clients)
	if c.Bool("json") {
		return t.printJSON(s)
	}
	return t.printCreated(c, s)
}

// createRequest reads the flags.
func (t *tool) createRequest(c *cli.Context) (*api.CreateSession, error) {
	kind := c.String("kind")
	req := &api.CreateSession{Kind: kind, Chain: c.String("chain"), Backend: c.String("backend"),
		Unchecked: c.Bool("unchecked")}
	switch kind {
	case "agw":
		req.Account = new(policy.Address)
		if err := req.Account.UnmarshalText([]byte(c.String("account"))); err != nil {
			return nil, usageError("--account %s: %v", shortened(c.String("account")), err)
		}
	case "eoa":
		if c.IsSet("account") {
			return nil, usageError("--account: an eoa session's account is its new signer")
		}
	default:
		return nil, usageError("--kind %q: want agw or eoa", kind)
	}
	var err error
	// Parsed here only so that a mistake is reported with the file's name; the agent
	// judges the very text.
	var spec *policy.Spec
	if req.Spec, spec, err = t.readSpec(c); err != nil {
		return nil, err
	}
	if err := spec.CheckExpiryUnit(); err != nil {
		return nil, inFile(c.String("spec"), err)
	}
	req.Clients, err = t.clients(c.StringSlice("client"))
	return req, err
}

func uncheckedFlag() cli.Flag {
	return &cli.BoolFlag{Name: "unchecked", Usage: "do without the policy registry of Abstract's mainnet, where there " +
		"is nobody to ask it"}
}

// clients reads who may use the session: by default the user who asks.
func (t *tool) clients(names []string) ([]string, error) {
	if len(names) == 0 {
		self := fmt.Sprintf("uid:%d", os.Getuid())
		t.note("no --client given: only you, %s, may use the session", self)
		return []string{self}, nil
	}
	var clients []string
	for _, name := range names {
		client, err := parseClient(name)
		if err != nil {
			return nil, err
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// parseClient makes "uid:N" or "gid:N" of those, of uid:NAME and gid:NAME, and of a user's name.
func parseClient(s string) (string, error) {
	kind, name, ok := strings.Cut(s, ":")
	if !ok {
		kind, name = "uid", s
	}
	if kind != "uid" && kind != "gid" {
		return "", usageError("--client %q: want uid:N, gid:N, uid:NAME, gid:NAME or a user's name", s)
	}
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return kind + ":" + name, nil
	}
	if kind == "gid" {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", usageError("--client %q: there is no group %q", s, name)
		}
		return "gid:" + g.Gid, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return "", usageError("--client %q: there is no user %q", s, name)
	}
	return "uid:" + u.Uid, nil
}

// printCreated prints what the operator needs next, the calldata above all.
func (t *tool) printCreated(c *cli.Context, s *api.Session) error {
	spec, err := s.Session.MarshalJSON()
	if err != nil {
		return err
	}
	if err := t.facts(
		[2]string{"id", s.ID},
		[2]string{"status", s.Status},
		[2]string{"signer", s.Signer.String()},
		[2]string{"account", s.Account.String()},
		[2]string{"chain", fmt.Sprint(s.ChainID)},
		[2]string{"session hash", s.SessionHash.String()},
		[2]string{"key", s.KeyURI},
		[2]string{"protection", s.Protection},
		[2]string{"clients", strings.Join(s.Clients, ", ")},
		[2]string{"signs until", when(&s.SignsUntil)},
		[2]string{"session", string(spec)},
		[2]string{"createSession calldata", s.CreateSessionCalldata},
	); err != nil {
		return err
	}
	if err := t.printReview(s); err != nil {
		return err
	}
	if s.Kind == "eoa" {
		t.hint("send funds to %v; apps can sign with it now", s.Signer)
		return nil
	}
	t.print("\nFor the account's owner, with agw-client:\n\n%s", ownersSnippet(string(spec)))
	t.note("or the calldata from %v to the validator %v on chain %d. If the agent reads that chain, the session turns "+
		"active by itself; else:",
		s.Account, s.Validator, s.ChainID)
	t.hint("keyward session activate %s", s.ID)
	return nil
}

// printReview prints what the session can lose, and warnings.
func (t *tool) printReview(s *api.Session) error {
	if s.Risk == nil {
		return nil
	}
	t.print("\nWhat it can lose at most:")
	if err := t.printRisk(s.Risk); err != nil {
		return err
	}
	if len(s.Warnings) > 0 {
		t.print("")
	}
	t.printWarnings(s.Warnings)
	return nil
}

// decimalString is an integer as specs have it in JSON.
var decimalString = regexp.MustCompile(`"([0-9]+)"`)

// ownersSnippet is TypeScript that has the owner's client approve a session. The SDK takes
// integers as bigints.
func ownersSnippet(spec string) string {
	return "await agwClient.createSession({ session: " + decimalString.ReplaceAllString(spec, "${1}n") + " });"
}
