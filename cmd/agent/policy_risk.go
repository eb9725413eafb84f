package main

import (
	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/policy"
)

func (t *tool) policyRiskCommand() *cli.Command {
	return &cli.Command{
		Name:   "risk",
		Usage:  "say what a session can lose at most until it expires, if its key falls into the wrong hands",
		Flags:  []cli.Flag{specFlag()},
		Action: t.policyRisk,
	}
}

func (t *tool) policyRisk(c *cli.Context) error {
	if err := required(c, "spec"); err != nil {
		return err
	}
	_, spec, err := t.readSpec(c)
	if err != nil {
		return err
	}
	risk := spec.Risk(unixNow())
	if c.Bool("json") {
		return t.printJSON(risk)
	}
	return t.printRisk(risk)
}

// printRisk prints the table and the sentence.
func (t *tool) printRisk(risk *policy.Risk) error {
	rows := [][]string{{"ASSET", "AT MOST", "THROUGH", "TO", "WHERE", "WHY"}}
	for i := range risk.Rows {
		row := &risk.Rows[i]
		rows = append(rows, []string{row.Asset.Name(), row.Amount(), row.Through, row.Recipient, row.Path, row.Why})
	}
	for i := range risk.Totals {
		total := &risk.Totals[i]
		rows = append(rows, []string{"total " + total.Asset.Name(), total.Amount()})
	}
	if len(risk.Rows) > 0 {
		if err := t.table(rows); err != nil {
			return err
		}
	}
	t.print("%s", risk.Sentence)
	return nil
}
