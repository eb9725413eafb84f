package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/socket/api"
)

func (t *tool) doctorCommand() *cli.Command {
	return &cli.Command{
		Name:  "doctor",
		Usage: "check everything that an agent needs, and say what to do about what is wrong",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "client", Usage: "also check that `CLIENT`, as in session create, can reach the apps' " +
				"socket; may be repeated"},
		},
		Description: `It looks at the configuration, the modes and owners of files, the sockets and their clients, modules, tokens and PINs, the state
and the disk, the clock, the limits of the process, the chains' nodes, the systemd unit and the version. It works with and without
a running agent, changes nothing, tries no PIN and makes no key (keyward backend check does). What only root or the agent's user
can see is skipped for others, and shown as such.

Exit codes: 0 nothing is wrong, or only warnings · 1 something is wrong`,
		Action: t.doctor,
	}
}

// verdict is what doctor thinks of one thing.
type verdict string

const (
	fine    verdict = "ok"
	warning verdict = "warning" // works, but not for long or not well
	wrong   verdict = "wrong"
	skipped verdict = "skipped" // can't be seen from here
)

// finding is one line of doctor's.
type finding struct {
	Check   string  `json:"check"` // a stable name
	Verdict verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Do      string  `json:"do,omitempty"` // the command that mends it, or in words
}

// examination is one run of doctor.
type examination struct {
	tool     *tool
	c        *cli.Context
	place    *place
	clients  []string    // to check, from --client and from the agent's sessions
	status   *api.Status // of the running agent; nil: none can be reached
	findings []finding
}

func (x *examination) add(check string, v verdict, do, format string, args ...any) {
	x.findings = append(x.findings, finding{check, v, fmt.Sprintf(format, args...), do})
}

func (t *tool) doctor(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	p, err := findAgent(c)
	if err != nil {
		return err
	}
	x := &examination{tool: t, c: c, place: p}
	for _, name := range c.StringSlice("client") {
		client, err := parseClient(name)
		if err != nil {
			return err
		}
		x.clients = append(x.clients, client)
	}
	x.examine()
	if c.Bool("json") {
		if err := t.printJSON(x.findings); err != nil {
			return err
		}
	} else {
		t.printFindings(x.findings)
	}
	n := 0
	for _, f := range x.findings {
		if f.Verdict == wrong {
			n++
		}
	}
	if n > 0 {
		return fmt.Errorf("doctor: %d of %d checks found something wrong", n, len(x.findings))
	}
	return nil
}

// examine makes all checks. Those that build on a configuration are left out without one.
func (x *examination) examine() {
	x.checkPlace()
	x.checkAgent()
	if x.checkConfig() {
		x.checkBackends()
		x.checkChains()
	}
	x.checkSockets()
	x.checkState()
	x.checkDisk()
	x.checkTrail()
	x.checkClock()
	x.checkLimits()
	x.checkUnit()
}

func (t *tool) printFindings(findings []finding) {
	width := 0
	for _, f := range findings {
		width = max(width, len(f.Check))
	}
	for _, f := range findings {
		t.print("%-7s  %-*s  %s", f.Verdict, width, f.Check, strings.ReplaceAll(f.Detail, "\n", "; "))
		if f.Do != "" {
			t.print("%*s→ %s", 7+2+width+2, "", f.Do)
		}
	}
}

// clientsOf are the clients of sessions, each once.
func clientsOf(sessions []*api.Session) (clients []string) {
	for _, s := range sessions {
		if s.Status == "active" || s.Status == "pending" {
			clients = append(clients, s.Clients...)
		}
	}
	slices.Sort(clients)
	return slices.Compact(clients)
}
