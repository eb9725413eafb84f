package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

func TestFunctionSignaturesMatchTheirSelectors(t *testing.T) {
	for selector, signature := range functionSignatures {
		sum := keccak256([]byte(signature))
		if got := Selector(sum[:4]); got != selector {
			t.Errorf("%s has the selector %v, the table says %v", signature, got, selector)
		}
	}
}

func TestDescribe(t *testing.T) {
	want := []string{
		"until 2026-12-05 00:09:40 UTC",
		"fees: at most 0.005 ETH in total; what a paymaster pays does not count",
		"may call mint(address,uint256) on 0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359, sending no value, " +
			"first argument must be 0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB, " +
			"second argument may be anything and add up to at most 5 a day",
		"may transfer to 0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb, " +
			"sending at most 100 wei a time and at most 1000 wei an hour",
	}
	if diff := cmp.Diff(want, sampleSpec().Describe()); diff != "" {
		t.Errorf("Describe (-want +got):\n%s", diff)
	}
}

func TestDescribeEdges(t *testing.T) {
	target := mustAddress("0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359")
	all := *new(uint256.Int).SetAllOne()
	spec := &Spec{
		ExpiresAt: all,
		CallPolicies: []CallSpec{
			{Target: target, Selector: Selector{0x12, 0x34, 0x56, 0x78}, MaxValuePerUse: all},
			{Target: target, Selector: Selector{0x4e, 0x71, 0xd9, 0x2d}},
			{Target: target, Selector: Selector{0x12, 0x34, 0x56, 0x78}, Constraints: []Constraint{
				{Condition: GreaterOrEqual, Index: 3, RefValue: Hash{31: 9}},
			}},
		},
		TransferPolicies: []TransferSpec{
			{Target: target, MaxValuePerUse: *uint256.NewInt(1e18), ValueLimit: UsageLimit{LimitType: Allowance}},
			{Target: target},
		},
	}
	want := []string{
		"until Unix time " + all.Dec(),
		"fees: any amount in total; what a paymaster pays does not count",
		"may call function 0x12345678 on " + target.String() +
			", sending any amount a time and any amount in total, with any arguments",
		"may call claim() on " + target.String() + ", sending no value",
		"may call function 0x12345678 on " + target.String() +
			", sending no value, word 3 of the arguments must be at least 9" +
			" (never used: an earlier policy has the same target and selector)",
		"may transfer to " + target.String() + ", sending at most 1 ETH a time and at most 0 ETH " +
			"in periods of 0 seconds, which the contract always refuses",
		"may transfer to " + target.String() + ", sending no value (never used: an earlier policy has the same target)",
	}
	if diff := cmp.Diff(want, spec.Describe()); diff != "" {
		t.Errorf("Describe (-want +got):\n%s", diff)
	}
	want = []string{want[0], want[1], "may not call any contract", "may not transfer value"}
	if diff := cmp.Diff(want, (&Spec{ExpiresAt: all}).Describe()); diff != "" {
		t.Errorf("Describe without policies (-want +got):\n%s", diff)
	}
	spec.TransferPolicies[1].ValueLimit.LimitType = 9
	want = []string{"nothing: transferPolicies[1].valueLimit.limitType is not one that the contract knows"}
	if diff := cmp.Diff(want, spec.Describe()); diff != "" {
		t.Errorf("Describe of an unknown limit type (-want +got):\n%s", diff)
	}
}

func TestDescribeCondition(t *testing.T) {
	selector := Selector{0xa2, 0x2c, 0xb4, 0x65} // setApprovalForAll(address,bool)
	account := Hash{12: 0xdb, 31: 1}
	for _, c := range []struct {
		constraint Constraint
		want       string
	}{
		{Constraint{Condition: NotEqual, RefValue: account},
			"first argument must not be 0xDB00000000000000000000000000000000000001"},
		{Constraint{Condition: Equal, RefValue: Hash{0: 1}}, "first argument must be " + (Hash{0: 1}).String()},
		{Constraint{Condition: Equal, Index: 1, RefValue: Hash{31: 1}}, "second argument must be true"},
		{Constraint{Condition: Equal, Index: 1}, "second argument must be false"},
		{Constraint{Condition: Greater, Index: 2, RefValue: Hash{31: 7}}, "word 2 of the arguments must be greater than 7"},
		{Constraint{Condition: Less, Index: 2, RefValue: account},
			"word 2 of the arguments must be less than 0xDB00000000000000000000000000000000000001"},
		{Constraint{Condition: LessOrEqual, Index: 2, RefValue: Hash{31: 7},
			Limit: UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(70)}},
			"word 2 of the arguments must be at most 7 and add up to at most 70 in total"},
	} {
		if got := selector.describeConstraint(&c.constraint); got != c.want {
			t.Errorf("%+v is %q, want %q", c.constraint, got, c.want)
		}
	}
}

func TestDescribeDynamicArgument(t *testing.T) {
	selector := Selector{0xac, 0x96, 0x50, 0xd8} // multicall(bytes[])
	if got, want := selector.describeConstraint(&Constraint{}), "word 0 of the arguments may be anything"; got != want {
		t.Errorf("the word of an offset is %q, want %q", got, want)
	}
}

func TestDescribePeriod(t *testing.T) {
	for seconds, want := range map[uint64]string{
		1: "a second", 59: "every 59 seconds", 60: "a minute", 120: "every 2 minutes", 3600: "an hour",
		7200: "every 2 hours", 86400: "a day", 604800: "a week", 2592000: "every 30 days", 86401: "every 86401 seconds",
	} {
		if got := describePeriod(uint256.NewInt(seconds)); got != want {
			t.Errorf("%d seconds are %q, want %q", seconds, got, want)
		}
	}
}

func TestEther(t *testing.T) {
	for wei, want := range map[string]string{
		"0": "0 ETH", "1": "1 wei", "999999999": "999999999 wei", "1000000000": "0.000000001 ETH",
		"1500000000000000000": "1.5 ETH", "100000000000000000000": "100 ETH",
		"1000000000000000001": "1.000000000000000001 ETH",
	} {
		if got := ether(*uint256.MustFromDecimal(wei)); got != want {
			t.Errorf("%s wei are %q, want %q", wei, got, want)
		}
	}
}
