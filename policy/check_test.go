package policy

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
)

// sampleCall is a call that sampleSpec allows at sampleNow, as the account sends it.
func sampleCall() *Call {
	spec := sampleSpec()
	p := spec.CallPolicies[0]
	data := append(p.Selector[:], p.Constraints[0].RefValue[:]...)
	amount := uint256.NewInt(2).Bytes32()
	return &Call{
		Account:      mustAddress("0x52908400098527886e0f7030069857d2e4169ee7"),
		Validator:    validator,
		To:           p.Target,
		Data:         append(data, amount[:]...),
		GasLimit:     *uint256.NewInt(100_000),
		MaxFeePerGas: *uint256.NewInt(2),
	}
}

const sampleNow = 86400*20000 + 7

func denialOf(t *testing.T, err error) *Denial {
	t.Helper()
	var denial *Denial
	if !errors.As(err, &denial) {
		t.Fatalf("error is %v (%T), want a Denial", err, err)
	}
	return denial
}

func TestCheckCharges(t *testing.T) {
	spec, tx := sampleSpec(), sampleCall()
	charges, err := spec.Check(tx, spec.PeriodIDs(tx, sampleNow), sampleNow)
	if err != nil {
		t.Fatal(err)
	}
	amount := func(n uint64) Decimal { return Decimal(*uint256.NewInt(n)) }
	want := []Charge{
		{Tracker{Kind: CallParamTracker, Target: tx.To, Selector: tx.selector(), Position: 1,
			Allowance: true, PeriodID: 20000}, amount(5), amount(2)},
		{Tracker{Kind: FeeTracker}, amount(5e15), amount(200_000)},
	}
	if diff := cmp.Diff(want, charges); diff != "" {
		t.Errorf("charges (-want +got):\n%s", diff)
	}
}

func TestCheckReasons(t *testing.T) {
	for _, c := range []struct {
		reason, revert string
		edit           func(*Spec, *Call)
	}{
		{ReasonUnknownEnum, "empty", func(s *Spec, _ *Call) { s.CallPolicies[0].Constraints[0].Condition = 7 }},
		{ReasonInvalidSigner, "Invalid signer (empty)", func(s *Spec, _ *Call) { s.Signer = Address{} }},
		{ReasonSessionExpired, "TimestampOutOfRange", func(s *Spec, _ *Call) { s.ExpiresAt.SetUint64(sampleNow - 1) }},
		{ReasonApprovalPaymaster, "Approval based paymaster flow not allowed",
			func(_ *Spec, tx *Call) { tx.PaymasterInput = []byte{0x94, 0x94, 0x31, 0xdc} }},
		{ReasonTargetSelf, "Can not target self", func(_ *Spec, tx *Call) { tx.To = tx.Account }},
		{ReasonTargetValidator, "Can not manage session keys", func(_ *Spec, tx *Call) { tx.To = tx.Validator }},
		{ReasonCallNotAllowed, "Call to this contract is not allowed", func(_ *Spec, tx *Call) { tx.Data[0]++ }},
		{ReasonTransferNotAllowed, "Transfer to this address is not allowed",
			func(_ *Spec, tx *Call) { tx.Data = tx.Data[:3] }},
		{ReasonValueTooHigh, "Value exceeds limit", func(_ *Spec, tx *Call) { tx.Value.SetOne() }},
		{ReasonCalldataTooShort, "empty", func(_ *Spec, tx *Call) { tx.Data = tx.Data[:67] }},
		{ReasonConstraintNotMet, "EQUAL constraint not met", func(_ *Spec, tx *Call) { tx.Data[35]++ }},
		{ReasonOverflow, "Panic(0x11)", func(_ *Spec, tx *Call) { tx.GasLimit.SetAllOne() }},
		{ReasonPeriodOutOfRange, "TimestampOutOfRange", func(s *Spec, _ *Call) { s.CallPolicies[0].Constraints[1].Limit.Period.Clear() }},
	} {
		spec, tx := sampleSpec(), sampleCall()
		c.edit(spec, tx)
		_, err := spec.Check(tx, spec.PeriodIDs(tx, sampleNow), sampleNow)
		denial := denialOf(t, err)
		if denial.Reason != c.reason || denial.Revert != c.revert {
			t.Errorf("denied with %s %q, want %s %q", denial.Reason, denial.Revert, c.reason, c.revert)
		}
		if denial.Detail == "" {
			t.Errorf("%s says nothing about what was compared", c.reason)
		}
	}
}

