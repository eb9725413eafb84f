package policy

import (
	"errors"
	"fmt"

	"github.com/holiman/uint256"
)

// Charge is one amount that a transaction counts against one tracker.
type Charge struct {
	Tracker Tracker `json:"tracker"`
	Limit   Decimal `json:"limit"`
	Amount  Decimal `json:"amount"`
}

// Charges is a list that writes its own JSON.
type Charges []Charge

// AppendJSON appends what encoding/json makes of the charges to b. The error is for a tracker of unknown kind.
func (c Charges) AppendJSON(b []byte) ([]byte, error) {
	if c == nil {
		return append(b, "null"...), nil
	}
	b = append(b, '[')
	for i, charge := range c {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = charge.Tracker.AppendText(append(b, `{"tracker":"`...)); err != nil {
			return nil, err
		}
		b, _ = charge.Limit.AppendText(append(b, `","limit":"`...))
		b, _ = charge.Amount.AppendText(append(b, `","amount":"`...))
		b = append(b, `"}`...)
	}
	return append(b, ']'), nil
}

// Apply returns used plus the charge, or a *[Denial] where that is more than the limit
// or overflows.
func (c Charge) Apply(used uint256.Int) (uint256.Int, error) {
	limit, amount := c.Limit.Int(), c.Amount.Int()
	var sum uint256.Int
	_, overflow := sum.AddOverflow(&used, &amount)
	if !overflow && !sum.Gt(&limit) {
		return sum, nil
	}
	return uint256.Int{}, c.exceeded(limit, used, amount, overflow)
}

// exceeded is the denial of a charge that its limit has no room for.
func (c Charge) exceeded(limit, used, amount uint256.Int, overflow bool) *Denial {
	remaining := new(uint256.Int)
	if limit.Gt(&used) {
		remaining.Sub(&limit, &used)
	}
	text := c.Tracker.noun() + " " + limit.Dec()
	if c.Tracker.Allowance {
		text += fmt.Sprintf(" in period %d", c.Tracker.PeriodID)
	}
	reason, revert := ReasonLifetimeExceeded, "Lifetime limit exceeded"
	switch {
	case overflow: // the contract adds before it compares
		reason, revert = ReasonOverflow, revertOverflow
	case c.Tracker.Allowance:
		reason, revert = ReasonAllowanceExceeded, "Allowance limit exceeded"
	}
	denial := deny(reason, revert, "%s, used %s, asked %s, remaining %s",
		text, used.Dec(), amount.Dec(), remaining.Dec())
	tracker := c.Tracker
	denial.Tracker = &tracker
	denial.Limit, denial.Used, denial.Asked, denial.Remaining = &limit, &used, &amount, remaining
	if tracker.Kind == CallParamTracker {
		denial.Constraint = int(tracker.Position)
	}
	return denial
}

// Settle returns the chain's own first refusal: that of the first charge which
// used does not leave room for, else denied, else nil. used gives what each tracker
// has counted so far and must not change meanwhile. charges and denied are what
// [Spec.Check] returned.
func Settle(charges []Charge, denied error, used func(Tracker) uint256.Int) error {
	for _, charge := range charges {
		if _, err := charge.Apply(used(charge.Tracker)); err != nil {
			return err
		}
	}
	return denied
}

// Locate adds to the denial of a used-up limit the index of its policy, which a charge
// alone does not know. err is what [Settle] returned.
func (s *Spec) Locate(err error) error {
	var d *Denial
	if !errors.As(err, &d) || d.Tracker == nil {
		return err
	}
	switch d.Tracker.Kind {
	case CallValueTracker, CallParamTracker:
		d.Policy = s.callPolicy(d.Tracker.Target, d.Tracker.Selector)
	case TransferValueTracker:
		d.Policy = s.transferPolicy(d.Tracker.Target)
	}
	return d
}
