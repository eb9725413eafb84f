package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

func (t *tool) sessionShow(c *cli.Context) error {
	args, err := operands(c, "ID")
	if err != nil {
		return err
	}
	cl, admin, err := t.dialReader(c)
	if err != nil {
		return err
	}
	defer cl.Close()
	list := cl.Sessions
	if admin {
		list = cl.AllSessions
	}
	id, err := wholeID(c.Context, list, args[0])
	if err != nil {
		return err
	}
	s, err := cl.Session(c.Context, id)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(s)
	}
	if err := t.printSession(s); err != nil {
		return err
	}
	t.print("\nWhat it may do:")
	for _, line := range s.Session.Describe() {
		t.print("  %s", line)
	}
	t.printWarnings(s.Session.UnitWarnings(unixNow()))
	if len(s.Limits) == 0 {
		return nil
	}
	t.print("\nWhat is left of its limits:")
	return t.printLimits(s.Limits)
}

// printSession prints everything but the policy and its limits.
func (t *tool) printSession(s *api.Session) error {
	validator, outstanding := "", ""
	if s.Validator != nil {
		validator = s.Validator.String()
	}
	if s.Outstanding != nil {
		outstanding = fmt.Sprintf("%d signed and not settled on chain", *s.Outstanding)
	}
	return t.facts(
		[2]string{"id", s.ID},
		[2]string{"status", s.Status},
		[2]string{"kind", s.Kind},
		[2]string{"signer", s.Signer.String()},
		[2]string{"account", s.Account.String()},
		[2]string{"chain", fmt.Sprint(s.ChainID)},
		[2]string{"validator", validator},
		[2]string{"session hash", s.SessionHash.String()},
		[2]string{"key", s.KeyURI},
		[2]string{"protection", s.Protection + ", in backend " + s.Backend},
		[2]string{"clients", strings.Join(s.Clients, ", ")},
		[2]string{"created", when(&s.CreatedAt)},
		[2]string{"activated", when(s.ActivatedAt)},
		[2]string{"signs until", when(&s.SignsUntil)},
		[2]string{"ended", when(s.EndedAt)},
		[2]string{"key destroyed", when(s.KeyDestroyedAt)},
		[2]string{"transactions", outstanding},
		[2]string{"on chain", onChainFact(s)},
		[2]string{"stopped", s.Blocked},
		[2]string{"waiting", s.Waiting},
		[2]string{"renews", s.Predecessor},
		[2]string{"renewed by", s.Successor},
	)
}

func (t *tool) printLimits(limits []api.Limit) error {
	rows := [][]string{{"  LIMIT", "OF", "USED", "REMAINING"}}
	watched := slices.ContainsFunc(limits, func(l api.Limit) bool { return l.ChainUsed != nil })
	foreseen := slices.ContainsFunc(limits, func(l api.Limit) bool { return l.RunsOut != nil })
	if watched {
		rows[0] = append(rows[0], "ON CHAIN")
	}
	if foreseen {
		rows[0] = append(rows[0], "RUNS OUT")
	}
	for _, l := range limits {
		row := []string{"  " + l.Tracker.String(), l.Limit.String(), l.Used.String(), l.Remaining.String()}
		if watched {
			counted := "?"
			if l.ChainUsed != nil {
				counted = l.ChainUsed.String()
			}
			row = append(row, counted)
		}
		if foreseen {
			row = append(row, when(l.RunsOut))
		}
		rows = append(rows, row)
	}
	return t.table(rows)
}
