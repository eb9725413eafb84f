package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// SessionStatus is a session's status on chain (SessionLib.Status).
type SessionStatus uint8

const (
	NotInitialized SessionStatus = iota
	Active
	Closed // revoked, for ever
	Expired
)

func (s SessionStatus) String() string {
	switch s {
	case NotInitialized:
		return "NotInitialized"
	case Active:
		return "Active"
	case Closed:
		return "Closed"
	case Expired:
		return "Expired"
	}
	return fmt.Sprintf("SessionStatus(%d)", uint8(s))
}

// SessionKeyValidator's getters. The tuple is SessionLib.SessionSpec.
var (
	sessionStatus = selectorOf("sessionStatus(address,bytes32)")
	sessionState  = selectorOf("sessionState(address," + specTuple + ")")
)

const (
	limitTuple = "(uint8,uint256,uint256)"
	specTuple  = "(address,uint256," + limitTuple +
		",(address,bytes4,uint256," + limitTuple + ",(uint8,uint64,bytes32," + limitTuple + ")[])[]" +
		",(address,uint256," + limitTuple + ")[])"
)

// SessionStatus returns what the validator has stored. It is never Expired: an expired
// session stays Active there until it is revoked.
func (c *Client) SessionStatus(ctx context.Context, account policy.Address, hash policy.Hash) (SessionStatus, error) {
	if c.cfg.Validator.IsZero() {
		return 0, fmt.Errorf("chain %s: %w", c.cfg.Name, ErrNoValidator)
	}
	return onEndpoint(ctx, c, "reading a session's status", func(ctx context.Context, e *endpoint) (SessionStatus, error) {
		q := statusCall(c.cfg.Validator, account, hash)
		if _, err := e.read(ctx, []*call{q}, nil); err != nil {
			return 0, err
		}
		return decodeStatus(q)
	})
}

func statusCall(validator, account policy.Address, hash policy.Hash) *call {
	return &call{to: validator, data: calldata(sessionStatus, addressWord(account), hash)}
}

func decodeStatus(c *call) (SessionStatus, error) {
	w := c.words()
	s := SessionStatus(w.uint64(uint64(Expired)))
	if err := w.end(); err != nil {
		return 0, fmt.Errorf("sessionStatus: %w", err)
	}
	return s, nil
}

// Nonce returns how many transactions of account have landed, and the block it was read at.
func (c *Client) Nonce(ctx context.Context, account policy.Address) (uint64, Block, error) {
	var block Block
	nonce, err := onEndpoint(ctx, c, "reading an account's nonce", func(ctx context.Context, e *endpoint) (uint64, error) {
		var q *request
		r, err := e.read(ctx, nil, func(number rpc.BlockNumber) []*request {
			q = nonceRequest(account, number)
			return []*request{q}
		})
		if err != nil {
			return 0, err
		}
		block = r.block
		return decodeNonce(q)
	})
	return nonce, block, err
}

func nonceRequest(account policy.Address, number rpc.BlockNumber) *request {
	return &request{method: "eth_getTransactionCount", args: []any{common.Address(account), number}}
}

func decodeNonce(r *request) (uint64, error) {
	var nonce hexutil.Uint64
	if err := decodeResult(r.result, &nonce); err != nil {
		return 0, fmt.Errorf("%s: %w", r.method, err)
	}
	return uint64(nonce), nil
}

// Snapshot is all that the chain knows of a session, at one block.
type Snapshot struct {
	Account policy.Address
	Session policy.Hash
	Block   Block
	// Time is block.timestamp as the validator saw it; the periods of the trackers below are its.
	Time   uint64
	Status SessionStatus // Expired if Time is after the spec's expiresAt
	Nonce  uint64        // of the account: its transactions with lower nonces have landed
	// Used is what has been counted against each limit of the spec, by the tracker that counts
	// at Time; Remaining is the rest. Both are nil if the validator reverts, as it does for
	// good where an allowance has a period of 0.
	Used, Remaining map[policy.Tracker]uint256.Int
}

