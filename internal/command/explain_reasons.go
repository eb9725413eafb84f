package command

import (
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// reasons says of each reason of a denial which rule it is, and what would make the request pass.
var reasons = map[string]struct{ rule, pass string }{
	policy.ReasonInvalidSigner:     {"the session's spec has no signer", "Make another session"},
	policy.ReasonUnlimitedFeeLimit: {"a session's fee limit must not be unlimited", "Make the session with a fee limit"},
	policy.ReasonUnknownEnum: {"the spec has a limit type or condition that the contract does not know",
		"Make another session"},
	policy.ReasonSessionNotActive: {"the session is not active",
		"A pending session signs once its owner has approved it (keyward session activate ID); an ended one never signs " +
			"again: keyward session create"},
	policy.ReasonSessionExpired: {"the session has expired, or is within the margin before it",
		"Make a successor: keyward session renew ID"},
	policy.ReasonApprovalPaymaster: {"the paymaster's input selects the approval-based flow, which no session allows",
		"Use the general flow, or no paymaster"},
	policy.ReasonTargetSelf: {"a session must not call its own account",
		"Nothing: the account's owner has to send it"},
	policy.ReasonTargetValidator: {"a session must not call the session module",
		"Nothing: the account's owner has to send it"},
	policy.ReasonCallNotAllowed: {"no call policy has this contract and function",
		"It passes with a session whose spec has a call policy for this contract and this selector: keyward session create"},
	policy.ReasonTransferNotAllowed: {"no transfer policy has this recipient",
		"It passes with a session whose spec has a transfer policy for this recipient: keyward session create"},
	policy.ReasonValueTooHigh: {"the value is more than the policy's maxValuePerUse",
		"A smaller value passes, or a session with a higher maxValuePerUse"},
	policy.ReasonCalldataTooShort: {"the calldata ends before a word that a constraint looks at",
		"Send all arguments of the function"},
	policy.ReasonConstraintNotMet: {"an argument does not meet a constraint",
		"An argument that meets the constraint passes, or a session with another constraint"},
	policy.ReasonTooFewPeriodIDs:  {"the list of period ids is too short", "Let the agent choose them"},
	policy.ReasonPeriodOutOfRange: {"the period id is not that of now", "Let the agent choose it, and check its clock"},
	policy.ReasonOverflow:         {"an amount overflows the contract's arithmetic", "A smaller amount passes"},
	policy.ReasonLifetimeExceeded: {"a limit of the session's lifetime is used up",
		"A smaller amount passes; for more, the owner has to approve another session: keyward session renew ID, or create"},
	policy.ReasonAllowanceExceeded: {"a limit of this period is used up",
		"A smaller amount passes; for more, wait for the next period"},
	session.ReasonBlocked: {"the policy registry does not allow one of the session's policies any more",
		"It passes when the registry allows the policy again: docs.abs.xyz says how to ask"},
	session.ReasonMessage: {"a session key signs messages only where a guard rule allows them",
		"For an eoa session, a guard rule with then = \"allow\" (docs/rules.md). For an agw session nothing: the chain's " +
			"validator refuses messages of session keys too"},
	session.ReasonType: {"no session signs a transaction of this type",
		"Send another type: 0x71 for an agw session, 0, 1 or 2 for an eoa session"},
	session.ReasonGuardRule: {"a guard rule of the operator forbids it",
		"Another request passes, or a change of the rules in config.toml; of a counter, the next window"},
	"wrongChain":   {"the session is for another chain", "Use a session for that chain"},
	"wrongAccount": {"the session is for another account", "Give the session's account as from"},
	"wrongType": {"the session's kind does not sign this type",
		"Send type 0x71 with an agw session, and 0, 1 or 2 with an eoa session"},
	"unknownSigner": {"there is no such session, or this client may not use it",
		"The operator lets a client use a session: keyward session set-clients ID --client …"},
}

// reasonText says which rule a reason is.
func reasonText(reason string) string {
	if r, ok := reasons[reason]; ok {
		return r.rule
	}
	return reason
}

// advice says what would make a request pass that was refused for the reason; "": not known.
func advice(reason string) string { return reasons[reason].pass }
