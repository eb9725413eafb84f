package policy

import "fmt"

// Validate refuses what createSession refuses, with the contract's own words.
// The error is a *[Denial].
func (s *Spec) Validate() error {
	if where := s.unknownEnum(); where != "" {
		return deny(ReasonUnknownEnum, revertEmpty, "%s is not one that the contract knows", where)
	}
	if s.Signer.IsZero() {
		return deny(ReasonInvalidSigner, "Invalid signer", "the session has no signer")
	}
	if s.FeeLimit.LimitType == Unlimited {
		return deny(ReasonUnlimitedFeeLimit, "Unlimited fee allowance is not safe",
			"feeLimit must be a lifetime limit or an allowance")
	}
	return nil
}

// unknownEnum returns where s has an enum that the contract's ABI decoder refuses, "" if nowhere.
func (s *Spec) unknownEnum() string {
	if s.FeeLimit.LimitType > Allowance {
		return "feeLimit.limitType"
	}
	for i := range s.CallPolicies {
		p := &s.CallPolicies[i]
		if p.ValueLimit.LimitType > Allowance {
			return fmt.Sprintf("callPolicies[%d].valueLimit.limitType", i)
		}
		for j := range p.Constraints {
			if p.Constraints[j].Condition > NotEqual {
				return fmt.Sprintf("callPolicies[%d].constraints[%d].condition", i, j)
			}
			if p.Constraints[j].Limit.LimitType > Allowance {
				return fmt.Sprintf("callPolicies[%d].constraints[%d].limit.limitType", i, j)
			}
		}
	}
	for i := range s.TransferPolicies {
		if s.TransferPolicies[i].ValueLimit.LimitType > Allowance {
			return fmt.Sprintf("transferPolicies[%d].valueLimit.limitType", i)
		}
	}
	return ""
}