func TestCheckTooFewPeriodIDs(t *testing.T) {
	spec, tx := sampleSpec(), sampleCall()
	for n := range 4 {
		_, err := spec.Check(tx, make([]uint64, n), sampleNow)
		if got := denialOf(t, err).Reason; got != ReasonTooFewPeriodIDs {
			t.Errorf("%d period ids: %s", n, got)
		}
	}
	tx.Data = tx.Data[:4] // the id is looked up before the word
	if _, err := spec.Check(tx, make([]uint64, 2), sampleNow); denialOf(t, err).Reason != ReasonTooFewPeriodIDs {
		t.Errorf("without ids and words: %v, want too few period ids", err)
	}
	tx = sampleCall()
	if _, err := spec.Check(tx, []uint64{0, 0, 0, math.MaxUint64}, sampleNow); denialOf(t, err).Reason != ReasonOverflow {
		t.Errorf("period id 2^64-1: %v, want an overflow", err)
	}
}

// An eoa session has no session module, and the zero address is a target like others.
func TestCheckWithoutValidator(t *testing.T) {
	spec, tx := sampleSpec(), sampleCall()
	spec.CallPolicies[0].Target = Address{}
	tx.To, tx.Validator = Address{}, Address{}
	if _, err := spec.Check(tx, spec.PeriodIDs(tx, sampleNow), sampleNow); err != nil {
		t.Error(err)
	}
}

func TestDenialNamesItsPlace(t *testing.T) {
	spec, tx := sampleSpec(), sampleCall()
	tx.Data[35]++
	_, err := spec.Check(tx, spec.PeriodIDs(tx, sampleNow), sampleNow)
	denial := denialOf(t, err)
	if denial.Policy != 0 || denial.Constraint != 0 {
		t.Errorf("policy %d, constraint %d; want 0 and 0", denial.Policy, denial.Constraint)
	}
	text, err := json.Marshal(denial)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"reason":"constraintNotMet","revert":"EQUAL constraint not met","detail":` +
		`"word 0 is 0xdbf03b407c01e7cd3cbea99509d93f8dddc8c6fc, must be equal to ` +
		`0x000000000000000000000000dbf03b407c01e7cd3cbea99509d93f8dddc8c6fb","policy":0,"constraint":0}`
	if string(text) != want {
		t.Errorf("JSON %s, want %s", text, want)
	}
}

func TestApply(t *testing.T) {
	most := *new(uint256.Int).SetAllOne()
	n := uint256.NewInt
	for _, c := range []struct {
		name                string
		limit, used, amount uint256.Int
		reason              string
	}{
		{"below", *n(10), *n(3), *n(6), ""},
		{"exact", *n(10), *n(3), *n(7), ""},
		{"over", *n(10), *n(3), *n(8), ReasonLifetimeExceeded},
		{"nothing of nothing", *n(0), *n(0), *n(0), ""},
		{"limit was lowered", *n(10), *n(11), *n(0), ReasonLifetimeExceeded},
		{"all", most, *n(0), most, ""},
		{"overflow", most, *n(1), most, ReasonOverflow},
	} {
		charge := Charge{Tracker{Kind: FeeTracker}, Decimal(c.limit), Decimal(c.amount)}
		got, err := charge.Apply(c.used)
		if c.reason == "" {
			if want := new(uint256.Int).Add(&c.used, &c.amount); err != nil || !got.Eq(want) {
				t.Errorf("%s: Apply = %s, %v; want %s", c.name, got.Dec(), err, want.Dec())
			}
			continue
		}
		if denial := denialOf(t, err); denial.Reason != c.reason {
			t.Errorf("%s: denied with %s, want %s", c.name, denial.Reason, c.reason)
		}
	}
}

