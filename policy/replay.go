package policy

import "github.com/holiman/uint256"

// StepResult is the verdict on one step of a [Case].
type StepResult struct {
	Case        string `json:"case"`
	Step        int    `json:"step"` // from 0
	Allow       bool   `json:"allow"`
	Reason      string `json:"reason"` // what the chain reverts with, "" if it allows
	SessionHash Hash   `json:"sessionHash"`

	Denial    *Denial  `json:"-"` // nil if allowed
	Charges   []Charge `json:"-"` // what was counted; nil if denied
	PeriodIDs []uint64 `json:"-"` // the step's, or those that were computed
}

// Run gives the chain's verdict on every step. Usage carries over from step to step; a
// refused step changes nothing. validator is the session module.
func (c *Case) Run(validator Address) []StepResult {
	r := replay{
		spec:    &c.Session,
		account: c.Account,
		active:  c.Created && c.Session.Validate() == nil,
		used:    make(map[Tracker]uint256.Int),
	}
	hash := c.Session.Hash()
	results := make([]StepResult, len(c.Steps))
	for i := range c.Steps {
		results[i] = r.step(&c.Steps[i], validator)
		results[i].Case, results[i].Step, results[i].SessionHash = c.Name, i, hash
	}
	return results
}

// replay is the chain's state of one session.
type replay struct {
	spec    *Spec
	account Address
	active  bool
	used    map[Tracker]uint256.Int
}

func (r *replay) step(s *Step, validator Address) StepResult {
	if s.Revoke {
		r.active = false
	}
	call := s.Tx.Call(validator)
	ids := s.PeriodIDs
	if ids == nil {
		ids = r.spec.PeriodIDs(call, s.Now)
	}
	charges, denial := r.judge(call, ids, s.Now)
	if denial != nil {
		return StepResult{Reason: denial.Revert, Denial: denial, PeriodIDs: ids}
	}
	return StepResult{Allow: true, Charges: charges, PeriodIDs: ids}
}

// judge decides one transaction and counts it if it is allowed.
func (r *replay) judge(call *Call, ids []uint64, now uint64) ([]Charge, *Denial) {
	if denial := r.spec.unusable(); denial != nil {
		return nil, denial
	}
	// The status is kept by account, and only this one has opened the session.
	if !r.active || call.Account != r.account {
		return nil, SessionNotActive("not created, revoked, or another account's")
	}
	charges, denied := r.spec.Check(call, ids, now)
	usage := func(t Tracker) uint256.Int { return r.used[t] }
	if err := Settle(charges, denied, usage); err != nil {
		return nil, err.(*Denial) // as Check and Settle document
	}
	for _, charge := range charges {
		// Settle found room for it.
		r.used[charge.Tracker], _ = charge.Apply(r.used[charge.Tracker])
	}
	return charges, nil
}

// Call is what the policy looks at.
func (tx *StepTx) Call(validator Address) *Call {
	return &Call{
		Account:        tx.From,
		Validator:      validator,
		To:             tx.To,
		Value:          tx.Value,
		Data:           tx.Data,
		GasLimit:       tx.GasLimit,
		MaxFeePerGas:   tx.MaxFeePerGas,
		Paymaster:      tx.Paymaster,
		PaymasterInput: tx.PaymasterInput,
	}
}
