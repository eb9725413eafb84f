package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

func (t *tool) statusCommand() *cli.Command {
	return &cli.Command{
		Name:        "status",
		Usage:       "say how the agent is",
		Description: "Exit codes: 0 ready · 10 degraded · 11 locked · 12 halted · 69 agent not reachable",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "wait", Usage: "wait up to `DURATION` for an agent that is starting"},
		},
		Action: t.status,
	}
}

// waitStep is how often status --wait looks for the agent.
const waitStep = 50 * time.Millisecond

func (t *tool) status(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	status, err := t.agentStatus(c)
	for end := time.Now().Add(c.Duration("wait")); unreachable(err) && time.Now().Before(end); {
		time.Sleep(waitStep)
		status, err = t.agentStatus(c)
	}
	if err != nil {
		return err
	}
	p, err := findAgent(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err := t.printJSON(struct {
			*api.Status
			Directory string `json:"directory"` // of the configuration
			FoundBy   string `json:"foundBy"`   // the rule by which the command found it
		}{status, p.dirs.Config, p.dirs.Rule})
		return errors.Join(err, stateError(status))
	}
	if p.dirs.Hidden != "" {
		t.note("the system's agent is another one: keyward status --dir %s", p.dirs.Hidden)
	}
	return errors.Join(t.printStatus(p, status), stateError(status))
}

// unreachable reports whether err may be because the agent is still starting.
func unreachable(err error) bool {
	if err == nil {
		return false
	}
	code, _ := verdictOn(err)
	return code == exitUnreachable
}

func (t *tool) agentStatus(c *cli.Context) (*api.Status, error) {
	cl, err := t.dialAdmin(c)
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	return cl.Status(c.Context)
}

func (t *tool) printStatus(p *place, s *api.Status) error {
	facts := [][2]string{
		{"agent", fmt.Sprintf("keyward %s, pid %d, up %v", s.Version, s.PID, time.Since(s.StartedAt).Round(time.Second))},
		{"directory", fmt.Sprintf("%s (%s)", p.dirs.Config, p.dirs.Rule)},
		{"state", joined(s.State, s.Detail)},
		{"sessions", counts(s.Sessions)},
	}
	for _, b := range s.Backends {
		facts = append(facts, [2]string{"backend " + b.Name, joined(b.State, b.Detail)})
	}
	for _, c := range s.Chains {
		facts = append(facts, chainFact(c))
	}
	facts = append(facts,
		[2]string{"clients", fmt.Sprintf("%d connected, %d requests in flight", s.Connections, s.InFlight)},
		[2]string{"since start", fmt.Sprintf("%d granted, %d denied, %d failed", s.Granted, s.Denied, s.Failed)},
		[2]string{"confined by", strings.Join(s.Confined, ", ")},
		[2]string{"audit trail", auditHead(s.AuditHead)})
	return t.facts(facts...)
}

func joined(word, detail string) string {
	if detail == "" {
		return word
	}
	return word + ": " + detail
}

func counts(byStatus map[string]int) string {
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(byStatus)) {
		if n := byStatus[status]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	if parts == nil {
		return "none"
	}
	return strings.Join(parts, ", ")
}

func auditHead(h api.AuditHead) string {
	if h.Seq == 0 {
		return "empty"
	}
	return fmt.Sprintf("%d records, the last is %v", h.Seq, h.Hash)
}
