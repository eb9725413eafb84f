package chain

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/policy"
)

// SessionKeyValidator's events. Both have the account and the session hash indexed.
var (
	sessionCreated = policy.Hash(crypto.Keccak256([]byte("SessionCreated(address,bytes32," + specTuple + ")")))
	sessionRevoked = policy.Hash(crypto.Keccak256([]byte("SessionRevoked(address,bytes32)")))
)

// minLogRange is the fewest blocks that eth_getLogs is asked for before it is given up:
// a node that refuses those refuses something else.
const minLogRange = 16

// An Event is where a session was created or revoked.
type Event struct {
	Block       uint64
	Transaction policy.Hash
}

// FindSession returns the spec that the session was created with, from its SessionCreated
// event; it hashes to hash. [ErrNotFound] if there is none. It walks back from the
// newest block to Config.FirstBlock, which takes many requests where that is far.
func (c *Client) FindSession(ctx context.Context, account policy.Address, hash policy.Hash) (*policy.Spec, error) {
	spec, _, err := c.FindCreated(ctx, account, hash)
	return spec, err
}

// FindCreated is FindSession with the event's place.
func (c *Client) FindCreated(ctx context.Context, account policy.Address, hash policy.Hash) (*policy.Spec, Event,
	error) {
	type created struct {
		spec  *policy.Spec
		event Event
	}
	found, err := findEvent(ctx, c, "looking for SessionCreated", sessionCreated, account, hash,
		func(l *eventLog) (created, error) {
			spec, err := policy.DecodeABI(l.Data)
			if err != nil {
				return created{}, fmt.Errorf("%w: SessionCreated: %w", ErrGarbled, err)
			}
			if spec.Hash() != hash {
				return created{}, fmt.Errorf("%w: the spec in SessionCreated hashes to %v, not %v", ErrGarbled, spec.Hash(), hash)
			}
			return created{spec, l.event()}, nil
		})
	return found.spec, found.event, err
}

// FindRevoked returns where the session was revoked; [ErrNotFound] if it was not.
func (c *Client) FindRevoked(ctx context.Context, account policy.Address, hash policy.Hash) (Event, error) {
	return findEvent(ctx, c, "looking for SessionRevoked", sessionRevoked, account, hash,
		func(l *eventLog) (Event, error) {
			if len(l.Data) != 0 {
				return Event{}, fmt.Errorf("%w: SessionRevoked has data", ErrGarbled)
			}
			return l.event(), nil
		})
}

// findEvent walks back over the chain and decodes the last such event of the session.
func findEvent[T any](ctx context.Context, c *Client, what string, topic policy.Hash, account policy.Address,
	hash policy.Hash,
	decode func(*eventLog) (T, error)) (T, error) {
	if c.cfg.Validator.IsZero() {
		var zero T
		return zero, fmt.Errorf("chain %s: %w", c.cfg.Name, ErrNoValidator)
	}
	filter := logFilter{c.cfg.Validator, [][]common.Hash{{common.Hash(topic)}, {common.Hash(addressWord(account))},
		{common.Hash(hash)}}}
	return onEndpoint(ctx, c, what, func(ctx context.Context, e *endpoint) (found T, err error) {
		last, err := e.lastLog(ctx, filter, math.MaxInt)
		if err != nil {
			return found, err
		}
		if len(last.Topics) != len(filter.topics) {
			return found, fmt.Errorf("%w: a log with more topics than the event has", ErrGarbled)
		}
		return decode(last)
	})
}

// logFilter is what eth_getLogs looks for.
type logFilter struct {
	contract policy.Address
	topics   [][]common.Hash // for each position, what it may be; further ones may be anything
}

