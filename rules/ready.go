package rules

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// The ready-made rules, by what use says. Each uses the fields in its comment and no others.
var ready = map[string]func(*Rule) (func(*Input, *Verdict) error, error){
	"rate":          compileRate,       // per, limit, window, sliding: so many signatures
	"spend":         compileSpend,      // per, limit, window, sliding: value and fees, over all sessions
	"hours":         compileHours,      // days, from, to: signs only then, UTC
	"max-value":     compileMax(value), // limit: of one transaction
	"max-fee":       compileMax(maxFee),
	"max-cost":      compileMax(txCost),
	"max-gas-price": compileMax(gasPrice),
	"targets":       compileList("target", targetOf), // list: signs only for these
	"functions":     compileFunctions,                // list: signs only calls of these
	"paymasters":    compileList("paymaster", paymasterOf),
	"require":       compileRequire, // list: of protection classes, such as "resident"
}

func compileReady(r *Rule) (func(*Input, *Verdict) error, error) {
	compileUse, ok := ready[r.Use]
	if !ok {
		return nil, fmt.Errorf("use: %q is unknown, want one of %s", r.Use,
			strings.Join(slices.Sorted(maps.Keys(ready)), ", "))
	}
	return compileUse(r)
}

func compileRate(r *Rule) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "list", "days", "from", "to"); err != nil {
		return nil, err
	}
	c, err := newCounter(r)
	if err != nil {
		return nil, err
	}
	return func(in *Input, v *Verdict) error { return c.add(in, v, *uint256.NewInt(1)) }, nil
}

func compileSpend(r *Rule) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "list", "days", "from", "to"); err != nil {
		return nil, err
	}
	c, err := newCounter(r)
	if err != nil {
		return nil, err
	}
	return func(in *Input, v *Verdict) error { return c.add(in, v, txCost(in.Tx)) }, nil
}

func value(tx *zktx.Transaction) uint256.Int    { return tx.Value }
func gasPrice(tx *zktx.Transaction) uint256.Int { return tx.MaxFeePerGas }

// compileMax denies more than the limit in one transaction.
func compileMax(of func(*zktx.Transaction) uint256.Int) func(*Rule) (func(*Input, *Verdict) error, error) {
	return func(r *Rule) (func(*Input, *Verdict) error, error) {
		if err := unused(r, "per", "window", "sliding", "list", "days", "from", "to"); err != nil {
			return nil, err
		}
		if r.Limit == "" {
			return nil, errors.New("limit is missing")
		}
		limit, err := parseLimit(r.Limit)
		if err != nil {
			return nil, fmt.Errorf("limit: %w", err)
		}
		c := rule{Rule: *r}
		return func(in *Input, v *Verdict) error {
			if amount := of(in.Tx); amount.Gt(&limit) {
				v.deny(&c, fmt.Sprintf("%s is more than %s", amount.Dec(), limit.Dec()))
			}
			return nil
		}, nil
	}
}

func targetOf(tx *zktx.Transaction) (policy.Address, bool) { return tx.To, true }
func paymasterOf(tx *zktx.Transaction) (policy.Address, bool) {
	return tx.Paymaster, !tx.Paymaster.IsZero()
}

// compileList denies addresses that are not in the list. of returns false for a transaction without such an address,
// which passes.
func compileList(what string, of func(*zktx.Transaction) (policy.Address,
	bool)) func(*Rule) (func(*Input, *Verdict) error, error) {
	return func(r *Rule) (func(*Input, *Verdict) error, error) {
		if err := unused(r, "per", "limit", "window", "sliding", "days", "from", "to"); err != nil {
			return nil, err
		}
		allowed := map[policy.Address]bool{}
		for i, text := range r.List {
			var a policy.Address
			if err := a.UnmarshalText([]byte(text)); err != nil {
				return nil, fmt.Errorf("list[%d]: %w", i, err)
			}
			allowed[a] = true
		}
		if r.List == nil {
			return nil, errors.New("list is missing")
		}
		c := rule{Rule: *r}
		return func(in *Input, v *Verdict) error {
			if a, has := of(in.Tx); has && !allowed[a] {
				v.deny(&c, fmt.Sprintf("%s %s is not in the list", what, a))
			}
			return nil
		}, nil
	}
}

