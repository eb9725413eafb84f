package command

import (
	"fmt"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

func (t *tool) backendCommand() *cli.Command {
	return &cli.Command{
		Name:  "backend",
		Usage: "see and test the places that keep keys",
		Subcommands: []*cli.Command{
			{
				Name: "list", Usage: "list the configured backends, what they can do and how they are", Action: t.backendList,
				Flags: []cli.Flag{&cli.BoolFlag{Name: "tokens",
					Usage: "list the tokens of the configured PKCS#11 modules instead, with labels and serials; needs no agent"}},
			},
			{
				Name: "check", ArgsUsage: "[NAME]", Action: t.backendCheck,
				Usage: "have a backend make a throw-away key, find it, sign with it and destroy it (default: each backend)",
				Description: `What is done is recorded in the audit trail. Whatever fails, the key is destroyed; where the device does not
answer any more, the agent destroys it later. Exit code 1 if anything failed. A cloud KMS may charge for the key.`,
			},
		},
	}
}

func (t *tool) backendList(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	if c.Bool("tokens") {
		return t.tokenList(c)
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	list, err := cl.Backends(c.Context)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(list)
	}
	rows := [][]string{{"NAME", "TYPE", "PROTECTION", "STATE", "CAN", "DETAIL"}}
	for _, b := range list {
		rows = append(rows, []string{b.Name, b.Type, b.Protection, b.State, strings.Join(b.Can, ", "), b.Detail})
	}
	return t.table(rows)
}

func (t *tool) backendCheck(c *cli.Context) error {
	names := c.Args().Slice()
	if len(names) > 1 {
		return usageError("backend check takes one backend at most")
	}
	cl, err := t.dialAdmin(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	if len(names) == 0 {
		list, err := cl.Backends(c.Context)
		if err != nil {
			return err
		}
		for _, b := range list {
			names = append(names, b.Name)
		}
	}
	var tests []*api.BackendCheck
	var failed []string
	for _, name := range names {
		test, err := cl.CheckBackend(c.Context, name)
		if err != nil {
			return fmt.Errorf("backend %q: %w", name, err)
		}
		if !test.OK {
			failed = append(failed, name)
		}
		tests = append(tests, test)
		if !c.Bool("json") {
			t.printBackendCheck(test)
		}
	}
	if c.Bool("json") {
		if err := t.printJSON(tests); err != nil {
			return err
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("failed: backend %s", strings.Join(failed, ", ")) // what to do is in the steps' own errors
	}
	return nil
}

func (t *tool) printBackendCheck(test *api.BackendCheck) {
	t.print("%s", joined(test.Backend, test.Protection))
	for _, s := range test.Steps {
		result := "ok"
		if s.Error != "" {
			result = "FAILED: " + s.Error
		}
		t.print("  %-9s %8.1f ms  %s", s.Name, s.Millis, result)
	}
}