// Snapshot reads status, usage, nonce and time at one block, and from one endpoint.
func (c *Client) Snapshot(ctx context.Context, account policy.Address, spec *policy.Spec) (*Snapshot, error) {
	if c.cfg.Validator.IsZero() {
		return nil, fmt.Errorf("chain %s: %w", c.cfg.Name, ErrNoValidator)
	}
	return onEndpoint(ctx, c, "reading a session's state", func(ctx context.Context, e *endpoint) (*Snapshot, error) {
		s := &Snapshot{Account: account, Session: spec.Hash()}
		status := statusCall(c.cfg.Validator, account, s.Session)
		state := &call{to: c.cfg.Validator, data: stateCalldata(account, spec)}
		var nonce *request
		r, err := e.read(ctx, []*call{status, state}, func(number rpc.BlockNumber) []*request {
			nonce = nonceRequest(account, number)
			return []*request{nonce}
		})
		if err != nil {
			return nil, err
		}
		s.Block, s.Time = r.block, r.time
		if s.Nonce, err = decodeNonce(nonce); err != nil {
			return nil, err
		}
		if s.Status, err = decodeStatus(status); err != nil {
			return nil, err
		}
		if err := s.setState(state, spec); err != nil && !errors.Is(err, ErrReverted) {
			return nil, fmt.Errorf("sessionState: %w", err)
		}
		return s, nil
	})
}

// stateCalldata is that of sessionState(account, spec): the spec's tuple comes behind the two words of the head.
func stateCalldata(account policy.Address, spec *policy.Spec) []byte {
	tuple := spec.EncodeABI()[wordSize:] // without the offset that leads to it
	return append(calldata(sessionState, addressWord(account), uintWord(2*wordSize)), tuple...)
}

// setState decodes a SessionLib.SessionState, which must fit spec and the stored status, and sets
// Status and the usage.
func (s *Snapshot) setState(c *call, spec *policy.Spec) error {
	stored := s.Status
	if stored == Active && spec.ExpiresAt.LtUint64(s.Time) {
		s.Status = Expired
	}
	if c.reverted {
		return ErrReverted
	}
	d := stateDecoder{words: c.words(), time: s.Time,
		used: map[policy.Tracker]uint256.Int{}, remaining: map[policy.Tracker]uint256.Int{}}
	d.want(uintWord(wordSize), "the state's offset")
	d.expiry(stored, spec)
	d.limit(&spec.FeeLimit, policy.Tracker{Kind: policy.FeeTracker}, true)
	d.arrays(spec)
	if err := d.end(); err != nil {
		return err
	}
	s.Used, s.Remaining = d.used, d.remaining
	return nil
}

// stateDecoder reads a SessionState beside the spec that it is of.
type stateDecoder struct {
	*words
	time            uint64
	used, remaining map[policy.Tracker]uint256.Int
}

// expiry reads the state's expiresAt and status. The published validator never stores
// expiresAt, so that its state says 0 and Expired whatever the session; sessionStatus is what counts.
func (d *stateDecoder) expiry(stored SessionStatus, spec *policy.Spec) {
	if at := d.uint(); !at.IsZero() && !at.Eq(&spec.ExpiresAt) {
		d.fail("expiresAt is %s, the spec's is %s", at.Dec(), spec.ExpiresAt.Dec())
	}
	if status := SessionStatus(d.uint64(uint64(Expired))); status != stored && status != Expired {
		d.fail("status is %v, but sessionStatus says %v", status, stored)
	}
}

