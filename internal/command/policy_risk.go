package command

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
	now := unixNow()
	risk, warnings := spec.Risk(now), spec.UnitWarnings(now)
	if c.Bool("json") {
		return t.printJSON(&warnedRisk{risk, warnings})
	}
	if err := t.printRisk(risk); err != nil {
		return err
	}
	t.printWarnings(warnings)
	return nil
}

// warnedRisk is what policy risk --json prints.
type warnedRisk struct {
	*policy.Risk
	Warnings []policy.Warning `json:"warnings"` // of dates and periods only; policy lint has all of them
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
