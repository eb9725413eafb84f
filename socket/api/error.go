package api

import (
	"encoding/json"
	"fmt"

	"github.com/keyward/keyward/policy"
)

// Error is the error of a JSON-RPC answer.
type Error struct {
	Code    int             `json:"code"`
	Message string          `json:"message"`
	Data    json.RawMessage `json:"data,omitempty"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s (code %d)", e.Message, e.Code) }

// Details reads Data; what is not there is zero.
func (e *Error) Details() ErrorData {
	var data ErrorData
	if len(e.Data) == 0 || json.Unmarshal(e.Data, &data) != nil {
		return ErrorData{}
	}
	return data
}

// Denial returns what was compared, if the error says that the policy, a limit or
// the session's state refused; nil otherwise.
func (e *Error) Denial() *Denial {
	if e.Code != CodeDenied {
		return nil
	}
	denial := new(Denial)
	if json.Unmarshal(e.Data, denial) != nil {
		return nil
	}
	return denial
}

// ErrorData is Error.Data of everything but denials.
type ErrorData struct {
	Reason    string `json:"reason"`              // a stable word, e.g. "locked"
	Retryable bool   `json:"retryable,omitempty"` // the same request may succeed later
	Hint      string `json:"hint,omitempty"`      // what the operator has to do
	Path      string `json:"path,omitempty"`      // which field of the parameters is wrong
	Detail    string `json:"detail,omitempty"`    // of notIncludable: the rule, a colon, and what was compared
}

// Denial is Error.Data of a denial: [policy.Denial] as JSON. What does not apply is absent.
type Denial struct {
	Reason     string          `json:"reason"` // a stable word, e.g. "lifetimeLimitExceeded"
	Revert     string          `json:"revert,omitempty"`
	Detail     string          `json:"detail,omitempty"`
	Policy     *int            `json:"policy,omitempty"`     // index in callPolicies or transferPolicies
	Constraint *int            `json:"constraint,omitempty"` // index in the policy's constraints
	Tracker    *policy.Tracker `json:"tracker,omitempty"`    // whose limit is used up
	Limit      *policy.Decimal `json:"limit,omitempty"`
	Used       *policy.Decimal `json:"used,omitempty"`
	Asked      *policy.Decimal `json:"asked,omitempty"`
	Remaining  *policy.Decimal `json:"remaining,omitempty"`
}