// lastLog returns the newest log that fits, found within so many ranges of blocks.
func (e *endpoint) lastLog(ctx context.Context, filter logFilter, ranges int) (*eventLog, error) {
	head, err := e.pin(ctx)
	if err != nil {
		return nil, err
	}
	size := e.cfg.LogRange
	for to := head.Number; ; {
		from := e.cfg.FirstBlock
		if to >= from+size {
			from = to - size + 1
		}
		logs, err := e.logsPatiently(ctx, filter, from, to)
		var refusal *nodeError
		switch {
		case errors.As(err, &refusal) && size/2 >= minLogRange:
			size /= 2 // many nodes allow fewer blocks; they say so in as many ways
			continue
		case err != nil:
			return nil, err
		case len(logs) > 0:
			return &logs[len(logs)-1], e.canonical(ctx, head)
		}
		if ranges--; ranges == 0 || from <= e.cfg.FirstBlock {
			if err := e.canonical(ctx, head); err != nil {
				return nil, err
			}
			return nil, fmt.Errorf("%w: no such event in blocks %d to %d", ErrNotFound, from, head.Number)
		}
		to = from - 1
	}
}

// limitExceeded is what nodes answer to too many requests, and some to too many blocks (EIP-1474).
const limitExceeded = -32005

// logsPatiently asks again where that can help: a search takes many requests, and need not begin
// anew for one of them.
func (e *endpoint) logsPatiently(ctx context.Context, filter logFilter, from, to uint64) ([]eventLog, error) {
	delay := e.cfg.RetryDelay
	for try := 1; ; try++ {
		logs, err := e.logs(ctx, filter, from, to)
		var refusal *nodeError
		hopeless := errors.Is(err, ErrWrongChain) || errors.As(err, &refusal) && refusal.code != limitExceeded
		if err == nil || hopeless || try == e.cfg.Attempts {
			return logs, err
		}
		if err := pause(ctx, delay); err != nil {
			return nil, err
		}
		delay *= 2
	}
}

// eventLog is a log as eth_getLogs gives it. The pointers tell absent from zero.
type eventLog struct {
	Address     *common.Address `json:"address"`
	Topics      []common.Hash   `json:"topics"`
	Data        hexutil.Bytes   `json:"data"`
	Number      *hexutil.Uint64 `json:"blockNumber"`
	Transaction *common.Hash    `json:"transactionHash"`
	Removed     bool            `json:"removed"`
}

func (l *eventLog) event() Event {
	return Event{uint64(*l.Number), policy.Hash(*l.Transaction)}
}

// logs asks for the logs in blocks from to to, and checks that they are what was asked for.
func (e *endpoint) logs(ctx context.Context, filter logFilter, from, to uint64) ([]eventLog, error) {
	r := &request{method: "eth_getLogs", args: []any{map[string]any{
		"address":   common.Address(filter.contract),
		"topics":    filter.topics,
		"fromBlock": rpc.BlockNumber(from),
		"toBlock":   rpc.BlockNumber(to),
	}}}
	if err := e.send(ctx, r); err != nil {
		return nil, err
	}
	if r.err != nil {
		return nil, fmt.Errorf("%s: %w", r.method, r.err)
	}
	var logs []eventLog
	if err := decodeResult(r.result, &logs); err != nil {
		return nil, fmt.Errorf("%s: %w", r.method, err)
	}
	for i := range logs {
		if err := logs[i].check(filter, from, to); err != nil {
			return nil, fmt.Errorf("%s: %w", r.method, err)
		}
	}
	return logs, nil
}

func (l *eventLog) check(filter logFilter, from, to uint64) error {
	switch {
	case l.Address == nil || *l.Address != common.Address(filter.contract):
		return fmt.Errorf("%w: a log of another contract", ErrGarbled)
	case !filter.fits(l.Topics):
		return fmt.Errorf("%w: a log with other topics", ErrGarbled)
	case l.Number == nil || uint64(*l.Number) < from || uint64(*l.Number) > to:
		return fmt.Errorf("%w: a log of another block", ErrGarbled)
	case l.Transaction == nil:
		return fmt.Errorf("%w: a log without a transaction", ErrGarbled)
	case l.Removed:
		return fmt.Errorf("%w: a log is marked removed", ErrReorg)
	}
	return nil
}

func (f logFilter) fits(topics []common.Hash) bool {
	if len(topics) < len(f.topics) {
		return false
	}
	for i, allowed := range f.topics {
		if !slices.Contains(allowed, topics[i]) {
			return false
		}
	}
	return true
}
