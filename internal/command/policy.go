package command

import (
	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/policy"
)

func (t *tool) policyCommand() *cli.Command {
	return &cli.Command{
		Name:  "policy",
		Usage: "read and rehearse policies and guard rules; needs no agent and no key",
		Subcommands: append([]*cli.Command{
			{
				Name:   "show",
				Usage:  "say in plain words what a session spec allows",
				Flags:  []cli.Flag{specFlag()},
				Action: t.policyShow,
			},
			{
				Name:   "simulate",
				Usage:  "judge the transactions of recorded or invented cases as the chain would",
				Flags:  []cli.Flag{casesFlag()},
				Action: t.policySimulate,
			},
			t.policyLintCommand(),
			t.policyRiskCommand(),
		}, t.ruleCommands()...),
	}
}

func specFlag() cli.Flag {
	return &cli.StringFlag{Name: "spec", TakesFile: true,
		Usage: "`FILE` with the session, the SDK's SessionConfig as JSON, or - for stdin"}
}

func casesFlag() cli.Flag {
	return &cli.StringFlag{Name: "cases", TakesFile: true,
		Usage: "`FILE` of cases, one JSON object a line, or - for stdin; gzip is fine"}
}

// readSpec reads the spec that --spec names. Its signer may be missing. It says what selectors its signatures have.
func (t *tool) readSpec(c *cli.Context) (data []byte, spec *policy.Spec, err error) {
	name := c.String("spec")
	data, err = t.readInput(name)
	if err != nil {
		return nil, nil, err
	}
	spec, named, err := policy.ReadSpec(data, false)
	if err != nil {
		return nil, nil, inFile(name, err)
	}
	for _, n := range named {
		t.note("%s: %s has the selector %v", n.Path, n.Signature, n.Selector)
	}
	return data, spec, nil
}

func (t *tool) policyShow(c *cli.Context) error {
	if err := required(c, "spec"); err != nil {
		return err
	}
	_, spec, err := t.readSpec(c)
	if err != nil {
		return err
	}
	warnings := spec.UnitWarnings(unixNow())
	if c.Bool("json") {
		return t.printJSON(map[string]any{"session": spec, "sessionHash": spec.Hash(), "describe": spec.Describe(),
			"warnings": warnings})
	}
	for _, line := range spec.Describe() {
		t.print("%s", line)
	}
	t.printWarnings(warnings)
	return nil
}
