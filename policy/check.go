package policy

import (
	"math"

	"github.com/holiman/uint256"
)

// approvalBased is the selector of IPaymasterFlow.approvalBased(address,uint256,bytes).
const approvalBased = "\x94\x94\x31\xdc"

// Call is what the chain looks at in a transaction.
type Call struct {
	Account        Address // the smart account the transaction is from; of an eoa session, the signer
	Validator      Address // the session module, which no session may call; zero: there is none
	To             Address
	Value          uint256.Int // wei
	Data           []byte
	GasLimit       uint256.Int
	MaxFeePerGas   uint256.Int // wei
	Paymaster      Address     // zero: the account pays
	PaymasterInput []byte
}

// IsCall reports whether the contract takes tx for a call. Up to three bytes of
// calldata are no selector, and make a transfer.
func (tx *Call) IsCall() bool { return len(tx.Data) >= len(Selector{}) }

// selector is that of a call.
func (tx *Call) selector() Selector { return Selector(tx.Data[:4]) }

// Check judges tx by s as the contract does at block time now (Unix seconds)
// with the period ids that the sender passes. The error is always a *[Denial].
//
// The charges come in the contract's order, no tracker twice. They also come with a denial: the
// chain counts those before it reaches the check that denies, so a limit among
// them that is used up is the refusal it gives first. [Settle] puts the two together.
//
// Check does not know whether the session is active; its caller does.
func (s *Spec) Check(tx *Call, ids []uint64, now uint64) ([]Charge, error) {
	c := check{tx: tx, ids: ids, now: now}
	if denial := c.run(s); denial != nil {
		return c.charges, denial
	}
	return c.charges, nil
}

// check is one run of [Spec.Check]: its arguments, and the charges so far.
type check struct {
	tx      *Call
	ids     []uint64
	now     uint64
	charges []Charge
}

// run takes the steps in the order of SessionKeyValidator.validateTransaction and
// SessionLib.validate, so that the first refusal is theirs.
func (c *check) run(s *Spec) *Denial {
	if denial := s.unusable(); denial != nil {
		return denial
	}
	if s.ExpiresAt.LtUint64(c.now) {
		return deny(ReasonSessionExpired, revertTimestamp,
			"the session ended at %s, now is %s", unixTime(&s.ExpiresAt), unixTime(uint256.NewInt(c.now)))
	}
	// Whether there is a paymaster does not matter here.
	if in := c.tx.PaymasterInput; len(in) >= 4 && string(in[:4]) == approvalBased {
		return deny(ReasonApprovalPaymaster, "Approval based paymaster flow not allowed",
			"paymasterInput starts with %#x", approvalBased)
	}
	if denial := c.policies(s); denial != nil {
		return denial
	}
	return c.fee(s)
}

// unusable refuses a spec with which no transaction passes, whatever the session's status.
func (s *Spec) unusable() *Denial {
	// The contract decodes the whole spec before it looks at any of it.
	if where := s.unknownEnum(); where != "" {
		return deny(ReasonUnknownEnum, revertEmpty, "%s is not one that the contract knows", where)
	}
	if s.Signer.IsZero() {
		return deny(ReasonInvalidSigner, "Invalid signer (empty)", "the session has no signer")
	}
	return nil
}

// policies finds the policy that decides, and holds tx to it.
func (c *check) policies(s *Spec) *Denial {
	if !c.tx.IsCall() {
		i := s.transferPolicy(c.tx.To)
		if i < 0 {
			return deny(ReasonTransferNotAllowed, "Transfer to this address is not allowed",
				"no transfer policy for %v", c.tx.To)
		}
		return inPolicy(i, c.transfer(&s.TransferPolicies[i]))
	}
	if c.tx.To == c.tx.Account {
		return deny(ReasonTargetSelf, "Can not target self", "%v is the account itself", c.tx.To)
	}
	if c.tx.To == c.tx.Validator && !c.tx.Validator.IsZero() {
		return deny(ReasonTargetValidator, "Can not manage session keys", "%v is the session module", c.tx.To)
	}
	i := s.callPolicy(c.tx.To, c.tx.selector())
	if i < 0 {
		return deny(ReasonCallNotAllowed, "Call to this contract is not allowed",
			"no call policy for %v on %v", c.tx.selector(), c.tx.To)
	}
	return inPolicy(i, c.call(&s.CallPolicies[i]))
}

