package policy

import (
	"encoding/json"
	"fmt"

	"github.com/holiman/uint256"
)

// Reasons of a [Denial], one for each rule. They are part of the protocol: programs
// match them, so they never change.
const (
	ReasonInvalidSigner      = "invalidSigner"          // the spec has no signer
	ReasonUnlimitedFeeLimit  = "unlimitedFeeLimit"      // createSession: the fee limit is Unlimited
	ReasonUnknownEnum        = "unknownEnum"            // a limitType or condition that the contract cannot decode
	ReasonSessionNotActive   = "sessionNotActive"       // never created, closed, or another account's
	ReasonSessionExpired     = "sessionExpired"         // now is after expiresAt
	ReasonApprovalPaymaster  = "approvalBasedPaymaster" // paymasterInput selects the approval-based flow
	ReasonTargetSelf         = "targetSelf"             // a call to the account itself
	ReasonTargetValidator    = "targetValidator"        // a call to the session module
	ReasonCallNotAllowed     = "callNotAllowed"         // no call policy has this target and selector
	ReasonTransferNotAllowed = "transferNotAllowed"     // no transfer policy has this target
	ReasonValueTooHigh       = "valueTooHigh"           // more than maxValuePerUse
	ReasonCalldataTooShort   = "calldataTooShort"       // a constraint's word is not there
	ReasonConstraintNotMet   = "constraintNotMet"       // the word fails the constraint's condition
	ReasonTooFewPeriodIDs    = "tooFewPeriodIds"        // the list has no id for this limit
	ReasonPeriodOutOfRange   = "periodOutOfRange"       // now is not in the period that the id names
	ReasonOverflow           = "overflow"               // checked arithmetic of the contract
	ReasonLifetimeExceeded   = "lifetimeLimitExceeded"
	ReasonAllowanceExceeded  = "allowanceLimitExceeded"
)

// What the contract reverts with, as testdata has it.
const (
	revertOverflow  = "Panic(0x11)"
	revertBounds    = "Panic(0x32)"
	revertTimestamp = "TimestampOutOfRange"
	revertEmpty     = "empty" // a revert without data
)

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

// deny makes a denial that concerns no policy.
func deny(reason, revert, format string, args ...any) *Denial {
	return &Denial{
		Reason:     reason,
		Revert:     revert,
		Detail:     fmt.Sprintf(format, args...),
		Policy:     -1,
		Constraint: -1,
	}
}

// SessionNotActive is the denial of every transaction of a session that the chain
// does not hold for open. detail says why that is.
func SessionNotActive(detail string) *Denial {
	return deny(ReasonSessionNotActive, "Session is not active", "%s", detail)
}

// Error gives the contract's words, if the rule is the contract's, and the detail.
func (d *Denial) Error() string {
	words := d.Revert
	if words == revertEmpty {
		words = "Reverted without a reason"
	}
	switch {
	case words == "" && d.Detail == "":
		return d.Reason
	case words == "":
		return d.Detail
	case d.Detail == "":
		return words
	}
	return words + ": " + d.Detail
}

// MarshalJSON gives the data of an error reply. What does not apply is absent;
// amounts are decimal strings. The value receiver keeps a Denial's shape the same
// whether or not it is behind a pointer.
func (d Denial) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Reason     string   `json:"reason"`
		Revert     string   `json:"revert,omitempty"`
		Detail     string   `json:"detail,omitempty"`
		Policy     *int     `json:"policy,omitempty"`
		Constraint *int     `json:"constraint,omitempty"`
		Tracker    *Tracker `json:"tracker,omitempty"`
		Limit      *Decimal `json:"limit,omitempty"`
		Used       *Decimal `json:"used,omitempty"`
		Asked      *Decimal `json:"asked,omitempty"`
		Remaining  *Decimal `json:"remaining,omitempty"`
	}{
		d.Reason, d.Revert, d.Detail, given(d.Policy), given(d.Constraint), d.Tracker,
		(*Decimal)(d.Limit), (*Decimal)(d.Used), (*Decimal)(d.Asked), (*Decimal)(d.Remaining),
	})
}

// given returns nil for an index that stands for none.
func given(index int) *int {
	if index < 0 {
		return nil
	}
	return &index
}
