package session

import (
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// Usage is one limit of a session and what is left of it now.
type Usage struct {
	Tracker   policy.Tracker
	Limit     policy.Decimal
	Used      policy.Decimal // what the chain has counted and what may still land; offline, all that was signed for
	Remaining policy.Decimal
	Chain     *policy.Decimal // what the chain had counted when it was last read; nil: not known of this period
	RunsOut   time.Time       // when nothing will remain, if it is used on as lately; zero: not before it ends
}

// Usage returns each limit of the session with what is left of it now.
func (s *Sessions) Usage(id ID) ([]Usage, error) {
	sess, err := s.Get(id)
	if err != nil {
		return nil, err
	}
	now := s.cfg.Now()
	all, err := s.ledger.usage(id, limits(sess.Spec, now))
	for i := range all {
		all[i].RunsOut = s.forecastFor(sess, &all[i], periodOf(sess.Spec, all[i].Tracker), now)
	}
	return all, err
}

// usage fills in what limits have counted.
func (l *Ledger) usage(id ID, limits []Usage) ([]Usage, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var all []Usage
	b := l.books[id]
	for _, lim := range limits {
		used, err := l.totalLocked(b, lim.Tracker)
		if err != nil {
			return nil, err
		}
		limit := uint256.Int(lim.Limit)
		remaining := new(uint256.Int)
		if used.Cmp(&limit) < 0 {
			remaining.Sub(&limit, &used)
		}
		lim.Used, lim.Remaining = policy.Decimal(used), policy.Decimal(*remaining)
		if b.chain != nil {
			if counted, ok := b.chain.Used[lim.Tracker]; ok {
				lim.Chain = &counted
			}
		}
		all = append(all, lim)
	}
	return all, nil
}

// limits lists the limits of spec, each once, with the trackers that count at now.
func limits(spec *policy.Spec, now time.Time) []Usage {
	var all []Usage
	seen := map[policy.Tracker]bool{}
	add := func(u *policy.UsageLimit, t policy.Tracker) {
		if u.LimitType == policy.Unlimited {
			return
		}
		if u.LimitType == policy.Allowance {
			t.Allowance, t.PeriodID = true, periodID(u, now)
		}
		if !seen[t] { // a second policy for the same target and selector never decides
			seen[t] = true
			all = append(all, Usage{Tracker: t, Limit: policy.Decimal(u.Limit)})
		}
	}
	add(&spec.FeeLimit, policy.Tracker{Kind: policy.FeeTracker})
	for i := range spec.CallPolicies {
		p := &spec.CallPolicies[i]
		add(&p.ValueLimit, policy.Tracker{Kind: policy.CallValueTracker, Target: p.Target, Selector: p.Selector})
		for j := range p.Constraints {
			add(&p.Constraints[j].Limit, policy.Tracker{Kind: policy.CallParamTracker, Target: p.Target, Selector: p.Selector,
				Position: uint32(j)})
		}
	}
	for i := range spec.TransferPolicies {
		p := &spec.TransferPolicies[i]
		add(&p.ValueLimit, policy.Tracker{Kind: policy.TransferValueTracker, Target: p.Target})
	}
	return all
}

// periodOf is the period of the limit that t counts for; nil if it has none.
func periodOf(spec *policy.Spec, t policy.Tracker) *uint256.Int {
	if !t.Allowance {
		return nil
	}
	switch t.Kind {
	case policy.FeeTracker:
		return &spec.FeeLimit.Period
	case policy.TransferValueTracker:
		for i := range spec.TransferPolicies {
			if p := &spec.TransferPolicies[i]; p.Target == t.Target {
				return &p.ValueLimit.Period
			}
		}
	}
	for i := range spec.CallPolicies {
		switch p := &spec.CallPolicies[i]; {
		case p.Target != t.Target || p.Selector != t.Selector:
		case t.Kind == policy.CallValueTracker:
			return &p.ValueLimit.Period
		case int(t.Position) < len(p.Constraints):
			return &p.Constraints[t.Position].Limit.Period
		}
	}
	return nil
}

// periodID is now / period, as the SDK computes it; 0 for a period of 0, which never allows anything.
func periodID(u *policy.UsageLimit, now time.Time) uint64 {
	if u.Period.IsZero() || now.Unix() < 0 {
		return 0
	}
	return new(uint256.Int).Div(uint256.NewInt(uint64(now.Unix())), &u.Period).Uint64()
}