// callPolicy returns the index of the policy that decides: the first that fits, even
// where a later one would allow more. -1: none.
func (s *Spec) callPolicy(target Address, selector Selector) int {
	for i := range s.CallPolicies {
		if s.CallPolicies[i].Target == target && s.CallPolicies[i].Selector == selector {
			return i
		}
	}
	return -1
}

// transferPolicy is [Spec.callPolicy] for transfers.
func (s *Spec) transferPolicy(target Address) int {
	for i := range s.TransferPolicies {
		if s.TransferPolicies[i].Target == target {
			return i
		}
	}
	return -1
}

// inPolicy says in denial, if there is one, which policy it comes from.
func inPolicy(index int, denial *Denial) *Denial {
	if denial != nil {
		denial.Policy = index
	}
	return denial
}

func (c *check) transfer(p *TransferSpec) *Denial {
	if denial := c.value(&p.MaxValuePerUse); denial != nil {
		return denial
	}
	return c.count(&p.ValueLimit, 1, Tracker{Kind: TransferValueTracker, Target: p.Target}, &c.tx.Value)
}

func (c *check) call(p *CallSpec) *Denial {
	if denial := c.value(&p.MaxValuePerUse); denial != nil {
		return denial
	}
	c.charges = make([]Charge, 0, 2+len(p.Constraints)) // value, constraints, fee
	value := Tracker{Kind: CallValueTracker, Target: p.Target, Selector: p.Selector}
	if denial := c.count(&p.ValueLimit, 1, value, &c.tx.Value); denial != nil {
		return denial
	}
	for i := range p.Constraints {
		param := Tracker{Kind: CallParamTracker, Target: p.Target, Selector: p.Selector, Position: uint32(i)}
		if denial := c.constraint(&p.Constraints[i], 2+i, param); denial != nil {
			denial.Constraint = i
			return denial
		}
	}
	return nil
}

func (c *check) value(most *uint256.Int) *Denial {
	if c.tx.Value.Gt(most) {
		return deny(ReasonValueTooHigh, "Value exceeds limit",
			"value %s, maxValuePerUse %s", c.tx.Value.Dec(), most.Dec())
	}
	return nil
}

// fee counts what the transaction may cost at most. A paymaster's fee is not even computed.
func (c *check) fee(s *Spec) *Denial {
	if !c.tx.Paymaster.IsZero() {
		return nil
	}
	fee, overflow := new(uint256.Int).MulOverflow(&c.tx.MaxFeePerGas, &c.tx.GasLimit)
	if overflow {
		return deny(ReasonOverflow, revertOverflow, "maxFeePerGas %s * gasLimit %s exceeds 256 bits",
			c.tx.MaxFeePerGas.Dec(), c.tx.GasLimit.Dec())
	}
	return c.count(&s.FeeLimit, 0, Tracker{Kind: FeeTracker}, fee)
}

// constraint holds one word of the calldata to k. The period id at idIndex is looked up
// first: the contract evaluates it before it calls what checks the word.
func (c *check) constraint(k *Constraint, idIndex int, tracker Tracker) *Denial {
	if denial := c.requireID(idIndex); denial != nil {
		return denial
	}
	got, denial := c.word(k.Index)
	if denial != nil {
		return denial
	}
	if !k.Condition.holds(&got, new(uint256.Int).SetBytes32(k.RefValue[:])) {
		return deny(ReasonConstraintNotMet, k.Condition.revert(),
			"word %d is %s, must be %s %v", k.Index, got.Hex(), k.Condition.words(), k.RefValue)
	}
	return c.count(&k.Limit, idIndex, tracker, &got)
}