// compileFunctions denies calls of other functions, and transfers without calldata unless the list has "transfer".
func compileFunctions(r *Rule) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "per", "limit", "window", "sliding", "days", "from", "to"); err != nil {
		return nil, err
	}
	if r.List == nil {
		return nil, errors.New("list is missing")
	}
	allowed, transfers := map[policy.Selector]bool{}, false
	for i, text := range r.List {
		if text == "transfer" {
			transfers = true
			continue
		}
		s, err := parseSelector(text)
		if err != nil {
			return nil, fmt.Errorf("list[%d]: %w", i, err)
		}
		allowed[policy.Selector(s.(selector))] = true
	}
	c := rule{Rule: *r}
	return func(in *Input, v *Verdict) error {
		switch s := selectorOf(in.Tx); {
		case len(in.Tx.Data) < len(s):
			if !transfers {
				v.deny(&c, "it calls no function, and the list has no \"transfer\"")
			}
		case !allowed[s]:
			v.deny(&c, fmt.Sprintf("%s is not in the list", s.Name()))
		}
		return nil
	}, nil
}

// compileRequire denies keys of other protection classes.
func compileRequire(r *Rule) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "per", "limit", "window", "sliding", "days", "from", "to"); err != nil {
		return nil, err
	}
	if len(r.List) == 0 {
		return nil, errors.New("list is missing")
	}
	c := rule{Rule: *r}
	return func(in *Input, v *Verdict) error {
		if !slices.Contains(r.List, in.Session.Protection) {
			v.deny(&c, fmt.Sprintf("the session's key is %s, want %s", in.Session.Protection, strings.Join(r.List, " or ")))
		}
		return nil
	}, nil
}

var weekdays = map[string]time.Weekday{"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}

// compileHours denies what comes on other days or at other times. Without days it is every day; from and to without the
// other are refused. A window over midnight, such as 22:00 to 06:00, belongs to the day that it begins on.
func compileHours(r *Rule) (func(*Input, *Verdict) error, error) {
	if err := unused(r, "per", "limit", "window", "sliding", "list"); err != nil {
		return nil, err
	}
	if r.Days == nil && r.From == "" && r.To == "" {
		return nil, errors.New("days, or from and to, are missing")
	}
	days := map[time.Weekday]bool{}
	for i, text := range r.Days {
		day, ok := weekdays[text]
		if !ok {
			return nil, fmt.Errorf("days[%d]: %q is unknown, want mon, tue, wed, thu, fri, sat or sun", i, text)
		}
		days[day] = true
	}
	from, to := time.Duration(0), 24*time.Hour
	if r.From != "" || r.To != "" {
		var err error
		if from, err = clock("from", r.From); err != nil {
			return nil, err
		}
		if to, err = clock("to", r.To); err != nil {
			return nil, err
		}
		if from == to {
			return nil, errors.New("from and to are the same time")
		}
	}
	c := rule{Rule: *r}
	return func(in *Input, v *Verdict) error {
		now := in.Now.UTC()
		midnight := now.Truncate(24 * time.Hour)
		at, day := now.Sub(midnight), now.Weekday()
		inside := from <= at && at < to
		if to < from {
			inside = at >= from || at < to
			if at < to {
				day = midnight.Add(-time.Hour).Weekday()
			}
		}
		if !inside || r.Days != nil && !days[day] {
			v.deny(&c, fmt.Sprintf("it is %s UTC", now.Format("Mon 15:04")))
		}
		return nil
	}, nil
}

func clock(name, text string) (time.Duration, error) {
	t, err := time.Parse("15:04", text)
	if err != nil {
		return 0, fmt.Errorf("%s: %q is not a time such as 08:30", name, text)
	}
	return time.Duration(t.Hour())*time.Hour + time.Duration(t.Minute())*time.Minute, nil
}
