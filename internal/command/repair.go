package command

import (
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/internal/repair"
)

func (t *tool) repairCommand() *cli.Command {
	return &cli.Command{
		Name:  "repair",
		Usage: "find what is damaged in the state of an agent that does not run, and repair it on your word",
		Description: "Without --apply nothing is changed: repair names the damage and what can be done. Whatever is " +
			"replaced is moved aside, nothing is deleted,\n" +
			"and the audit trail gets a record of it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "apply", Usage: "repair in this `WAY`, one of those that repair names"},
			&cli.StringFlag{Name: "from", TakesFile: true, Usage: "`BACKUP` to take records from"},
		},
		Action: t.repair,
	}
}

// found is what repair --json prints.
type found struct {
	Damage  string          `json:"damage,omitempty"` // "": none
	Choices []repair.Choice `json:"choices,omitempty"`
	Done    *repair.Done    `json:"done,omitempty"`
}

func (t *tool) repair(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := t.findRunning(c)
	if err != nil {
		return err
	}
	if cl, err := p.dial(c.Context, p.agent().AdminSocket); err == nil {
		return errors.Join(errors.New("the agent runs: stop it first"), cl.Close())
	}
	f := repair.Find(p.dirs)
	switch {
	case f == nil && c.IsSet("apply"):
		return errors.New("nothing is damaged here")
	case f == nil && c.Bool("json"):
		return t.printJSON(found{})
	case f == nil:
		t.print("nothing is damaged")
		return nil
	case c.IsSet("apply"):
		return t.applyRepair(c, p, f)
	case c.Bool("json"):
		return errors.Join(t.printJSON(found{Damage: f.Damage.Error(), Choices: f.Choices}), withCode(exitDamaged, f.Damage))
	}
	for _, choice := range f.Choices {
		t.print("%-12s %s", choice.Name, choice.Does)
	}
	if len(f.Choices) == 0 {
		return f.Damage
	}
	return withHint(withCode(exitDamaged, f.Damage), "choose one of these ways: keyward repair --apply WAY")
}

func (t *tool) applyRepair(c *cli.Context, p *place, f *repair.Finding) error {
	done, err := repair.Do(f, p.dirs, c.String("apply"), c.String("from"), time.Now())
	if err != nil {
		return withCode(exitDamaged, fmt.Errorf("%w; the damage is: %w", err, f.Damage))
	}
	if c.Bool("json") {
		return t.printJSON(found{Damage: done.Damage, Done: done})
	}
	t.print("repaired by %s: %s", done.Choice, done.Damage)
	if done.Forward != nil {
		t.sayForward(done.Forward)
	}
	if done.Aside != "" {
		t.note("what was replaced is in %s", done.Aside)
	}
	return nil
}
