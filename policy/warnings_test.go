package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

// warningsOf is "path code" of each warning, but for the one that every agw session has.
func warningsOf(spec *Spec, rules WarningRules) []string {
	got := []string{}
	for _, w := range spec.Warnings(rules) {
		if w.Code != WarnPaymaster {
			got = append(got, w.Path+" "+w.Code)
		}
	}
	return got
}

// quietSpec allows one call, of which there is nothing to warn.
func quietSpec(selector Selector, constraints ...Constraint) *Spec {
	return &Spec{
		ExpiresAt:    *uint256.NewInt(sampleNow + 3600),
		FeeLimit:     UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(1e15)},
		CallPolicies: []CallSpec{{Target: Address{19: 1}, Selector: selector, Constraints: constraints}},
	}
}

func equal(index uint64, ref byte) Constraint {
	return Constraint{Condition: Equal, Index: index, RefValue: Hash{31: ref}}
}

func selectorOf(t *testing.T, signature string) Selector {
	t.Helper()
	for selector, s := range functionSignatures {
		if s == signature {
			return selector
		}
	}
	t.Fatalf("no function %s in the table", signature)
	return Selector{}
}

// Each function that can give tokens away warns without its recipient's word fixed, and with
// any other word fixed, and not with that one.
func TestWarnsOfUnfixedRecipient(t *testing.T) {
	const never = -1
	for signature, recipient := range map[string]int{
		"transferFrom(address,address,uint256)":                                                       1,
		"safeTransferFrom(address,address,uint256)":                                                   1,
		"safeTransferFrom(address,address,uint256,bytes)":                                             1,
		"safeTransferFrom(address,address,uint256,uint256,bytes)":                                     1,
		"safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)":                            1,
		"increaseAllowance(address,uint256)":                                                          0,
		"permit(address,address,uint256,uint256,uint8,bytes32,bytes32)":                               1,
		"permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)":                          1,
		"permit(address,address,uint256,uint256,bytes)":                                               1,
		"approve(address,address,uint160,uint48)":                                                     1,
		"permit(address,((address,uint160,uint48,uint48),address,uint256),bytes)":                     5,
		"permit(address,((address,uint160,uint48,uint48)[],address,uint256),bytes)":                   never,
		"transferFrom(address,address,uint160,address)":                                               1,
		"transferFrom((address,address,uint160,address)[])":                                           never,
		"permitTransferFrom(((address,uint256),uint256,uint256),(address,uint256),address,bytes)":     4,
		"permitTransferFrom(((address,uint256)[],uint256,uint256),(address,uint256)[],address,bytes)": never,
		"multicall(bytes[])":               never,
		"transferAndCall(address,uint256)": 0,
		"approveAndCall(address,uint256)":  0,
		"send(address,uint256,bytes)":      0,
		"redeem(uint256,address,address)":  1,
		"authorizeOperator(address)":       0,
	} {
		selector := selectorOf(t, signature)
		warned := func(constraints ...Constraint) bool {
			for _, w := range warningsOf(quietSpec(selector, constraints...), WarningRules{Now: sampleNow}) {
				if w == "callPolicies[0] "+WarnNoRecipient {
					return true
				}
			}
			return false
		}
		if !warned() {
			t.Errorf("%s: no warning without constraints", signature)
		}
		for word := range 8 {
			if got, want := warned(equal(uint64(word), 7)), word != recipient; got != want {
				t.Errorf("%s with word %d fixed: warned %v, want %v", signature, word, got, want)
			}
		}
		if recipient >= 0 && !warned(Constraint{Condition: GreaterOrEqual, Index: uint64(recipient), RefValue: Hash{31: 7}}) {
			t.Errorf("%s: a recipient from 7 up is taken for a fixed one", signature)
		}
	}
	for _, signature := range []string{"mint(address,uint256)", "decreaseAllowance(address,uint256)", "burn(uint256)"} {
		if got := warningsOf(quietSpec(selectorOf(t, signature)), WarningRules{Now: sampleNow}); len(got) > 0 {
			t.Errorf("%s: %v, want no warning", signature, got)
		}
	}
}

