package command

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
)

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", TakesFile: true,
		Usage: "configuration `FILE` with the guard rules; the agent's own if it is not given"}
}

// ruleCommands rehearse the guard rules of a configuration.
func (t *tool) ruleCommands() []*cli.Command {
	return []*cli.Command{
		{
			Name:      "test",
			Usage:     "judge the cases in FILE by the guard rules, and fail if a case is not judged as it wants",
			ArgsUsage: "FILE",
			Flags:     []cli.Flag{configFlag()},
			Action:    t.policyTest,
		},
		{
			Name:  "replay",
			Usage: "judge what the audit trail has granted by the guard rules of a configuration, and say what they would deny",
			Flags: []cli.Flag{
				configFlag(),
				&cli.StringFlag{Name: "trail", TakesFile: true, Usage: "audit trail `FILE`; the agent's own if it is not given"},
				&cli.StringFlag{Name: "since", Usage: "show only grants from this `TIME` on: 2h (ago), 2026-11-28, or " +
					"2026-11-28T15:04:05Z"},
				&cli.StringFlag{Name: "until", Usage: "show only grants before this `TIME`"},
			},
			Action: t.policyReplay,
		},
		{
			Name:      "diff",
			Usage:     "say in plain words how the guard rules of NEW differ from those of OLD, two configuration files",
			ArgsUsage: "OLD NEW",
			Action:    t.policyDiff,
		},
	}
}

// guardRules reads the configuration that --config names, or the agent's own.
func (t *tool) guardRules(c *cli.Context) (*config.Config, error) {
	if name := c.String("config"); name != "" {
		return config.Load(name)
	}
	dirs, err := config.FindDirs(c.String("dir"), true)
	if err != nil {
		return nil, err
	}
	return config.Load(dirs.ConfigFile())
}

// testedCase is one case of policy test --json.
type testedCase struct {
	Case string `json:"case"`
	OK   bool   `json:"ok"`
	Want string `json:"want"`
	Got  string `json:"got"`
	Rule string `json:"rule,omitempty"` // that denied
	Why  string `json:"why,omitempty"`  // its words
}

