package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// ErrNotLeader: another agent follows the chain now.
var ErrNotLeader = errors.New("another agent follows the chain")

// leaderAge is after how long without a beat, by its own monotonic clock, a follower takes over.
const leaderAge = 5 * time.Second

// Lease is who follows the chain: an agent, in a term.
type Lease struct {
	Agent string `json:"agent"`
	Term  uint64 `json:"term"`
	Beat  uint64 `json:"beat"`
}

// Leading keeps the lease for this agent, or takes it over once the agent that has it has not beaten for 5 seconds,
// also a stopped one. It calls now with each answer of the database and returns when ctx ends. Call [Ledger.Settle]
// with the term only while Agent is this one; the database checks.
func (l *Ledger) Leading(ctx context.Context, every time.Duration, now func(Lease)) {
	var seen Lease
	since := time.Now()
	for ctx.Err() == nil {
		next, err := l.Lead(ctx, seen, time.Since(since) > leaderAge)
		if err == nil {
			if next != seen {
				seen, since = next, time.Now()
			}
			now(next)
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
	}
}

// Lead beats, or takes the lease over from one that was seen for too long.
func (l *Ledger) Lead(ctx context.Context, seen Lease, take bool) (next Lease, err error) {
	text, err := l.ask(ctx, "lead", fmt.Sprint(seen.Term), fmt.Sprint(seen.Beat), fmt.Sprint(take))
	if err != nil {
		return next, err
	}
	return next, json.Unmarshal([]byte(text), &next)
}

// Settled is what a settlement changed: totals by tracker.
type Settled struct {
	Before, After map[policy.Tracker]policy.Decimal
}

// Settle brings the totals of session id in line with v, as [session.Ledger.Settle] does, for all agents. trackers are
// the limits that v does not have and that count now. [ErrNotLeader] if term is over.
func (l *Ledger) Settle(ctx context.Context, term uint64, id session.ID, v *session.ChainView,
	trackers []policy.Tracker) (*Settled, error) {
	used, names := map[string]string{}, []string{}
	for t, u := range v.Used {
		used[trackerHex(t)] = u.Dec()
		names = append(names, literal(trackerHex(t)))
	}
	for _, t := range trackers {
		if _, has := v.Used[t]; !has {
			names = append(names, literal(trackerHex(t)))
		}
	}
	object, err := json.Marshal(used)
	if err != nil {
		return nil, err
	}
	text, err := l.ask(ctx, "settle", fmt.Sprint(term), literal(string(id)), fmt.Sprint(v.Block.Number),
		fmt.Sprint(v.Nonce),
		literal(string(object)), "ARRAY["+strings.Join(names, ",")+"]::text[]")
	if err != nil {
		return nil, err
	}
	var raw struct {
		Before map[string]string `json:"before"`
		After  map[string]string `json:"after"`
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, err
	}
	s := new(Settled)
	if s.Before, err = amountsOf(raw.Before); err != nil {
		return nil, err
	}
	s.After, err = amountsOf(raw.After)
	return s, err
}

// amountsOf reads amounts by tracker.
func amountsOf(raw map[string]string) (map[policy.Tracker]policy.Decimal, error) {
	all := map[policy.Tracker]policy.Decimal{}
	for name, text := range raw {
		t, err := parseTracker(name)
		if err != nil {
			return nil, err
		}
		x := new(uint256.Int)
		if err := x.SetFromDecimal(text); err != nil {
			return nil, fmt.Errorf("amount %q of tracker %s: %w", text, t, err)
		}
		all[t] = policy.Decimal(*x)
	}
	return all, nil
}

// Usage returns what each tracker of a session has counted.
func (l *Ledger) Usage(ctx context.Context, id session.ID) (map[policy.Tracker]policy.Decimal, error) {
	text, err := l.side.call(ctx, l, "look", literal(l.cfg.Agent), literal(string(id)), "0")
	if err != nil {
		return nil, err
	}
	var raw struct {
		Used map[string]string `json:"used"`
	}
	if text == "" {
		return nil, fmt.Errorf("session %q: %w", id, session.ErrUnknownSigner)
	}
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, err
	}
	return amountsOf(raw.Used)
}

// LeaseNonce hands out a nonce of an account on a chain to one caller: the lowest from onwards that was not signed for
// and is not handed out. from is the account's nonce on the chain. The lease ends after term, in whole seconds, or when
// something is signed for the nonce; then nothing more is handed out for it until the chain has passed it.
func (l *Ledger) LeaseNonce(ctx context.Context, chainID uint64, account policy.Address, from uint64,
	term time.Duration) (uint64, error) {
	text, err := l.ask(ctx, "lease_nonce", fmt.Sprint(chainID), literal(account.String()), fmt.Sprint(from),
		fmt.Sprint(int64(max(term, time.Second)/time.Second)))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(text, 10, 64)
}
