package rules

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holiman/uint256"

	"cel.dev/cel-go/common/types"

	"github.com/keyward/keyward/policy"
)

// compile makes one rule ready.
func compile(r *Rule) (c rule, err error) {
	c.Rule = *r
	kinds := 0
	for _, given := range []bool{r.When != "", r.Use != "", r.Count != ""} {
		if given {
			kinds++
		}
	}
	if isAllow(r) {
		c.allow, err = compileAllow(r)
		return c, err
	}
	if err := noMessage(r); err != nil {
		return c, err
	}
	if kinds == 0 {
		return c, errors.New("it has no when, use or count")
	}
	if r.Use != "" && kinds > 1 || r.Then != "" && r.When == "" {
		return c, errors.New("give either use, or when with then, or count")
	}
	var f *function
	if r.Function != "" {
		if f, err = parseFunction(r.Function); err != nil {
			return c, fmt.Errorf("function: %w", err)
		}
	}
	if c.applies, err = applies(r, f); err != nil {
		return c, err
	}
	switch {
	case r.Use != "":
		c.judge, err = compileReady(r)
		c.messages = (r.Use == "rate" || r.Use == "hours" || r.Use == "require") && c.applies == nil
	case r.Count != "":
		c.judge, err = compileCount(r, f)
	default:
		var when *expression
		when, c.judge, err = compileWhen(r, f)
		c.messages = err == nil && !when.tx && c.applies == nil
	}
	return c, err
}

// applies returns which transactions the rule is about, and decodes their arguments.
func applies(r *Rule, f *function) (func(*Input) (bool, error), error) {
	if f == nil && r.Target == "" {
		return nil, nil
	}
	var target policy.Address
	if r.Target != "" {
		if err := target.UnmarshalText([]byte(r.Target)); err != nil {
			return nil, fmt.Errorf("target: %w", err)
		}
	}
	return func(in *Input) (bool, error) {
		if r.Target != "" && in.Tx.To != target || f != nil && !f.calls(in) {
			return false, nil
		}
		if f != nil {
			args, err := f.decode(in.Tx.Data)
			if err != nil {
				return false, err
			}
			in.args = args
		}
		return true, nil
	}, nil
}

func (f *function) variables() map[string]*types.Type {
	if f == nil {
		return nil
	}
	return f.vars
}

// compileWhen is a rule with an expression and an action.
func compileWhen(r *Rule, f *function) (when *expression, judge func(*Input, *Verdict) error, err error) {
	if err := unused(r, "count", "per", "limit", "window", "sliding", "list", "days", "from", "to"); err != nil {
		return nil, nil, err
	}
	if r.Then != "" && r.Then != Deny && r.Then != Approve {
		return nil, nil, fmt.Errorf("then: %q is unknown, want %q, %q or %q", r.Then, Deny, Approve, Allow)
	}
	when, err = compileExpression("when", r.When, types.BoolType, f.variables())
	if err != nil {
		return nil, nil, err
	}
	c := rule{Rule: *r}
	return when, func(in *Input, v *Verdict) error {
		is, err := when.bool(in)
		switch {
		case err != nil:
			return err
		case is && r.Then == Approve:
			v.Approvals = append(v.Approvals, Need{r.Name, r.Message})
		case is:
			v.deny(&c, "")
		}
		return nil
	}, nil
}

// compileCount is a rule with a counter of its own. With when, only what that is true for counts.
func compileCount(r *Rule, f *function) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "then", "list", "days", "from", "to"); err != nil {
		return nil, err
	}
	count, err := compileExpression("count", r.Count, weiType, f.variables())
	if err != nil {
		return nil, err
	}
	var when *expression
	if r.When != "" {
		if when, err = compileExpression("when", r.When, types.BoolType, f.variables()); err != nil {
			return nil, err
		}
	}
	counter, err := newCounter(r)
	if err != nil {
		return nil, err
	}
	return func(in *Input, v *Verdict) error {
		if when != nil {
			if is, err := when.bool(in); err != nil || !is {
				return err
			}
		}
		amount, err := count.wei(in)
		if err != nil {
			return err
		}
		return counter.add(in, v, uint256.Int(amount))
	}, nil
}

// counter makes a rule's [Counter] values.
type counter struct {
	rule  *Rule
	limit uint256.Int
}

// Bounds of a window. Shorter ones could not be told apart from the clock's steps; a longer one is a spec's matter.
const (
	minWindow = time.Second
	maxWindow = 366 * 24 * time.Hour
)

var pers = []string{"client", "session", "account", "target", "all"}

func newCounter(r *Rule) (*counter, error) {
	limit, err := parseLimit(r.Limit)
	switch {
	case r.Limit == "":
		return nil, errors.New("limit is missing")
	case err != nil:
		return nil, fmt.Errorf("limit: %w", err)
	case !slices.Contains(pers, r.Per):
		return nil, fmt.Errorf("per: %q is unknown, want %s", r.Per, strings.Join(pers, ", "))
	case r.Window < minWindow || r.Window > maxWindow || r.Window%time.Second != 0:
		return nil, fmt.Errorf("window: %s is not whole seconds from %s to %s", r.Window, minWindow, maxWindow)
	}
	return &counter{r, limit}, nil
}

func (c *counter) add(in *Input, v *Verdict, amount uint256.Int) error {
	key, err := in.key(c.rule.Per)
	if err != nil {
		return err
	}
	v.Counters = append(v.Counters, Counter{Rule: c.rule.Name, Key: key, Amount: amount, Limit: c.limit,
		Window: c.rule.Window, Sliding: c.rule.Sliding})
	return nil
}

// unused fails for the first of the named fields that r has although its kind does not use it.
func unused(r *Rule, names ...string) error {
	given := map[string]bool{
		"then": r.Then != "", "count": r.Count != "", "per": r.Per != "", "limit": r.Limit != "", "window": r.Window != 0,
		"sliding": r.Sliding, "list": r.List != nil, "days": r.Days != nil, "from": r.From != "", "to": r.To != "",
	}
	for _, name := range names {
		if given[name] {
			return fmt.Errorf("%s means nothing in this rule", name)
		}
	}
	return nil
}