func (t *tool) policyTest(c *cli.Context) error {
	args, err := operands(c, "FILE")
	if err != nil {
		return err
	}
	conf, err := t.guardRules(c)
	if err != nil {
		return err
	}
	data, err := t.readInput(args[0])
	if err != nil {
		return err
	}
	cases, err := rules.ReadCases(data)
	if err != nil {
		return inFile(args[0], err)
	}
	var rehearsal session.Rehearsal // the cases count one after the other, as requests do
	failed := 0
	results := make([]testedCase, len(cases))
	for i := range cases {
		results[i] = judgeCase(&rehearsal, conf.Guard, &cases[i])
		if !results[i].OK {
			failed++
		}
	}
	if c.Bool("json") {
		if err := t.printJSON(results); err != nil {
			return err
		}
	} else {
		for _, r := range results {
			t.print("%s", r)
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases are not judged as they want", failed, len(cases))
	}
	return nil
}

func judgeCase(r *session.Rehearsal, set *rules.Set, c *rules.Case) testedCase {
	result := testedCase{Case: c.Name, Want: c.Want, Got: "allow"}
	for n := range c.Requests() {
		result.Got, result.Rule, result.Why = "allow", "", ""
		if rule, err := r.Judge(set, c.Input(n)); err != nil {
			result.Got, result.Rule, result.Why = "deny", rule, err.Error()
			if errors.Is(err, session.ErrNotApproved) {
				result.Got, result.Why = "approve", fmt.Sprintf("guard rule %q wants an approval", rule)
			}
		}
	}
	result.OK = result.Got == c.Want && (c.Rule == "" || c.Rule == result.Rule)
	return result
}

func (r testedCase) String() string {
	verdict := "ok  "
	if !r.OK {
		verdict = "FAIL"
	}
	text := fmt.Sprintf("%s %s: %s", verdict, r.Case, r.Got)
	if r.Why != "" {
		text += ": " + r.Why
	}
	if !r.OK {
		text += fmt.Sprintf(" (want %s)", r.Want)
	}
	return text
}

// replayed is one line of policy replay --json: a grant that the rules would deny.
type replayed struct {
	Record  uint64    `json:"record"`
	Time    time.Time `json:"time"`
	Session string    `json:"session"`
	Rule    string    `json:"rule"`
	Why     string    `json:"why"`
}

func (t *tool) policyReplay(c *cli.Context) error {
	if err := required(c); err != nil {
		return err
	}
	conf, err := t.guardRules(c)
	if err != nil {
		return err
	}
	since, err := momentFlag(c, "since")
	if err != nil {
		return err
	}
	until, err := momentFlag(c, "until")
	if err != nil {
		return err
	}
	path := c.String("trail")
	if path == "" {
		p, err := findAgent(c)
		if err != nil {
			return err
		}
		path = p.dirs.AuditTrail()
	}
	var rehearsal session.Rehearsal
	denied, judged, skipped := []replayed{}, 0, 0
	protections := map[string]string{}
	err = eachRecord(path, func(r *replayRecord) error {
		if r.Protection != "" {
			protections[r.Session] = r.Protection
		}
		if r.Event != audit.SignGranted || r.Verdict != nil && r.Verdict.Repeat { // which costs nothing
			return nil
		}
		in, err := r.input(protections[r.Session])
		if err != nil {
			skipped++
			return nil
		}
		shown := !r.Time.Before(since) && (until.IsZero() || r.Time.Before(until)) // earlier ones count, too
		if shown {
			judged++
		}
		if rule, err := rehearsal.Judge(conf.Guard, in); err != nil && shown {
			why := err.Error()
			if errors.Is(err, session.ErrNotApproved) {
				why = fmt.Sprintf("guard rule %q wants an approval", rule)
			}
			denied = append(denied, replayed{r.Seq, r.Time, r.Session, rule, why})
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return t.printJSON(map[string]any{"judged": judged, "skipped": skipped, "denied": denied})
	}
	for _, d := range denied {
		t.print("record %d, %s, session %s: %s", d.Record, d.Time.UTC().Format(time.DateTime), d.Session, d.Why)
	}
	t.print("%d of %d grants would be denied.", len(denied), judged)
	if skipped > 0 {
		t.print("%d grants could not be read again: the trail does not have all of such a transaction.", skipped)
	}
	return nil
}

// replayRecord is a record as policy replay reads it.
type replayRecord struct {
	Seq uint64 `json:"seq"`
	audit.Record
	Transaction json.RawMessage `json:"transaction"`
}

// input is what the rules look at. The trail does not say which backend a session had, or when it ends.
func (r *replayRecord) input(protection string) (*rules.Input, error) {
	if r.Peer == nil {
		return nil, errors.New("no peer")
	}
	tx, err := zktx.ParseTransaction(r.Transaction, zktx.TypeZKsync, 0)
	kind := "agw"
	if err != nil {
		kind = "eoa"
		if tx, err = zktx.ParseTransaction(r.Transaction, zktx.TypeDynamicFee, 0); err != nil {
			return nil, err
		}
	}
	in := &rules.Input{
		Tx: tx, Now: r.Time, Client: rules.Client{UID: r.Peer.UID, GID: r.Peer.GID},
		Session: rules.Session{ID: r.Session, Kind: kind, Account: tx.From, Protection: protection},
	}
	var signer policy.Address
	if err := signer.UnmarshalText([]byte(r.Signer)); err == nil {
		in.Session.Signer = signer
	}
	return in, nil
}

// eachRecord calls do with every record of the trail at path.
func eachRecord[R any](path string, do func(*R) error) error {
	trail, err := audit.OpenSegments(path)
	if err != nil {
		return fmt.Errorf("opening audit trail: %w", err)
	}
	defer trail.Close()
	lines := bufio.NewReaderSize(trail, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading audit trail: %w", err)
		}
		r := new(R)
		if err := json.Unmarshal(line, r); err != nil {
			return withHint(withCode(exitDamaged, fmt.Errorf("%w: a line is no record", audit.ErrDamaged)),
				"keyward audit verify")
		}
		if err := do(r); err != nil {
			return err
		}
	}
}

func (t *tool) policyDiff(c *cli.Context) error {
	args, err := operands(c, "OLD", "NEW")
	if err != nil {
		return err
	}
	var lists [2][]rules.Rule
	for i, name := range args {
		conf, err := config.Load(name)
		if err != nil {
			return err
		}
		lists[i] = conf.Rules
	}
	changes := rules.Diff(lists[0], lists[1])
	if c.Bool("json") {
		return t.printJSON(slices.Concat([]string{}, changes))
	}
	if len(changes) == 0 {
		t.print("The guard rules are the same.")
	}
	for _, change := range changes {
		t.print("%s", change)
	}
	return nil
}
