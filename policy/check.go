package policy

import "github.com/holiman/uint256"

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

// TrackerKind says what a [Tracker] counts.
type TrackerKind uint8

const (
	FeeTracker           TrackerKind = iota // fees of the session
	CallValueTracker                        // value sent, per target and selector
	TransferValueTracker                    // value sent, per target
	CallParamTracker                        // a calldata word, per target, selector and constraint position
)

// Tracker names one counter of a session (SessionLib.UsageTracker). It is
// comparable and has a stable text form, e.g. "fee", "callValue:0xTARGET:0xSELECTOR",
// "transferValue:0xTARGET@PERIODID", "callParam:0xTARGET:0xSELECTOR:2@PERIODID".
type Tracker struct {
	Kind     TrackerKind
	Target   Address
	Selector Selector
	Position uint32 // of the constraint in its list
	// Allowance trackers count per period, lifetime trackers do not.
	Allowance bool
	PeriodID  uint64
}

// Charge is one amount that a transaction counts against one tracker.
type Charge struct {
	Tracker Tracker `json:"tracker"`
	Limit   Decimal `json:"limit"`
	Amount  Decimal `json:"amount"`
}

// Check judges tx by s as the contract does at block time now (Unix seconds)
// with the period ids that the sender passes. The error is always a *[Denial].
//
// The charges come in the contract's order. They also come with a denial: the
// chain counts those before it reaches the check that denies, so a limit among
// them that is used up is the refusal it gives first. [Settle] puts the two together.
//
// Check does not know whether the session is active; its caller does.
func (s *Spec) Check(tx *Call, ids []uint64, now uint64) ([]Charge, error) {
	panic("to be written")
}

// Apply returns used plus the charge, or a *[Denial] where that is more than the limit
// or overflows.
func (c Charge) Apply(used uint256.Int) (uint256.Int, error) {
	panic("to be written")
}

// Settle returns the chain's own first refusal: that of the first charge which
// used does not leave room for, else denied, else nil. used gives what each tracker
// has counted so far and must not change meanwhile.
func Settle(charges []Charge, denied error, used func(Tracker) uint256.Int) error {
	panic("to be written")
}

// PeriodIDs returns the ids that the SDK sends with tx at now: the fee limit's, the value
// limit's, then one for each constraint of the call policy that decides; 0 where
// the limit is no Allowance. Nil if no policy matches.
func (s *Spec) PeriodIDs(tx *Call, now uint64) []uint64 {
	panic("to be written")
}
