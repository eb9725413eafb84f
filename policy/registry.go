package policy

import "fmt"

// ProductionChain is the chain whose sessions Abstract's production rules hold for: its
// mainnet. The SDK looks at no other.
const ProductionChain = 2741

// RegistryKind says which list of the policy registry is asked.
type RegistryKind uint8

const (
	CallPolicy     RegistryKind = iota // getCallPolicyStatus(target, selector)
	TransferPolicy                     // getTransferPolicyStatus(target)
	ApprovalTarget                     // getApprovalTargetStatus(token, spender)
)

// RegistryQuery is one question to the SessionKeyPolicyRegistry. It is comparable; the
// fields that its kind does not use are zero.
type RegistryQuery struct {
	Kind     RegistryKind
	Target   Address  // of an approval, the token
	Selector Selector // of a call policy
	Spender  Address  // of an approval: who may spend, or receive
}

// RegistryStatus is the registry's answer (SessionKeyPolicyRegistry.Status).
type RegistryStatus uint8

const (
	Unset RegistryStatus = iota
	Allowed
	Blocked // "Denied" in the SDK's words
)

// String returns the SDK's word, even for a number that it has none for.
func (s RegistryStatus) String() string {
	switch s {
	case Unset:
		return "Unset"
	case Allowed:
		return "Allowed"
	case Blocked:
		return "Denied"
	}
	return "undefined"
}

// String names the getter and its arguments.
func (q RegistryQuery) String() string {
	switch q.Kind {
	case CallPolicy:
		return fmt.Sprintf("getCallPolicyStatus(%v, %v)", q.Target, q.Selector)
	case TransferPolicy:
		return fmt.Sprintf("getTransferPolicyStatus(%v)", q.Target)
	default:
		return fmt.Sprintf("getApprovalTargetStatus(%v, %v)", q.Target, q.Spender)
	}
}

// subject is the address that the SDK names in its error.
func (q RegistryQuery) subject() Address {
	if q.Kind == ApprovalTarget {
		return q.Spender
	}
	return q.Target
}

// restricted are the selectors whose first argument has to be fixed, and is what the
// registry is asked about. The SDK has transfer too, which Abstract's docs leave out.
var restricted = map[Selector]bool{
	{0x09, 0x5e, 0xa7, 0xb3}: true, // approve(address,uint256)
	{0xa9, 0x05, 0x9c, 0xbb}: true, // transfer(address,uint256)
	{0xa2, 0x2c, 0xb4, 0x65}: true, // setApprovalForAll(address,bool)
}

// Violation is a production rule that a spec breaks.
type Violation struct {
	Path    string `json:"path"`    // e.g. "callPolicies[1].constraints[0].refValue"
	Message string `json:"message"` // the SDK's own error
	// Query is what the registry was asked, and Status what it said. Nil: the rule asks
	// nothing of it.
	Query  *RegistryQuery `json:"-"`
	Status RegistryStatus `json:"-"`
}

// RegistryQueries returns what the production rules ask the registry, in the SDK's order,
// each question once.
func (s *Spec) RegistryQueries() []RegistryQuery {
	var queries []RegistryQuery
	asked := make(map[RegistryQuery]bool)
	s.production(func(_ string, q RegistryQuery) {
		if !asked[q] {
			asked[q] = true
			queries = append(queries, q)
		}
	})
	return queries
}

// CheckProduction returns every production rule that s breaks, where status is the registry's
// answer. The first is the error of the SDK (agw-client, assertSessionKeyPolicies), which
// stops there. That the rules hold on [ProductionChain] only is up to the caller.
func (s *Spec) CheckProduction(status func(RegistryQuery) RegistryStatus) []Violation {
	var denied []Violation
	unconstrained := s.production(func(path string, q RegistryQuery) {
		got := status(q)
		if got == Allowed {
			return
		}
		denied = append(denied, Violation{
			Path:    path,
			Message: fmt.Sprintf("Session key policy violation. Target: %v; Status: %v", q.subject(), got),
			Query:   &q,
			Status:  got,
		})
	})
	// The SDK asks the registry only when it has seen every policy.
	return append(unconstrained, denied...)
}

// UnfixedDestinations returns those violations of s that no registry has a say in.
func (s *Spec) UnfixedDestinations() []Violation {
	return s.production(func(string, RegistryQuery) {})
}

// ViolationWarnings says what the violations mean where the rules do not hold. It is never nil.
func ViolationWarnings(violations []Violation) []Warning {
	warnings := make([]Warning, len(violations))
	for i, v := range violations {
		warnings[i] = Warning{WarnProduction, v.Path, "Abstract's mainnet would refuse this: " + v.Message}
	}
	return warnings
}

// production goes through the policies in the SDK's order. It calls ask with what each
// asks of the registry, and returns those that have to ask but fix nothing to ask about.
func (s *Spec) production(ask func(path string, q RegistryQuery)) []Violation {
	var unconstrained []Violation
	for i := range s.CallPolicies {
		p := &s.CallPolicies[i]
		path := fmt.Sprintf("callPolicies[%d]", i)
		if !restricted[p.Selector] {
			ask(path, RegistryQuery{Kind: CallPolicy, Target: p.Target, Selector: p.Selector})
			continue
		}
		fixed := false
		for j := range p.Constraints {
			c := &p.Constraints[j]
			if c.Index != 0 || c.Condition != Equal {
				continue
			}
			fixed = true
			// The SDK cuts the word to an address, whatever is in front of it.
			spender := Address(c.RefValue[word-len(Address{}):])
			ask(fmt.Sprintf("%s.constraints[%d].refValue", path, j),
				RegistryQuery{Kind: ApprovalTarget, Target: p.Target, Spender: spender})
		}
		if !fixed {
			unconstrained = append(unconstrained, Violation{Path: path, Message: fmt.Sprintf(
				"Unconstrained token approval/transfer destination in call policy. Selector: %v; Target: %v",
				p.Selector, p.Target)})
		}
	}
	for i := range s.TransferPolicies {
		ask(fmt.Sprintf("transferPolicies[%d]", i), RegistryQuery{Kind: TransferPolicy, Target: s.TransferPolicies[i].Target})
	}
	return unconstrained
}
