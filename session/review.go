package session

import (
	"context"
	"fmt"
	"strings"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// ReasonProductionRules is the reason of a denial by Abstract's production rules; it is part of the protocol.
const ReasonProductionRules = "productionRules"

// Review is what the operator has to know of a spec before its session exists.
type Review struct {
	Warnings []policy.Warning // never nil
	Risk     *policy.Risk
}

// CreateSession reviews req and makes the session. On [policy.ProductionChain] an agw session that breaks a production
// rule, or whose registry can't be asked, is refused: a *policy.Denial with [ReasonProductionRules], an
// error of package chain, or [ErrInvalid] where nobody is there to be asked and req.Unchecked does not
// say that this is fine. Other errors are those of [Sessions.Create].
func (s *Signer) CreateSession(ctx context.Context, by audit.Peer, req *CreateRequest) (*Session, *Review, error) {
	// A request that could never be used does not ask the registry.
	if err := s.Sessions.checkCreate(req); err != nil {
		return nil, nil, err
	}
	review, err := s.review(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	sess, err := s.Sessions.Create(ctx, by, req)
	return sess, review, err
}

// review holds req to the rules of its chain. No key is made yet, so nothing is left behind.
func (s *Signer) review(ctx context.Context, req *CreateRequest) (*Review, error) {
	cfg := &s.Sessions.cfg
	now := uint64(max(0, cfg.Now().Unix()))
	eoa := req.Kind == EOA
	warnings := req.Spec.Warnings(policy.WarningRules{
		Now: now, Margin: uint64(cfg.ExpiryMargin.Seconds()), MaxLifetime: uint64(cfg.MaxLifetime.Seconds()),
		Account: req.Account, Validator: req.Validator, EOA: eoa,
	})
	review := &Review{Warnings: warnings, Risk: req.Spec.Risk(now)}
	if eoa { // the rules are for keys that a smart account approves
		return review, nil
	}
	if req.ChainID != policy.ProductionChain {
		review.Warnings = append(policy.ViolationWarnings(req.Spec.UnfixedDestinations()), review.Warnings...)
		return review, nil
	}
	violations := req.Spec.UnfixedDestinations()
	if len(violations) == 0 && !req.Unchecked {
		var err error
		if violations, err = s.Watcher.production(ctx, req.ChainID, req.Spec); err != nil {
			return nil, err
		}
	}
	if len(violations) > 0 {
		return nil, productionDenial(violations)
	}
	return review, nil
}

// production asks the chain's policy registry about spec, now and not from memory.
func (w *Watcher) production(ctx context.Context, chainID uint64, spec *policy.Spec) ([]policy.Violation, error) {
	queries := spec.RegistryQueries()
	if len(queries) == 0 {
		return nil, nil
	}
	if w == nil || w.chains[chainID] == nil || !w.chains[chainID].Registry {
		return nil, fmt.Errorf("%w: the policy registry of chain %d has to be asked about %d policies, and the "+
			"configuration has no rpc or no registry for it: "+
			"add them, or say that the session is to be made unchecked (--unchecked)", ErrInvalid, chainID, len(queries))
	}
	statuses, err := w.chains[chainID].Client.RegistryStatuses(ctx, queries)
	if err != nil {
		return nil, fmt.Errorf("asking the policy registry, without which no session is made: %w", err)
	}
	answers := make(policy.Registry, len(queries))
	for i, q := range queries {
		answers[q] = statuses[i]
	}
	return spec.CheckProduction(answers.Status), nil
}

// productionDenial gives the SDK's words for each rule that is broken.
func productionDenial(violations []policy.Violation) *policy.Denial {
	words := make([]string, len(violations))
	for i, v := range violations {
		words[i] = v.Path + ": " + v.Message
	}
	return &policy.Denial{Reason: ReasonProductionRules, Policy: -1, Constraint: -1, Detail: strings.Join(words, "; ")}
}