// word returns the calldata's 32-byte word at index, behind the selector.
func (c *check) word(index uint64) (uint256.Int, *Denial) {
	// 4 + 32*index is checked uint64 arithmetic in the contract; what follows is not.
	if index > (math.MaxUint64-4)/word {
		return uint256.Int{}, deny(ReasonOverflow, revertOverflow, "4 + 32 * index %d exceeds 64 bits", index)
	}
	start, length := 4+word*index, uint64(len(c.tx.Data))
	if start > length || length-start < word {
		return uint256.Int{}, deny(ReasonCalldataTooShort, revertEmpty,
			"word %d starts at byte %d and the calldata has %d bytes", index, start, length)
	}
	return *new(uint256.Int).SetBytes32(c.tx.Data[start : start+word]), nil
}

// holds compares a word of the calldata with the refValue.
func (c Condition) holds(got, ref *uint256.Int) bool {
	switch c {
	case Unconstrained:
		return true
	case Equal:
		return got.Eq(ref)
	case Greater:
		return got.Gt(ref)
	case Less:
		return got.Lt(ref)
	case GreaterOrEqual:
		return !got.Lt(ref)
	case LessOrEqual:
		return !got.Gt(ref)
	case NotEqual:
		return !got.Eq(ref)
	}
	return false
}

// revert is the contract's text for a condition that is not met.
func (c Condition) revert() string {
	names := [...]string{
		Equal: "EQUAL", Greater: "GREATER", Less: "LESS",
		GreaterOrEqual: "GREATER_OR_EQUAL", LessOrEqual: "LESS_OR_EQUAL", NotEqual: "NOT_EQUAL",
	}
	return names[c] + " constraint not met"
}

// words is the condition between "must be" and the refValue.
func (c Condition) words() string {
	words := [...]string{
		Unconstrained: "any, compared with", Equal: "equal to", Greater: "greater than", Less: "less than",
		GreaterOrEqual: "at least", LessOrEqual: "at most", NotEqual: "other than",
	}
	return words[c]
}

// requireID refuses a list that has no period id at index.
func (c *check) requireID(index int) *Denial {
	if index < len(c.ids) {
		return nil
	}
	return deny(ReasonTooFewPeriodIDs, revertBounds,
		"the list has %d period ids and this limit's is at index %d", len(c.ids), index)
}

// count adds a charge of amount, unless the limit is Unlimited. The contract reads
// the period id even of a limit that has no period.
func (c *check) count(limit *UsageLimit, idIndex int, tracker Tracker, amount *uint256.Int) *Denial {
	if denial := c.requireID(idIndex); denial != nil {
		return denial
	}
	switch limit.LimitType {
	case Unlimited:
		return nil
	case Allowance:
		tracker.Allowance, tracker.PeriodID = true, c.ids[idIndex]
		if denial := inPeriod(tracker.PeriodID, &limit.Period, c.now); denial != nil {
			return denial
		}
	}
	c.charges = append(c.charges, Charge{tracker, Decimal(limit.Limit), Decimal(*amount)})
	return nil
}

// inPeriod is the contract's assertTimestampInRange(id*period, (id+1)*period): a
// boundary second is in both periods. Only id+1 is 64-bit arithmetic.
func inPeriod(id uint64, period *uint256.Int, now uint64) *Denial {
	start, overflowStart := new(uint256.Int).MulOverflow(uint256.NewInt(id), period)
	end, overflowEnd := new(uint256.Int).MulOverflow(uint256.NewInt(id+1), period)
	if overflowStart || overflowEnd || id == math.MaxUint64 {
		return deny(ReasonOverflow, revertOverflow,
			"the bounds of period %d of %s seconds cannot be computed", id, period.Dec())
	}
	if start.GtUint64(now) || end.LtUint64(now) {
		return deny(ReasonPeriodOutOfRange, revertTimestamp,
			"period %d of %s seconds runs from %s to %s, now is %s",
			id, period.Dec(), unixTime(start), unixTime(end), unixTime(uint256.NewInt(now)))
	}
	return nil
}
