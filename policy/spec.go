// Package policy holds a session's spec and decides, as Abstract's
// SessionKeyValidator would, whether a transaction is within it.
//
// It is pure: no I/O, no clock, no state. The time and what has been used so
// far are arguments. The verdicts agree with the contract's, reason for
// reason; testdata holds what the contract itself decided.
//
// The strict JSON reader lives here, too, because a spec is JSON: see [ParseJSON]. The other packages that parse a
// client's JSON import it from here.
package policy

import "github.com/holiman/uint256"

// Address is a 20-byte account or contract address.
type Address [20]byte

// Hash is 32 bytes: a session hash or an EIP-712 digest.
type Hash [32]byte

// Selector is the first four bytes of calldata.
type Selector [4]byte

// LimitType says how a [UsageLimit] counts (SessionLib.LimitType).
type LimitType uint8

const (
	Unlimited LimitType = iota // nothing is counted
	Lifetime                   // used + x <= limit, for ever
	Allowance                  // the same in each period
)

// Condition compares a calldata word with a constraint's refValue, both as
// unsigned integers (SessionLib.Condition).
type Condition uint8

const (
	Unconstrained Condition = iota
	Equal
	Greater
	Less
	GreaterOrEqual
	LessOrEqual
	NotEqual
)

// UsageLimit bounds the sum of what is counted against it (SessionLib.UsageLimit).
type UsageLimit struct {
	LimitType LimitType
	Limit     uint256.Int // in the unit of what is counted: wei, or the calldata word as it is
	Period    uint256.Int // seconds; only an Allowance looks at it
}

// Constraint holds one 32-byte calldata word to a condition and a limit
// (SessionLib.Constraint).
type Constraint struct {
	Condition Condition
	Index     uint64 // the word starts at byte 4 + 32*Index
	RefValue  Hash
	Limit     UsageLimit
}

// CallSpec allows calls of one function of one contract (SessionLib.CallSpec).
type CallSpec struct {
	Target         Address
	Selector       Selector
	MaxValuePerUse uint256.Int // wei
	ValueLimit     UsageLimit  // wei
	Constraints    []Constraint
}

// TransferSpec allows plain value transfers to one address (SessionLib.TransferSpec).
type TransferSpec struct {
	Target         Address
	MaxValuePerUse uint256.Int // wei
	ValueLimit     UsageLimit  // wei
}

// Spec is what a session may do (SessionLib.SessionSpec; SDK: SessionConfig).
type Spec struct {
	Signer           Address
	ExpiresAt        uint256.Int // Unix seconds, inclusive
	FeeLimit         UsageLimit  // wei; counts maxFeePerGas * gasLimit
	CallPolicies     []CallSpec
	TransferPolicies []TransferSpec
}

// Decimal is a uint256 whose JSON form is a decimal string, as the SDK's users write bigints.
type Decimal uint256.Int
