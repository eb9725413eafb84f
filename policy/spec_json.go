package policy

import (
	"encoding/json"
	"fmt"
)

// maxSpecBytes bounds a spec's JSON: as long as a message on the socket may be.
const maxSpecBytes = 1 << 20

// maxPathMembers bounds the paths in superjson's lists: a spec has two or more for each limit.
const maxPathMembers = maxRegistryMembers

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
// and no other. Values are read in the forms that apps write:
//
//   - an integer is a decimal string, a 0x-hex string, a JSON number of plain digits, or a bigint as libraries
//     write it: "123n", "__bigint__123", "123#__bigint", {"__type":"bigint","value":"123"};
//   - an enum is its number or its name, in any case;
//   - a selector is 0x-hex or a signature, see [ParseSignature];
//   - the whole may be {"session": SPEC}, or superjson's {"json": SPEC, "meta": {...}}.
//
// A document with a private key anywhere is refused. requireSigner false accepts a spec without
// "signer" (Signer is then zero). The error is always a *[JSONError]; it shows no value that could be a key.
func ParseSpec(data []byte, requireSigner bool) (*Spec, error) {
	spec, _, err := ReadSpec(data, requireSigner)
	return spec, err
}

// ReadSpec is [ParseSpec]. It also returns the selectors that are given as signatures, for a person to see.
func ReadSpec(data []byte, requireSigner bool) (*Spec, []NamedSelector, error) {
	v, err := parseJSON(data, maxSpecBytes, maxPathMembers)
	if err != nil {
		return nil, nil, err
	}
	v, path, wrong := unwrapSpec(v)
	if wrong != nil {
		return nil, nil, wrong
	}
	var d decoder
	spec := d.spec(v, path, requireSigner)
	if d.err != nil {
		return nil, nil, d.err
	}
	return &spec, d.named, nil
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

func (d *decoder) spec(v *jsonNode, path string, requireSigner bool) (s Spec) {
	o := d.specObject(v, path, "signer", "expiresAt", "feeLimit", "callPolicies", "transferPolicies")
	if requireSigner || o.has("signer") {
		o.specText("signer", &s.Signer)
	}
	s.ExpiresAt = o.specUint("expiresAt")
	s.FeeLimit = o.limit("feeLimit")
	o.array("callPolicies", func(item *jsonNode, path string) {
		s.CallPolicies = append(s.CallPolicies, d.callSpec(item, path))
	})
	o.array("transferPolicies", func(item *jsonNode, path string) {
		s.TransferPolicies = append(s.TransferPolicies, d.transferSpec(item, path))
	})
	return s
}

func (d *decoder) callSpec(v *jsonNode, path string) (p CallSpec) {
	o := d.specObject(v, path, "target", "selector", "maxValuePerUse", "valueLimit", "constraints")
	o.specText("target", &p.Target)
	p.Selector = o.selector("selector")
	p.MaxValuePerUse = o.specUint("maxValuePerUse")
	p.ValueLimit = o.limit("valueLimit")
	o.array("constraints", func(item *jsonNode, path string) {
		p.Constraints = append(p.Constraints, d.constraint(item, path))
	})
	return p
}

func (d *decoder) transferSpec(v *jsonNode, path string) (p TransferSpec) {
	o := d.specObject(v, path, "target", "maxValuePerUse", "valueLimit")
	o.specText("target", &p.Target)
	p.MaxValuePerUse = o.specUint("maxValuePerUse")
	p.ValueLimit = o.limit("valueLimit")
	return p
}

func (d *decoder) constraint(v *jsonNode, path string) (c Constraint) {
	o := d.specObject(v, path, "condition", "index", "refValue", "limit")
	c.Condition = Condition(o.specEnum("condition", conditionNames))
	c.Index = o.specUint64("index")
	o.specText("refValue", &c.RefValue)
	c.Limit = o.limit("limit")
	return c
}

func (o jsonObjectReader) limit(key string) (l UsageLimit) {
	v := o.member(key)
	if v == nil {
		return l
	}
	in := o.d.specObject(v, o.at(key), "limitType", "limit", "period")
	l.LimitType = LimitType(in.specEnum("limitType", limitTypeNames))
	l.Limit = in.specUint("limit")
	l.Period = in.specUint("period")
	return l
}