func TestLimitDenialInWords(t *testing.T) {
	n := func(x uint64) Decimal { return Decimal(*uint256.NewInt(x)) }
	_, err := Charge{Tracker{Kind: FeeTracker}, n(1000000), n(200000)}.Apply(*uint256.NewInt(900000))
	want := "Lifetime limit exceeded: fee limit 1000000, used 900000, asked 200000, remaining 100000"
	if err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	text, marshalErr := json.Marshal(denialOf(t, err))
	if marshalErr != nil {
		t.Fatal(marshalErr)
	}
	want = `{"reason":"lifetimeLimitExceeded","revert":"Lifetime limit exceeded","detail":"fee limit 1000000, used 900000, ` +
		`asked 200000, remaining 100000","tracker":"fee","limit":"1000000","used":"900000","asked":"200000","remaining":"100000"}`
	if string(text) != want {
		t.Errorf("JSON %s, want %s", text, want)
	}
	daily := Tracker{Kind: CallParamTracker, Position: 1, Allowance: true, PeriodID: 20000}
	_, err = Charge{daily, n(5), n(3)}.Apply(*uint256.NewInt(3))
	denial := denialOf(t, err)
	if !strings.HasPrefix(err.Error(), "Allowance limit exceeded: ") || !strings.Contains(err.Error(), "in period 20000") {
		t.Errorf("%v", err)
	}
	if denial.Constraint != 1 || *denial.Tracker != daily || denial.Remaining.Uint64() != 2 {
		t.Errorf("constraint %d, tracker %v, remaining %v", denial.Constraint, denial.Tracker, denial.Remaining)
	}
}

// The chain counts before it comes to the check that denies, so a limit that is used up is
// what it refuses with.
func TestSettlePrefersTheEarlierRefusal(t *testing.T) {
	spec, tx := sampleSpec(), sampleCall()
	ids := spec.PeriodIDs(tx, sampleNow)
	tx.GasLimit.SetAllOne() // the fee overflows, after the constraints
	charges, denied := spec.Check(tx, ids, sampleNow)
	for _, c := range []struct {
		used   uint64
		reason string
	}{{3, ReasonOverflow}, {4, ReasonAllowanceExceeded}} {
		err := Settle(charges, denied, func(Tracker) uint256.Int { return *uint256.NewInt(c.used) })
		if got := denialOf(t, err).Reason; got != c.reason {
			t.Errorf("with %d used: %s, want %s", c.used, got, c.reason)
		}
	}
	if err := Settle(charges, nil, func(Tracker) uint256.Int { return uint256.Int{} }); err != nil {
		t.Errorf("Settle denies what there is room for: %v", err)
	}
}

func TestDenialWithoutTheChainsWords(t *testing.T) {
	for _, c := range []struct {
		denial Denial
		want   string
	}{
		{Denial{Reason: "locked", Detail: "the agent is locked"}, "the agent is locked"},
		{Denial{Reason: "locked"}, "locked"},
		{Denial{Reason: "r", Revert: "empty", Detail: "too short"}, "Reverted without a reason: too short"},
		{Denial{Reason: "r", Revert: "Can not target self"}, "Can not target self"},
	} {
		if got := c.denial.Error(); got != c.want {
			t.Errorf("Error() = %q, want %q", got, c.want)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	spec, tx := sampleSpec(), sampleCall()
	ids := spec.PeriodIDs(tx, sampleNow)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := spec.Check(tx, ids, sampleNow); err != nil {
			b.Fatal(err)
		}
	}
}
