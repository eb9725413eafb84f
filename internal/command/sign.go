package command

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

func (t *tool) signCommand() *cli.Command {
	return &cli.Command{
		Name:  "sign",
		Usage: "sign a transaction as an app would, and print the raw transaction",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "session", Usage: "`ID` of the session to sign with"},
			&cli.StringFlag{Name: "signer", Usage: "`ADDRESS` of the signer, instead of --session"},
			&cli.StringFlag{Name: "tx", TakesFile: true, Usage: "`FILE` with the transaction as JSON, or - for stdin"},
			&cli.BoolFlag{Name: "simulate", Usage: "only ask for the verdict; nothing is signed or counted"},
		},
		Action: t.sign,
	}
}

func (t *tool) sign(c *cli.Context) error {
	if err := required(c, "tx"); err != nil {
		return err
	}
	tx, err := t.transaction(c)
	if err != nil {
		return err
	}
	cl, err := t.dialAgent(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	for _, flag := range []string{"session", "signer"} {
		if !c.IsSet(flag) {
			continue
		}
		name, err := wholeID(c.Context, cl.Sessions, c.String(flag))
		if err != nil {
			return err
		}
		tx = withMember(tx, "session", name) // the agent takes either there
	}
	if c.Bool("simulate") {
		verdict, err := cl.Simulate(c.Context, tx)
		if err != nil {
			return err
		}
		return t.printVerdict(c, verdict)
	}
	signed, err := cl.SignTransaction(c.Context, tx)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(signed)
	}
	t.print("%v", signed.Raw)
	return nil
}

// transaction reads the transaction. Its text is left as it is, since the agent is the one to judge it.
func (t *tool) transaction(c *cli.Context) (json.RawMessage, error) {
	name := c.String("tx")
	data, err := t.readInput(name)
	if err != nil {
		return nil, err
	}
	data = bytes.TrimSpace(data)
	if !json.Valid(data) || data[0] != '{' {
		return nil, inFile(name, usageError("not a JSON object"))
	}
	if c.IsSet("session") && c.IsSet("signer") {
		return nil, usageError("give --session or --signer, not both")
	}
	return data, nil
}

// withMember adds a member to a JSON object. If it is there already the agent refuses the
// object for having it twice.
func withMember(object []byte, key, value string) []byte {
	text, _ := json.Marshal(map[string]string{key: value}) // {"key":"value"}
	rest := bytes.TrimSpace(object[1:])
	if rest[0] != '}' {
		text[len(text)-1] = ','
		return append(text, rest...)
	}
	return text
}

// printVerdict prints what session_simulate found. A denial is the command's error, as it
// would be without --simulate.
func (t *tool) printVerdict(c *cli.Context, v *api.Verdict) error {
	if c.Bool("json") {
		if err := t.printJSON(v); err != nil {
			return err
		}
	}
	if !v.Allow {
		return withCode(exitDenied, fmt.Errorf("denied: %s", v.Message))
	}
	if c.Bool("json") {
		return nil
	}
	if len(v.Charges) == 0 { // nothing is limited, or it is signed already
		t.print("allowed; signing would count nothing")
		return nil
	}
	t.print("allowed; signing would count:")
	rows := [][]string{{"  LIMIT", "AMOUNT", "OF"}}
	for _, charge := range v.Charges {
		rows = append(rows, []string{"  " + charge.Tracker.String(), charge.Amount.String(), charge.Limit.String()})
	}
	return t.table(rows)
}
