package policy

import (
	"encoding/json"
	"fmt"
)

// maxSpecBytes bounds a spec's JSON: as long as a message on the socket may be.
const maxSpecBytes = 1 << 20

// Names of the enums, by number. Where the SDK and the contract differ both are read.
var (
	limitTypeNames = [][]string{{"Unlimited"}, {"Lifetime"}, {"Allowance"}}
	conditionNames = [][]string{
		{"Unconstrained"}, {"Equal"}, {"Greater"}, {"Less"},
		{"GreaterOrEqual", "GreaterEqual"}, {"LessOrEqual", "LessEqual"}, {"NotEqual"},
	}
)

// String returns the contract's name.
func (t LimitType) String() string { return enumName(limitTypeNames, uint8(t)) }

// String returns the contract's name.
func (c Condition) String() string { return enumName(conditionNames, uint8(c)) }

func enumName(names [][]string, n uint8) string {
	if int(n) >= len(names) {
		return fmt.Sprintf("unknown (%d)", n)
	}
	return names[n][0]
}

// ParseSpec reads a spec in the SDK's JSON shape, strictly: every key of the shape once
// and no other. Integers are decimal strings, 0x-hex strings or JSON numbers written as plain
// digits; enums are numbers or names. requireSigner false accepts a spec without
// "signer" (Signer is then zero). The error is always a *[SpecError].
func ParseSpec(data []byte, requireSigner bool) (*Spec, error) {
	v, err := parseJSON(data, maxSpecBytes, maxMembers)
	if err != nil {
		return nil, err
	}
	var d decoder
	spec := d.spec(v, "", requireSigner)
	if d.err != nil {
		return nil, d.err
	}
	return &spec, nil
}

// UnmarshalJSON is [ParseSpec] without a required signer.
func (s *Spec) UnmarshalJSON(data []byte) error {
	parsed, err := ParseSpec(data, false)
	if err != nil {
		return err
	}
	*s = *parsed
	return nil
}

// The SDK's shape (agw-client, SessionConfig), in its order of keys.
type (
	specJSON struct {
		Signer           Address        `json:"signer"`
		ExpiresAt        Decimal        `json:"expiresAt"`
		FeeLimit         limitJSON      `json:"feeLimit"`
		CallPolicies     []callJSON     `json:"callPolicies"`
		TransferPolicies []transferJSON `json:"transferPolicies"`
	}
	limitJSON struct {
		LimitType LimitType `json:"limitType"`
		Limit     Decimal   `json:"limit"`
		Period    Decimal   `json:"period"`
	}
	callJSON struct {
		Target         Address          `json:"target"`
		Selector       Selector         `json:"selector"`
		MaxValuePerUse Decimal          `json:"maxValuePerUse"`
		ValueLimit     limitJSON        `json:"valueLimit"`
		Constraints    []constraintJSON `json:"constraints"`
	}
	constraintJSON struct {
		Condition Condition `json:"condition"`
		Index     uint64    `json:"index,string"`
		RefValue  Hash      `json:"refValue"`
		Limit     limitJSON `json:"limit"`
	}
	transferJSON struct {
		Target         Address   `json:"target"`
		MaxValuePerUse Decimal   `json:"maxValuePerUse"`
		ValueLimit     limitJSON `json:"valueLimit"`
	}
)

// MarshalJSON writes the SDK's shape: integers as decimal strings, enums as numbers, bytes
// as lower-case 0x-hex, addresses with their checksum. The value receiver keeps the
// shape the same whether or not the spec is behind a pointer.
func (s Spec) MarshalJSON() ([]byte, error) {
	out := specJSON{
		Signer:           s.Signer,
		ExpiresAt:        Decimal(s.ExpiresAt),
		FeeLimit:         shapeLimit(s.FeeLimit),
		CallPolicies:     make([]callJSON, len(s.CallPolicies)),
		TransferPolicies: make([]transferJSON, len(s.TransferPolicies)),
	}
	for i, p := range s.CallPolicies {
		out.CallPolicies[i] = callJSON{
			Target:         p.Target,
			Selector:       p.Selector,
			MaxValuePerUse: Decimal(p.MaxValuePerUse),
			ValueLimit:     shapeLimit(p.ValueLimit),
			Constraints:    make([]constraintJSON, len(p.Constraints)),
		}
		for j, c := range p.Constraints {
			out.CallPolicies[i].Constraints[j] = constraintJSON{c.Condition, c.Index, c.RefValue, shapeLimit(c.Limit)}
		}
	}
	for i, p := range s.TransferPolicies {
		out.TransferPolicies[i] = transferJSON{p.Target, Decimal(p.MaxValuePerUse), shapeLimit(p.ValueLimit)}
	}
	return json.Marshal(out)
}

func shapeLimit(l UsageLimit) limitJSON {
	return limitJSON{l.LimitType, Decimal(l.Limit), Decimal(l.Period)}
}

func (d *decoder) spec(v *jsonValue, path string, requireSigner bool) (s Spec) {
	o := d.object(v, path, "signer", "expiresAt", "feeLimit", "callPolicies", "transferPolicies")
	if requireSigner || o.has("signer") {
		o.text("signer", &s.Signer)
	}
	s.ExpiresAt = o.uint("expiresAt")
	s.FeeLimit = o.limit("feeLimit")
	o.array("callPolicies", func(item *jsonValue, path string) {
		s.CallPolicies = append(s.CallPolicies, d.callSpec(item, path))
	})
	o.array("transferPolicies", func(item *jsonValue, path string) {
		s.TransferPolicies = append(s.TransferPolicies, d.transferSpec(item, path))
	})
	return s
}

func (d *decoder) callSpec(v *jsonValue, path string) (p CallSpec) {
	o := d.object(v, path, "target", "selector", "maxValuePerUse", "valueLimit", "constraints")
	o.text("target", &p.Target)
	o.text("selector", &p.Selector)
	p.MaxValuePerUse = o.uint("maxValuePerUse")
	p.ValueLimit = o.limit("valueLimit")
	o.array("constraints", func(item *jsonValue, path string) {
		p.Constraints = append(p.Constraints, d.constraint(item, path))
	})
	return p
}

func (d *decoder) transferSpec(v *jsonValue, path string) (p TransferSpec) {
	o := d.object(v, path, "target", "maxValuePerUse", "valueLimit")
	o.text("target", &p.Target)
	p.MaxValuePerUse = o.uint("maxValuePerUse")
	p.ValueLimit = o.limit("valueLimit")
	return p
}

func (d *decoder) constraint(v *jsonValue, path string) (c Constraint) {
	o := d.object(v, path, "condition", "index", "refValue", "limit")
	c.Condition = Condition(o.enum("condition", conditionNames))
	c.Index = o.uint64("index")
	o.text("refValue", &c.RefValue)
	c.Limit = o.limit("limit")
	return c
}
