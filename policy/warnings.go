package policy

import (
	"fmt"

	"github.com/holiman/uint256"
)

// NodeMargin is how many seconds before the end of a time range that a transaction depends
// on a ZKsync node by default no longer takes it.
const NodeMargin = 60

// Codes of a [Warning]. Programs match them, so they never change.
const (
	WarnProduction     = "production"         // Abstract's mainnet would not take it
	WarnNoRecipient    = "unfixedRecipient"   // tokens can go to, or be approved for, anyone
	WarnDirtyAddress   = "dirtyAddress"       // an address with something above its 160 bits
	WarnDuplicate      = "duplicatePolicy"    // an earlier policy always decides
	WarnOffset         = "offsetConstraint"   // the word is where a value is, not the value
	WarnBeyond         = "beyondArguments"    // the word is behind the arguments
	WarnNeverMet       = "neverMet"           // no transaction can pass
	WarnLimitNeverMet  = "limitNeverMet"      // the number can never be used up, or used at all
	WarnForbidden      = "forbiddenTarget"    // no session may call it
	WarnShortPeriod    = "shortPeriod"        // the node never takes a transaction of the period
	WarnShortExpiry    = "shortExpiry"        // too little time is left
	WarnExpired        = "expired"            // none is left
	WarnExpiryTooFar   = "expiryTooFar"       // longer than the operator allows
	WarnUnit           = "wrongUnit"          // a date or period that is not in seconds
	WarnNeverExpires   = "neverExpires"       // an end beyond all dates
	WarnPaymaster      = "paymasterUnbounded" // a paymaster's fees are not counted
	WarnNothingAllowed = "nothingAllowed"     // no policies
)

// Warning is something about a spec that is allowed and is likely not what was meant.
type Warning struct {
	Code   string `json:"code"`
	Path   string `json:"path"`   // e.g. "callPolicies[1].constraints[0].refValue"; "": the spec
	Reason string `json:"reason"` // for a person
}

// WarningRules is what [Spec.Warnings] has to know beside the spec.
type WarningRules struct {
	Now         uint64 // Unix seconds
	Margin      uint64 // seconds; 0: [NodeMargin]
	MaxLifetime uint64 // seconds from Now that the operator lets a session last; 0: any time
	// Account and Validator are what no session may call; zero: not known.
	Account, Validator Address
	// EOA is for a session whose account is the signer itself: no module, node
	// margin or paymaster is between it and the chain.
	EOA bool
}

// Warnings returns what neither the contract nor the SDK says about s, in the order of its
// fields. It is never nil.
func (s *Spec) Warnings(rules WarningRules) []Warning {
	if rules.Margin == 0 {
		rules.Margin = NodeMargin
	}
	w := warner{rules: &rules, found: []Warning{}}
	w.expiry(&s.ExpiresAt)
	w.feeLimit(&s.FeeLimit)
	if len(s.CallPolicies) == 0 && len(s.TransferPolicies) == 0 {
		w.warn(WarnNothingAllowed, "", "there is no policy, so no transaction passes")
	}
	for i := range s.CallPolicies {
		p := &s.CallPolicies[i]
		w.at = fmt.Sprintf("callPolicies[%d]", i)
		if first := s.callPolicy(p.Target, p.Selector); first != i {
			w.warn(WarnDuplicate, "", "callPolicies[%d] has the same target and selector and decides first", first)
		}
		w.callPolicy(p)
	}
	for i := range s.TransferPolicies {
		p := &s.TransferPolicies[i]
		w.at = fmt.Sprintf("transferPolicies[%d]", i)
		if first := s.transferPolicy(p.Target); first != i {
			w.warn(WarnDuplicate, "", "transferPolicies[%d] has the same target and decides first", first)
		}
		w.value(&p.MaxValuePerUse, &p.ValueLimit)
	}
	return w.found
}

// warner collects warnings.
type warner struct {
	rules *WarningRules
	at    string // the policy's path; "" in the spec itself
	found []Warning
}

// warn adds a warning about the field, "" being the policy itself.
func (w *warner) warn(code, field, format string, args ...any) {
	path := w.at
	if path != "" && field != "" {
		path += "."
	}
	w.found = append(w.found, Warning{code, path + field, fmt.Sprintf(format, args...)})
}

func (w *warner) expiry(expiresAt *uint256.Int) {
	now := uint256.NewInt(w.rules.Now)
	if expiresAt.Lt(now) {
		w.warn(WarnExpired, "expiresAt", "the session ended at %s", unixTime(expiresAt))
		return
	}
	w.expiryUnit(expiresAt)
	left := new(uint256.Int).Sub(expiresAt, now)
	if margin := w.rules.Margin; !w.rules.EOA && !left.GtUint64(margin) {
		w.warn(WarnShortExpiry, "expiresAt", "%s seconds are left, and nodes take nothing in the last %d", left.Dec(), margin)
	}
	if most := w.rules.MaxLifetime; most > 0 && left.GtUint64(most) {
		w.warn(WarnExpiryTooFar, "expiresAt", "the session would last %s seconds, and the operator allows %d", left.Dec(),
			most)
	}
}