// The table's recipients are addresses, and its amounts integers, of the function's own arguments.
func TestTokenMovesFitTheirFunctions(t *testing.T) {
	for selector, m := range tokenMoves {
		head, known := selector.head()
		if !known {
			t.Errorf("%v has no signature", selector)
			continue
		}
		for _, c := range []struct {
			name  string
			word  int
			kinds []string
		}{
			{"recipient", m.recipient, []string{"address"}},
			{"token", m.token, []string{"address"}},
			{"amount", m.amount, []string{"uint256", "uint160"}},
			{"enabled", m.enabled, []string{"bool"}},
		} {
			if c.word == noWord {
				continue
			}
			ok := false
			for _, kind := range c.kinds {
				ok = ok || c.word < len(head) && head[c.word].kind == kind
			}
			if !ok {
				t.Errorf("%s: word %d is no %s", selector.functionName(), c.word, c.name)
			}
		}
	}
}

func TestWarnings(t *testing.T) {
	mint := Selector{0x40, 0xc1, 0x0f, 0x19} // mint(address,uint256)
	limited := func(c Constraint, limit UsageLimit) Constraint {
		c.Limit = limit
		return c
	}
	lifetime := func(limit uint64) UsageLimit {
		return UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(limit)}
	}
	change := func(f func(*Spec)) *Spec {
		s := quietSpec(mint)
		f(s)
		return s
	}
	rules := WarningRules{Now: sampleNow}
	for _, c := range []struct {
		name  string
		spec  *Spec
		rules WarningRules
		want  []string
	}{
		{"nothing", quietSpec(mint, equal(0, 9)), rules, nil},
		{"dirty", quietSpec(mint, Constraint{Condition: Equal, RefValue: Hash{11: 1, 31: 9}}), rules,
			[]string{"callPolicies[0].constraints[0].refValue dirtyAddress"}},
		{"dirty, not an address", quietSpec(mint, Constraint{Condition: Less, Index: 1, RefValue: Hash{11: 1}}), rules, nil},
		{"dirty, not looked at", quietSpec(mint, Constraint{RefValue: Hash{11: 1}}), rules, nil},
		{"an offset", quietSpec(Selector{0xb8, 0x8d, 0x4f, 0xde}, equal(1, 9), equal(3, 0x80)), rules,
			[]string{"callPolicies[0].constraints[1].index offsetConstraint"}},
		{"an offset of a tuple", quietSpec(Selector{0x2a, 0x2d, 0x80, 0xd1}, equal(1, 0x60)), rules,
			[]string{"callPolicies[0] unfixedRecipient", "callPolicies[0].constraints[0].index offsetConstraint"}},
		{"beyond the arguments", quietSpec(mint, equal(2, 9)), rules,
			[]string{"callPolicies[0].constraints[0].index beyondArguments"}},
		{"beyond what is counted", quietSpec(Selector{1}, equal(1<<59, 9)), rules,
			[]string{"callPolicies[0].constraints[0].index neverMet"}},
		{"unknown function", quietSpec(Selector{1}, equal(7, 9)), rules, nil},
		{"two values", quietSpec(mint, equal(1, 4), equal(1, 5)), rules, []string{"callPolicies[0].constraints[0] neverMet"}},
		{"a value and not it", quietSpec(mint, equal(1, 4), Constraint{Condition: NotEqual, Index: 1, RefValue: Hash{31: 4}}),
			rules,
			[]string{"callPolicies[0].constraints[0] neverMet"}},
		{"two words", quietSpec(mint, equal(0, 4), equal(1, 5)), rules, nil},
		{"less than 0", quietSpec(mint, Constraint{Condition: Less, Index: 1}), rules,
			[]string{"callPolicies[0].constraints[0] neverMet"}},
		{"more than all", quietSpec(mint, Constraint{Condition: Greater, Index: 1,
			RefValue: new(uint256.Int).SetAllOne().Bytes32()}), rules,
			[]string{"callPolicies[0].constraints[0] neverMet"}},
		{"all but the least three", quietSpec(mint,
			Constraint{Condition: LessOrEqual, Index: 1, RefValue: Hash{31: 2}},
			Constraint{Condition: NotEqual, Index: 1, RefValue: Hash{31: 1}},
			Constraint{Condition: NotEqual, Index: 1, RefValue: Hash{31: 2}}, Constraint{Condition: NotEqual, Index: 1}), rules,
			[]string{"callPolicies[0].constraints[0] neverMet"}},
		{"a value above its limit", quietSpec(mint, limited(equal(1, 9), lifetime(8))), rules,
			[]string{"callPolicies[0].constraints[0] neverMet"}},
		{"a value at its limit", quietSpec(mint, limited(equal(1, 9), lifetime(9))), rules, nil},
		{"at most more than the limit", quietSpec(mint, limited(Constraint{Condition: LessOrEqual, Index: 1,
			RefValue: Hash{31: 9}}, lifetime(8))), rules,
			[]string{"callPolicies[0].constraints[0].refValue limitNeverMet"}},
		{"a limit of 0", quietSpec(mint, limited(Constraint{Index: 1}, lifetime(0))), rules,
			[]string{"callPolicies[0].constraints[0].limit.limit limitNeverMet"}},
		{"a period of 0", quietSpec(mint, limited(Constraint{Index: 1}, allowance(5, 0))), rules,
			[]string{"callPolicies[0].constraints[0].limit.period neverMet"}},
		{"a short period", quietSpec(mint, limited(Constraint{Index: 1}, allowance(5, 60))), rules,
			[]string{"callPolicies[0].constraints[0].limit.period shortPeriod"}},
		{"a period just long enough", quietSpec(mint, limited(Constraint{Index: 1}, allowance(5, 61))), rules, nil},
		{"a short fee period", change(func(s *Spec) { s.FeeLimit = allowance(5, 1) }), rules,
			[]string{"feeLimit.period shortPeriod"}},
		{"no fee", change(func(s *Spec) { s.FeeLimit.Limit.Clear() }), rules, []string{"feeLimit.limit limitNeverMet"}},
		{"more at once than in total", change(func(s *Spec) {
			s.CallPolicies[0].MaxValuePerUse, s.CallPolicies[0].ValueLimit = *uint256.NewInt(2), lifetime(1)
		}), rules, []string{"callPolicies[0].maxValuePerUse limitNeverMet"}},
		{"a total that is never used", change(func(s *Spec) { s.CallPolicies[0].ValueLimit = lifetime(1) }), rules,
			[]string{"callPolicies[0].valueLimit.limit limitNeverMet"}},
		{"twice", change(func(s *Spec) { s.CallPolicies = append(s.CallPolicies, s.CallPolicies[0]) }), rules,
			[]string{"callPolicies[1] duplicatePolicy"}},
		{"a transfer twice", change(func(s *Spec) { s.TransferPolicies = make([]TransferSpec, 2) }), rules,
			[]string{"transferPolicies[1] duplicatePolicy"}},
		{"no policy", change(func(s *Spec) { s.CallPolicies = nil }), rules, []string{" nothingAllowed"}},
		{"the account itself", quietSpec(mint), WarningRules{Now: sampleNow, Account: Address{19: 1}},
			[]string{"callPolicies[0].target forbiddenTarget"}},
		{"the module", quietSpec(mint), WarningRules{Now: sampleNow, Validator: Address{19: 1}},
			[]string{"callPolicies[0].target forbiddenTarget"}},
		{"an end in 60 s", quietSpec(mint), WarningRules{Now: sampleNow + 3540}, []string{"expiresAt shortExpiry"}},
		{"an end in 61 s", quietSpec(mint), WarningRules{Now: sampleNow + 3539}, nil},
		{"another margin", quietSpec(mint), WarningRules{Now: sampleNow + 3500, Margin: 100},
			[]string{"expiresAt shortExpiry"}},
		{"the end", quietSpec(mint), WarningRules{Now: sampleNow + 3601}, []string{"expiresAt expired"}},
		{"longer than allowed", quietSpec(mint), WarningRules{Now: sampleNow, MaxLifetime: 3599},
			[]string{"expiresAt expiryTooFar"}},
		{"as long as allowed", quietSpec(mint), WarningRules{Now: sampleNow, MaxLifetime: 3600}, nil},
		{"of an eoa session", quietSpec(mint, limited(Constraint{Index: 1}, allowance(5, 1))),
			WarningRules{Now: sampleNow + 3600, EOA: true}, nil},
	} {
		if c.want == nil {
			c.want = []string{}
		}
		if diff := cmp.Diff(c.want, warningsOf(c.spec, c.rules)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}

// A paymaster's fees are bounded by nothing that a spec says, so each agw session has the warning, and no eoa one.
func TestWarnsOfPaymaster(t *testing.T) {
	for _, eoa := range []bool{false, true} {
		found := false
		for _, w := range quietSpec(Selector{1}).Warnings(WarningRules{Now: sampleNow, EOA: eoa}) {
			found = found || w.Code == WarnPaymaster && w.Path == "feeLimit"
		}
		if found == eoa {
			t.Errorf("eoa %v: warned %v", eoa, found)
		}
	}
}
