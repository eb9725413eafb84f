package session

import (
	"errors"
	"strings"
	"testing"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// approveAnybody is a spec that mainnet's rules refuse: it may approve any spender.
func (a *agent) approveAnybody() *policy.Spec {
	spec := *a.testSpec()
	spec.CallPolicies = []policy.CallSpec{{Target: policy.Address{1}, Selector: policy.Selector{0x09, 0x5e, 0xa7, 0xb3}}}
	return &spec
}

// TestReviewOffline: where no registry can be asked, a session of Abstract's mainnet needs the operator's word,
// and rules that need no registry hold all the same.
func TestReviewOffline(t *testing.T) {
	const unconstrained = "callPolicies[0]: Unconstrained token approval/transfer destination in call policy."
	a := newAgent(t)
	for _, tt := range []struct {
		name      string
		change    func(*CreateRequest)
		wantErr   string // "": made
		invalid   bool   // ErrInvalid; else a denial
		unchecked bool   // what the session remembers
	}{
		{"mainnet", func(*CreateRequest) {}, "the policy registry of chain 2741 has to be asked", true, false},
		{"mainnet, unchecked", func(r *CreateRequest) { r.Unchecked = true }, "", false, true},
		{"mainnet, any spender", func(r *CreateRequest) { r.Spec = a.approveAnybody() }, unconstrained, false, false},
		{"mainnet, any spender, unchecked", func(r *CreateRequest) { r.Spec, r.Unchecked = a.approveAnybody(), true },
			unconstrained, false, false},
		{"testnet, any spender", func(r *CreateRequest) { r.Spec, r.ChainID = a.approveAnybody(), 11124 }, "", false, false},
		{"mainnet, eoa, any spender", func(r *CreateRequest) {
			*r = CreateRequest{Kind: EOA, Spec: a.approveAnybody(), ChainID: 2741, Clients: r.Clients}
		}, "", false, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := a.createRequest()
			req.ChainID = policy.ProductionChain
			tt.change(req)
			before := len(a.List())
			sess, review, err := a.CreateSession(t.Context(), operator, req)
			if tt.wantErr == "" {
				if err != nil || sess.Unchecked != tt.unchecked || review.Risk == nil || review.Warnings == nil {
					t.Fatalf("CreateSession = %+v, %+v, %v", sess, review, err)
				}
				return
			}
			var denial *policy.Denial
			if err == nil || !strings.Contains(err.Error(), tt.wantErr) || errors.Is(err, ErrInvalid) != tt.invalid ||
				errors.As(err, &denial) == tt.invalid {
				t.Errorf("CreateSession: %v, want %q", err, tt.wantErr)
			}
			if denial != nil && denial.Reason != ReasonProductionRules {
				t.Errorf("reason %q, want %q", denial.Reason, ReasonProductionRules)
			}
			if len(a.List()) != before {
				t.Error("a session was made")
			}
		})
	}
	if intents := a.intents(); len(intents) != 0 {
		t.Errorf("intents %v: a refused request left a key behind", intents)
	}
}

// TestReviewWarns: what mainnet would refuse, a testnet warns of; so does a lifetime beyond the operator's.
func TestReviewWarns(t *testing.T) {
	a := newAgent(t)
	a.Sessions.cfg.MaxLifetime = 3600e9
	req := a.createRequest()
	req.ChainID, req.Spec = 11124, a.approveAnybody()
	req.Spec.ExpiresAt = *uint256.NewInt(uint64(a.clock().Unix()) + 3601)
	_, review, err := a.CreateSession(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[string]bool{}
	for _, w := range review.Warnings {
		codes[w.Code] = true
	}
	for _, want := range []string{policy.WarnProduction, policy.WarnExpiryTooFar} {
		if !codes[want] {
			t.Errorf("warnings %+v, want %s among them", review.Warnings, want)
		}
	}
}
