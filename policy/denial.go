package policy

import "github.com/holiman/uint256"

// Denial is a refusal by the policy: the chain would refuse the transaction too.
type Denial struct {
	// Reason is a stable word for programs, e.g. "callNotAllowed", "lifetimeLimitExceeded".
	Reason string
	// Revert is the contract's own text as the vectors have it: a revert string,
	// "Panic(0x11)", "TimestampOutOfRange", or "empty". "" if the rule is not the contract's.
	Revert string
	// Detail says for a person what was compared, with what.
	Detail string

	Policy     int      // index in callPolicies or transferPolicies; -1: none
	Constraint int      // index in the policy's constraints; -1: none
	Tracker    *Tracker // the counter whose limit is used up; nil otherwise
	// Of a used-up limit; nil otherwise.
	Limit, Used, Asked, Remaining *uint256.Int
}

// Error gives the contract's words and the detail.
func (d *Denial) Error() string { panic("to be written") }
