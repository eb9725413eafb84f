package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

func (t *tool) policyLintCommand() *cli.Command {
	return &cli.Command{
		Name:  "lint",
		Usage: "hold a session spec, or recorded cases, to Abstract's production rules, and warn of what they let pass",
		Description: `With --spec: a spec that breaks a rule of the chain's ends with exit code 3, whatever the warnings.
Abstract's mainnet (2741) has rules; on any other chain what would break them is a warning. What the
rules ask the policy registry, the chain's nodes answer if the configuration has an rpc, or --registry
FILE, in the format of a case's "registry". Without either, a spec that breaks no other rule ends with
exit code 1, since nobody knows; --unchecked says that this is fine.

With --cases: one verdict a case. A line that holds no case is an error that names it, the cases after it
are judged all the same, and the exit code is 1. It is 0 if every line could be read, whatever the verdicts.`,
		Flags: []cli.Flag{
			specFlag(),
			casesFlag(),
			&cli.StringFlag{Name: "chain", Value: "abstract", Usage: "`NAME` or id of the chain that the spec is for"},
			&cli.StringFlag{Name: "registry", TakesFile: true,
				Usage: "`FILE` with the policy registry's answers: {\"call\":{},\"transfer\":{},\"approval\":{}}"},
			uncheckedFlag(),
			&cli.DurationFlag{Name: "max-lifetime", Usage: "warn of a session that lasts longer than this `DURATION`, e.g. 720h"},
		},
		Action: t.policyLint,
	}
}

func (t *tool) policyLint(c *cli.Context) error {
	rules := policy.WarningRules{Now: unixNow(), MaxLifetime: uint64(max(0, c.Duration("max-lifetime")) / time.Second)}
	switch {
	case c.IsSet("cases") == c.IsSet("spec"):
		return usageError("give --spec FILE or --cases FILE")
	case c.IsSet("cases"):
		if c.IsSet("registry") || c.IsSet("unchecked") || c.IsSet("chain") {
			return usageError("--cases: each case names its chain and has its registry")
		}
		return t.lintCases(c, rules)
	}
	return t.lintSpec(c, rules)
}

// unixNow is the time in Unix seconds.
func unixNow() uint64 { return uint64(max(0, time.Now().Unix())) }

// lintCases prints a verdict a case.
func (t *tool) lintCases(c *cli.Context, rules policy.WarningRules) error {
	in, err := t.openCases(c.String("cases"))
	if err != nil {
		return err
	}
	defer in.Close()
	out := bufio.NewWriter(t.stdout)
	print, finish := lintTable(out)
	if c.Bool("json") {
		print, finish = lintLines(out)
	}
	err = eachCase(t, c.String("cases"), policy.ReadRegistryCases(in), func(cs *policy.RegistryCase) error {
		result := cs.Lint(rules)
		return print(&result)
	})
	return errors.Join(err, finish(), out.Flush())
}

// lintLines prints one JSON object a case.
func lintLines(w io.Writer) (print func(*policy.LintResult) error, finish func() error) {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return func(r *policy.LintResult) error { return enc.Encode(r) }, func() error { return nil }
}

// lintTable prints the verdicts for a person.
func lintTable(w io.Writer) (print func(*policy.LintResult) error, finish func() error) {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "CASE\tVERDICT\tWARNINGS\tWHY")
	return func(r *policy.LintResult) error {
		verdict, why := "ok", ""
		if !r.OK {
			verdict, why = "refused", "\t"+r.Error
		}
		_, err := fmt.Fprintf(tw, "%s\t%s\t%d%s\n", r.Case, verdict, len(r.Warnings), why)
		return err
	}, tw.Flush
}

// linted is what lint --spec --json prints.
type linted struct {
	ChainID    uint64             `json:"chainId"`
	OK         bool               `json:"ok"`
	Checked    bool               `json:"registryChecked"`
	Violations []policy.Violation `json:"violations"`
	Warnings   []policy.Warning   `json:"warnings"`
}

func (t *tool) lintSpec(c *cli.Context, rules policy.WarningRules) error {
	_, spec, err := t.readSpec(c)
	if err != nil {
		return err
	}
	p, err := findPlace(c)
	if err != nil {
		return err
	}
	name, conf, err := p.chain(c.String("chain"))
	if err != nil {
		return usageError("--chain: %v", err)
	}
	registry, err := t.registryAnswers(c, name, conf, spec)
	if err != nil {
		return err
	}
	rules.Validator = conf.Validator
	result := &linted{
		ChainID:    conf.ID,
		Checked:    registry != nil || len(spec.RegistryQueries()) == 0,
		Violations: []policy.Violation{},
		Warnings:   spec.Warnings(rules),
	}
	violations := spec.UnfixedDestinations()
	if registry != nil {
		violations = spec.CheckProduction(registry.Status)
	}
	if conf.ID == policy.ProductionChain {
		result.Violations = append(result.Violations, violations...)
	} else {
		result.Warnings = append(policy.ViolationWarnings(violations), result.Warnings...)
	}
	unknown := conf.ID == policy.ProductionChain && !result.Checked && !c.Bool("unchecked")
	result.OK = len(result.Violations) == 0 && !unknown
	if err := t.printLint(c, result); err != nil {
		return err
	}
	switch {
	case len(result.Violations) > 0:
		return withCode(exitDenied, fmt.Errorf("the spec breaks %d of Abstract's production rules", len(result.Violations)))
	case unknown:
		return withHint(fmt.Errorf("the policy registry was not asked about %d policies", len(spec.RegistryQueries())),
			"give its answers with --registry FILE, or do without them with --unchecked")
	}
	return nil
}

// registryAnswers gives what the policy registry says of the spec: as the file that --registry names has
// it, or else as the chain's nodes tell. Nil: nobody is to be asked.
func (t *tool) registryAnswers(c *cli.Context, name string, conf *config.Chain, spec *policy.Spec) (policy.Registry,
	error) {
	if file := c.String("registry"); file != "" {
		data, err := t.readInput(file)
		if err != nil {
			return nil, err
		}
		registry, err := policy.ParseRegistry(data)
		if err != nil {
			return nil, inFile(file, err)
		}
		return registry, nil
	}
	if conf.ID != policy.ProductionChain || len(conf.RPC) == 0 || c.Bool("unchecked") {
		return nil, nil
	}
	return askRegistry(c.Context, name, conf, spec.RegistryQueries())
}

// askRegistry asks the chain's policy registry.
func askRegistry(ctx context.Context, name string, conf *config.Chain, queries []policy.RegistryQuery) (policy.Registry,
	error) {
	client, err := chain.New(chainConfig(name, conf, nil))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	statuses, err := client.RegistryStatuses(ctx, queries)
	if err != nil {
		return nil, withHint(err, "keyward chain check %s", name)
	}
	registry := make(policy.Registry, len(queries))
	for i, q := range queries {
		registry[q] = statuses[i]
	}
	return registry, nil
}

func (t *tool) printLint(c *cli.Context, r *linted) error {
	if c.Bool("json") {
		return t.printJSON(r)
	}
	for _, v := range r.Violations {
		t.print("violation  %s: %s", v.Path, v.Message)
	}
	t.printWarnings(r.Warnings)
	if r.OK && len(r.Warnings) == 0 {
		t.print("nothing to say")
	}
	return nil
}

// printWarnings writes one line a warning.
func (t *tool) printWarnings(warnings []policy.Warning) {
	for _, w := range warnings {
		where := w.Path
		if where == "" {
			where = "the spec"
		}
		t.print("warning    %s: %s (%s)", where, w.Reason, w.Code)
	}
}
