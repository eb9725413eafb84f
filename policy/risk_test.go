package policy

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

func TestRisk(t *testing.T) {
	spec := sampleSpec()
	risk := spec.Risk(sampleNow)
	want := []string{
		"native|0.005 ETH||fees|feeLimit|at most 0.005 ETH in total",
		"contract:0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359|up to the contract||mint(address,uint256)|callPolicies[0]|" +
			"what the function takes, the contract's code decides and the spec cannot say",
		"native|19009000 wei|0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb|transfers|transferPolicies[0]|" +
			"at most 1000 wei an hour, in 19009 periods that can be used until the end",
	}
	var got []string
	for _, r := range risk.Rows {
		got = append(got, strings.Join([]string{r.Asset.String(), r.Amount(), r.Recipient, r.Through, r.Path, r.Why}, "|"))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Logf("%s to %s", unixTime(uint256.NewInt(sampleNow)), unixTime(&spec.ExpiresAt))
		t.Errorf("rows (-want +got):\n%s", diff)
	}
}

// tokenSpec allows one token function until the end of the hour.
func tokenSpec(t *testing.T, signature string, constraints ...Constraint) *Spec {
	t.Helper()
	s := quietSpec(selectorOf(t, signature), constraints...)
	s.FeeLimit.Limit.Clear()
	return s
}

func TestRiskOfTokens(t *testing.T) {
	lifetime := func(c Constraint, limit uint64) Constraint {
		c.Limit = UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(limit)}
		return c
	}
	atMost := func(index uint64, most *uint256.Int) Constraint {
		return Constraint{Condition: LessOrEqual, Index: index, RefValue: most.Bytes32()}
	}
	less := new(uint256.Int).SubUint64(endless, 1)
	const token, hero = "token:0x0000000000000000000000000000000000000001",
		"nft:0x0000000000000000000000000000000000000001"
	for _, c := range []struct {
		name, signature string
		constraints     []Constraint
		want            string
	}{
		{"anything", "transfer(address,uint256)", nil, token + " unbounded anyone"},
		{"a sum", "transfer(address,uint256)", []Constraint{equal(0, 9), lifetime(Constraint{Index: 1}, 50)},
			token + " 50 0x0000000000000000000000000000000000000009"},
		{"so much at a time, any number of times", "transfer(address,uint256)", []Constraint{atMost(1, uint256.NewInt(5))},
			token + " unbounded anyone"},
		{"so much at a time, some times", "transfer(address,uint256)", []Constraint{lifetime(equal(1, 4), 11)}, token +
			" 8 anyone"},
		{"counted by another word", "transferFrom(address,address,uint256)",
			[]Constraint{lifetime(equal(1, 4), 13), atMost(2, uint256.NewInt(7))},
			token + " 21 0x0000000000000000000000000000000000000004"},
		{"nothing", "transfer(address,uint256)", []Constraint{equal(1, 0)}, token + " 0 anyone"},
		{"two limits", "transfer(address,uint256)", []Constraint{lifetime(Constraint{Index: 1}, 50),
			lifetime(Constraint{Index: 1}, 40)}, token + " 40 anyone"},
		{"an approval that may be endless", "approve(address,uint256)",
			[]Constraint{{Index: 1, Limit: UsageLimit{LimitType: Lifetime, Limit: *endless}}}, token + " unbounded anyone"},
		{"one that may not", "approve(address,uint256)",
			[]Constraint{{Index: 1, Limit: UsageLimit{LimitType: Lifetime, Limit: *less}}},
			token + " " + less.Dec() + " anyone"},
		{"an approval, again and again", "approve(address,uint256)", []Constraint{atMost(1, uint256.NewInt(5))}, token +
			" unbounded anyone"},
		{"all of a collection", "setApprovalForAll(address,bool)", []Constraint{equal(0, 9)}, token +
			" unbounded 0x0000000000000000000000000000000000000009"},
		{"only taking it away", "setApprovalForAll(address,bool)", []Constraint{equal(1, 0)}, token + " 0 anyone"},
		{"DAI's permit", "permit(address,address,uint256,uint256,bool,uint8,bytes32,bytes32)",
			[]Constraint{lifetime(Constraint{Index: 2}, 5)}, token + " unbounded anyone"},
		{"one NFT", "safeTransferFrom(address,address,uint256)", []Constraint{equal(2, 77)}, hero + " 1 anyone"},
		{"NFTs up to an id", "safeTransferFrom(address,address,uint256)", []Constraint{atMost(2, uint256.NewInt(9))}, hero +
			" 10 anyone"},
		{"any NFT", "safeTransferFrom(address,address,uint256)", nil, hero + " unbounded anyone"},
		{"a batch", "safeBatchTransferFrom(address,address,uint256[],uint256[],bytes)",
			[]Constraint{lifetime(Constraint{Index: 3}, 5)}, token + " unbounded anyone"},
		{"a burn", "burn(uint256)", []Constraint{lifetime(Constraint{}, 5)}, token + " 5 "},
		{"Permit2, any token", "approve(address,address,uint160,uint48)", []Constraint{lifetime(Constraint{Index: 2}, 5)},
			"permit2 5 anyone"},
		{"Permit2, one token", "approve(address,address,uint160,uint48)",
			[]Constraint{equal(0, 8), lifetime(Constraint{Index: 2}, 5)},
			"token:0x0000000000000000000000000000000000000008 5 anyone"},
		{"calls within calls", "multicall(bytes[])", nil, "contract:0x0000000000000000000000000000000000000001 unbounded "},
	} {
		risk := tokenSpec(t, c.signature, c.constraints...).Risk(sampleNow)
		row := risk.Rows[len(risk.Rows)-1]
		amount := "unbounded"
		if row.AtMost != nil {
			amount = row.AtMost.String()
		}
		if got := strings.Join([]string{row.Asset.String(), amount, row.Recipient}, " "); got != c.want || row.Why == "" {
			t.Errorf("%s: %s (%s), want %s", c.name, got, row.Why, c.want)
		}
	}
}