func (w *warner) feeLimit(l *UsageLimit) {
	w.period("feeLimit", l)
	if w.rules.EOA {
		return
	}
	if l.LimitType != Unlimited && l.Limit.IsZero() {
		w.warn(WarnLimitNeverMet, "feeLimit.limit", "a limit of 0 lets no transaction pass but one whose fee a paymaster pays")
	}
	w.warn(WarnPaymaster, "feeLimit", "a transaction with a paymaster counts no fee: "+
		"neither what the paymaster pays nor how many transactions there are is bounded by this limit")
}

// period looks at an allowance's.
func (w *warner) period(field string, l *UsageLimit) {
	if l.LimitType != Allowance {
		return
	}
	switch margin := w.rules.Margin; {
	case l.Period.IsZero():
		w.warn(WarnNeverMet, field+".period", "the contract refuses an allowance with a period of 0")
	case !w.rules.EOA && !l.Period.GtUint64(margin):
		w.warn(WarnShortPeriod, field+".period",
			"a period of %s seconds never has more than %d left, and nodes take nothing in the last %d", l.Period.Dec(), margin,
			margin)
	default:
		w.periodUnit(field, &l.Period)
	}
}

// value looks at what a policy says of the value sent.
func (w *warner) value(perUse *uint256.Int, l *UsageLimit) {
	w.period("valueLimit", l)
	switch {
	case l.LimitType == Unlimited:
	case perUse.IsZero() && !l.Limit.IsZero():
		w.warn(WarnLimitNeverMet, "valueLimit.limit", "it is never used, since maxValuePerUse is 0")
	case perUse.Gt(&l.Limit):
		w.warn(WarnLimitNeverMet, "maxValuePerUse", "%s at once can never be sent, since valueLimit allows %s", perUse.Dec(),
			l.Limit.Dec())
	}
}

func (w *warner) callPolicy(p *CallSpec) {
	if !w.rules.Account.IsZero() && p.Target == w.rules.Account {
		w.warn(WarnForbidden, "target", "the contract refuses a session's call to the account itself")
	}
	if !w.rules.Validator.IsZero() && p.Target == w.rules.Validator {
		w.warn(WarnForbidden, "target", "the contract refuses a session's call to the session module")
	}
	w.value(&p.MaxValuePerUse, &p.ValueLimit)
	r := p.reach()
	if move, ok := tokenMoves[p.Selector]; ok && !restricted[p.Selector] { // for those it is a production rule
		if why := r.unfixed(&move); why != "" {
			w.warn(WarnNoRecipient, "", "%s", why)
		}
	}
	head, known := p.Selector.head()
	contradicted := make(map[uint64]bool)
	for j := range p.Constraints {
		c := &p.Constraints[j]
		field := fmt.Sprintf("constraints[%d]", j)
		w.period(field+".limit", &c.Limit)
		if known {
			w.argument(field, c, p.Selector, head)
		}
		switch {
		case !r.word(c.Index).empty:
			w.unusedRange(field, c)
		case !c.Limit.neverCounts() && !contradicted[c.Index]:
			contradicted[c.Index] = true
			w.contradiction(field, c)
		}
	}
}

// argument compares a constraint with the arguments that the function has.
func (w *warner) argument(field string, c *Constraint, s Selector, head []headWord) {
	if c.Index >= uint64(len(head)) {
		w.warn(WarnBeyond, field+".index", "%s has %d words of fixed place: what stands in word %d is up to the caller",
			s.functionName(), len(head), c.Index)
		return
	}
	argument := head[c.Index]
	if argument.isOffset() {
		w.warn(WarnOffset, field+".index", "word %d of %s is the offset of an argument of type %s, not its value",
			c.Index, s.functionName(), argument.kind)
		return
	}
	dirty := new(uint256.Int).SetBytes32(c.RefValue[:]).BitLen() > 8*len(Address{})
	if argument.kind == "address" && dirty && c.Condition != Unconstrained {
		w.warn(WarnDirtyAddress, field+".refValue", "%v is no address: there is something above its lowest 160 bits, "+
			"which the chain compares and the registry does not see", c.RefValue)
	}
}

// unusedRange says that a limit is smaller than what the constraint lets pass at once.
func (w *warner) unusedRange(field string, c *Constraint) {
	if c.Limit.LimitType == Unlimited {
		return
	}
	ref, limit := new(uint256.Int).SetBytes32(c.RefValue[:]), &c.Limit.Limit
	switch {
	case limit.IsZero():
		w.warn(WarnLimitNeverMet, field+".limit.limit", "a limit of 0 lets no word pass but 0")
	case c.Condition == LessOrEqual && ref.Gt(limit):
		w.warn(WarnLimitNeverMet, field+".refValue", "%s at once can never pass, since the limit is %s", ref.Dec(),
			limit.Dec())
	}
}

// contradiction says that a word's constraints leave no value for it.
func (w *warner) contradiction(field string, c *Constraint) {
	switch {
	case c.Index > maxWordIndex:
		w.warn(WarnNeverMet, field+".index", "no calldata has a word %d", c.Index)
	default:
		w.warn(WarnNeverMet, field, "no value of word %d meets all its constraints and limits, so no call passes", c.Index)
	}
}