// arrays reads the three arrays of LimitState; they come in the spec's order.
func (d *stateDecoder) arrays(spec *policy.Spec) {
	params := 0
	for i := range spec.CallPolicies {
		for j := range spec.CallPolicies[i].Constraints {
			if spec.CallPolicies[i].Constraints[j].Limit.LimitType != policy.Unlimited {
				params++
			}
		}
	}
	const head, state = 6, 4 // words
	transfersAt := head
	callsAt := transfersAt + 1 + state*len(spec.TransferPolicies)
	paramsAt := callsAt + 1 + state*len(spec.CallPolicies)
	for _, at := range []int{transfersAt, callsAt, paramsAt} {
		d.want(uintWord(uint64(wordSize*at)), "an array's offset")
	}
	d.transfers(spec)
	d.calls(spec)
	d.want(uintWord(uint64(params)), "the number of callParams")
	d.params(spec)
}

func (d *stateDecoder) transfers(spec *policy.Spec) {
	d.want(uintWord(uint64(len(spec.TransferPolicies))), "the number of transferValue")
	seen := map[policy.Address]bool{}
	for i := range spec.TransferPolicies {
		p := &spec.TransferPolicies[i]
		d.limit(&p.ValueLimit, policy.Tracker{Kind: policy.TransferValueTracker, Target: p.Target}, !seen[p.Target])
		d.of(p.Target, policy.Selector{}, 0)
		seen[p.Target] = true
	}
}

func (d *stateDecoder) calls(spec *policy.Spec) {
	d.want(uintWord(uint64(len(spec.CallPolicies))), "the number of callValue")
	for i := range spec.CallPolicies {
		p := &spec.CallPolicies[i]
		d.limit(&p.ValueLimit, policy.Tracker{Kind: policy.CallValueTracker, Target: p.Target, Selector: p.Selector},
			decides(spec, i))
		d.of(p.Target, p.Selector, 0)
	}
}

// params reads callParams, which leaves out what is unlimited, and gives the constraint's index
// into the calldata where the tracker has its position in the list.
func (d *stateDecoder) params(spec *policy.Spec) {
	for i := range spec.CallPolicies {
		p := &spec.CallPolicies[i]
		for j := range p.Constraints {
			c := &p.Constraints[j]
			if c.Limit.LimitType == policy.Unlimited {
				continue
			}
			d.limit(&c.Limit, policy.Tracker{Kind: policy.CallParamTracker,
				Target: p.Target, Selector: p.Selector, Position: uint32(j)}, decides(spec, i))
			d.of(p.Target, p.Selector, c.Index)
		}
	}
}

// decides reports whether call policy i is the first for its target and selector: no
// other one's limits ever count.
func decides(spec *policy.Spec, i int) bool {
	for j := range i {
		if spec.CallPolicies[j].Target == spec.CallPolicies[i].Target &&
			spec.CallPolicies[j].Selector == spec.CallPolicies[i].Selector {
			return false
		}
	}
	return true
}

// limit reads what remains of l, and keeps it for t if keep. The chain says 2^256-1 of
// an unlimited one, which is not kept.
func (d *stateDecoder) limit(l *policy.UsageLimit, t policy.Tracker, keep bool) {
	remaining := d.uint()
	if l.LimitType == policy.Unlimited {
		if most := new(uint256.Int).SetAllOne(); !remaining.Eq(most) {
			d.fail("%s remains of no limit", remaining.Dec())
		}
		return
	}
	if remaining.Gt(&l.Limit) {
		d.fail("%s remains of a limit of %s", remaining.Dec(), l.Limit.Dec())
		return
	}
	if l.LimitType == policy.Allowance {
		if l.Period.IsZero() {
			d.fail("something remains of an allowance without a period")
			return
		}
		t.Allowance = true
		t.PeriodID = new(uint256.Int).Div(uint256.NewInt(d.time), &l.Period).Uint64()
	}
	if keep {
		d.remaining[t] = remaining
		d.used[t] = *new(uint256.Int).Sub(&l.Limit, &remaining)
	}
}

// of reads which limit a LimitState is of.
func (d *stateDecoder) of(target policy.Address, selector policy.Selector, index uint64) {
	d.want(addressWord(target), "a limit's target")
	d.want(selectorWord(selector), "a limit's selector")
	d.want(uintWord(index), "a limit's index")
}