// A number that 256 bits can't hold is no bound, even of the sum of two that they can.
func TestRiskOverflow(t *testing.T) {
	most := *new(uint256.Int).SetAllOne()
	native := Asset{Kind: NativeAsset}
	spec := quietSpec(Selector{1})
	spec.FeeLimit.Limit = most
	if got := total(spec.Risk(sampleNow), native); got != most.Dec() {
		t.Errorf("a limit of all bits: %s", got)
	}
	spec.TransferPolicies = []TransferSpec{{MaxValuePerUse: *uint256.NewInt(1),
		ValueLimit: UsageLimit{LimitType: Lifetime, Limit: *uint256.NewInt(1)}}}
	if got := total(spec.Risk(sampleNow), native); got != "unbounded" {
		t.Errorf("and one more: %s, want unbounded", got)
	}
	spec.TransferPolicies, spec.FeeLimit = nil, UsageLimit{LimitType: Allowance, Limit: most,
		Period: *uint256.NewInt(1800)}
	if got := total(spec.Risk(sampleNow), native); got != "unbounded" {
		t.Errorf("twice as much: %s, want unbounded", got)
	}
	spec.ExpiresAt = most
	spec.FeeLimit.Limit.SetOne()
	if got, want := total(spec.Risk(sampleNow), native),
		new(uint256.Int).SubUint64(uint256.NewInt(1<<64-1), (sampleNow-1)/1800).Dec(); got != want {
		t.Errorf("for ever: %s, want %s, one for each period id that the contract takes", got, want)
	}
}

func TestRiskSentence(t *testing.T) {
	until := unixTime(uint256.NewInt(sampleNow + 3600))
	approve := selectorOf(t, "approve(address,uint256)")
	both := quietSpec(approve)
	both.CallPolicies = append(both.CallPolicies, CallSpec{Target: Address{19: 2}, Selector: Selector{1}},
		both.CallPolicies[0])
	nothing := quietSpec(approve)
	nothing.CallPolicies, nothing.FeeLimit.Limit = nil, uint256.Int{}
	one := "0x0000000000000000000000000000000000000001"
	two := "0x0000000000000000000000000000000000000002"
	for _, c := range []struct {
		spec *Spec
		now  uint64
		want string
	}{
		{both, sampleNow, "Until " + until + ", this session can lose at most 0.001 ETH, and without bound token " + one +
			"; beyond that, what function 0x01000000 on " + two + " can take is up to the contract."},
		{nothing, sampleNow, "Until " + until + ", this session can lose nothing."},
		{both, sampleNow + 3601, "This session can lose nothing: it ended at " + until + "."},
	} {
		if got := c.spec.Risk(c.now).Sentence; got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
	if rows := both.Risk(sampleNow).Rows; len(rows) != 3 {
		t.Errorf("%d rows, want 3: the last policy never decides", len(rows))
	}
}

func TestRiskJSON(t *testing.T) {
	text, err := json.Marshal(tokenSpec(t, "transfer(address,uint256)").Risk(sampleNow))
	want := `{"from":1728000007,"until":"1728003607","rows":[` +
		`{"asset":"native","atMost":"0","through":"fees","path":"feeLimit","why":"at most 0 ETH in total"},` +
		`{"asset":"token:0x0000000000000000000000000000000000000001","atMost":null,"recipient":"anyone","through":"transfer(address,uint256)",` +
		`"path":"callPolicies[0]","why":"nothing bounds what word 1 of the arguments adds up to"}],` +
		`"totals":[{"asset":"native","atMost":"0"},{"asset":"token:0x0000000000000000000000000000000000000001","atMost":null}],` +
		`"sentence":"Until 2024-10-04 01:00:07 UTC, this session can lose without bound token 0x0000000000000000000000000000000000000001."}`
	if diff := cmp.Diff(want, string(text)); err != nil || diff != "" {
		t.Errorf("JSON (-want +got):\n%s%v", diff, err)
	}
}

func TestAssetText(t *testing.T) {
	for _, a := range []Asset{{Kind: NativeAsset}, {Kind: Permit2Asset}, {TokenAsset, Address{1}}, {NFTAsset, Address{2}},
		{ContractAsset, Address{3}}} {
		var again Asset
		if err := again.UnmarshalText([]byte(a.String())); err != nil || again != a {
			t.Errorf("UnmarshalText(%s) = %v, %v", a, again, err)
		}
	}
	for _, text := range []string{"", "native:", "native:0x0100000000000000000000000000000000000000", "token",
		"token:0x01", "Token:0x0100000000000000000000000000000000000000"} {
		if err := new(Asset).UnmarshalText([]byte(text)); err == nil {
			t.Errorf("UnmarshalText(%q) succeeds", text)
		}
	}
}
