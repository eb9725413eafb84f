package policy

import (
	"fmt"
	"strings"

	"github.com/holiman/uint256"
)

// Describe says in plain words what the spec allows, one line a rule.
func (s *Spec) Describe() []string {
	if where := s.unknownEnum(); where != "" {
		return []string{"nothing: " + where + " is not one that the contract knows"}
	}
	lines := []string{
		"until " + unixTime(&s.ExpiresAt),
		"fees: " + describeTotal(&s.FeeLimit, ether) + "; what a paymaster pays does not count",
	}
	lines = append(lines, s.describeCalls()...)
	return append(lines, s.describeTransfers()...)
}

func (s *Spec) describeCalls() []string {
	if len(s.CallPolicies) == 0 {
		return []string{"may not call any contract"}
	}
	lines := make([]string, len(s.CallPolicies))
	for i := range s.CallPolicies {
		p := &s.CallPolicies[i]
		parts := []string{
			fmt.Sprintf("may call %s on %v", p.Selector.functionName(), p.Target),
			describeValue(&p.MaxValuePerUse, &p.ValueLimit),
		}
		if len(p.Constraints) == 0 && !strings.HasSuffix(p.Selector.functionName(), "()") {
			parts = append(parts, "with any arguments")
		}
		for j := range p.Constraints {
			parts = append(parts, p.Selector.describeConstraint(&p.Constraints[j]))
		}
		lines[i] = strings.Join(parts, ", ")
		if s.callPolicy(p.Target, p.Selector) != i {
			lines[i] += " (never used: an earlier policy has the same target and selector)"
		}
	}
	return lines
}

func (s *Spec) describeTransfers() []string {
	if len(s.TransferPolicies) == 0 {
		return []string{"may not transfer value"}
	}
	lines := make([]string, len(s.TransferPolicies))
	for i := range s.TransferPolicies {
		p := &s.TransferPolicies[i]
		lines[i] = fmt.Sprintf("may transfer to %v, %s", p.Target, describeValue(&p.MaxValuePerUse, &p.ValueLimit))
		if s.transferPolicy(p.Target) != i {
			lines[i] += " (never used: an earlier policy has the same target)"
		}
	}
	return lines
}

// describeValue says what a policy lets a transaction send.
func describeValue(most *uint256.Int, limit *UsageLimit) string {
	if most.IsZero() {
		return "sending no value"
	}
	atOnce := "at most " + ether(*most)
	if most.Eq(new(uint256.Int).SetAllOne()) {
		atOnce = "any amount"
	}
	return fmt.Sprintf("sending %s a time and %s", atOnce, describeTotal(limit, ether))
}

// describeTotal says what a limit lets add up, with amounts written by unit.
func describeTotal(l *UsageLimit, unit func(uint256.Int) string) string {
	switch l.LimitType {
	case Unlimited:
		return "any amount in total"
	case Lifetime:
		return "at most " + unit(l.Limit) + " in total"
	default:
		return "at most " + unit(l.Limit) + " " + describePeriod(&l.Period)
	}
}

// describeConstraint says what a word of the calldata may be, and what it may add up to.
func (s Selector) describeConstraint(c *Constraint) string {
	name := fmt.Sprintf("word %d of the arguments", c.Index)
	kind, known := s.argumentType(c.Index)
	if known {
		name = ordinal(c.Index) + " argument"
	}
	text := name + " may be anything"
	if c.Condition != Unconstrained {
		text = fmt.Sprintf("%s must %s %s", name, c.Condition.verb(), describeWord(kind, c.RefValue))
	}
	if c.Limit.LimitType == Unlimited {
		return text
	}
	return text + " and add up to " + describeTotal(&c.Limit, func(x uint256.Int) string { return x.Dec() })
}

// verb is the condition between "must" and the refValue.
func (c Condition) verb() string {
	switch c {
	case Equal:
		return "be"
	case NotEqual:
		return "not be"
	default:
		return "be " + c.words()
	}
}

// describeWord writes a word as a value of its Solidity type; "" if that is not known.
func describeWord(kind string, word Hash) string {
	x := new(uint256.Int).SetBytes32(word[:])
	// Amounts are seldom this long, and addresses seldom shorter.
	const addressLike = 128
	switch {
	case kind == "address" && x.BitLen() <= 160,
		kind == "" && x.BitLen() > addressLike && x.BitLen() <= 160:
		return Address(word[12:]).String()
	case kind == "bool" && x.IsZero():
		return "false"
	case kind == "bool" && x.IsUint64() && x.Uint64() == 1:
		return "true"
	case strings.HasPrefix(kind, "uint"), kind == "" && x.BitLen() <= addressLike:
		return x.Dec()
	}
	return word.String()
}

var ordinals = [...]string{"first", "second", "third", "fourth", "fifth", "sixth", "seventh"}

// ordinal counts from "first"; index is from 0.
func ordinal(index uint64) string {
	if index < uint64(len(ordinals)) {
		return ordinals[index]
	}
	return fmt.Sprintf("%dth", index+1)
}

// describePeriod says how often an allowance comes back.
func describePeriod(seconds *uint256.Int) string {
	if seconds.IsZero() {
		return "in periods of 0 seconds, which the contract always refuses"
	}
	units := []struct {
		seconds   uint64
		one, many string
	}{
		{7 * 86400, "a week", "weeks"},
		{86400, "a day", "days"},
		{3600, "an hour", "hours"},
		{60, "a minute", "minutes"},
		{1, "a second", "seconds"},
	}
	for _, unit := range units {
		n, rest := new(uint256.Int).DivMod(seconds, uint256.NewInt(unit.seconds), new(uint256.Int))
		switch {
		case !rest.IsZero():
			continue
		case n.IsUint64() && n.Uint64() == 1:
			return unit.one
		default:
			return fmt.Sprintf("every %s %s", n.Dec(), unit.many)
		}
	}
	panic("unreachable: every number of seconds is a multiple of one")
}

// ether writes an amount of wei in ETH, and in wei where ETH would be a row of zeros.
func ether(wei uint256.Int) string {
	const decimals = 18
	if wei.LtUint64(1e9) && !wei.IsZero() {
		return wei.Dec() + " wei"
	}
	digits := wei.Dec()
	if missing := decimals + 1 - len(digits); missing > 0 {
		digits = strings.Repeat("0", missing) + digits
	}
	whole, fraction := digits[:len(digits)-decimals], strings.TrimRight(digits[len(digits)-decimals:], "0")
	if fraction == "" {
		return whole + " ETH"
	}
	return whole + "." + fraction + " ETH"
}
