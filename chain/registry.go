package chain

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/keyward/keyward/policy"
)

// SessionKeyPolicyRegistry's getters; each returns a uint8.
var (
	getCallPolicyStatus     = selectorOf("getCallPolicyStatus(address,bytes4)")
	getTransferPolicyStatus = selectorOf("getTransferPolicyStatus(address)")
	getApprovalTargetStatus = selectorOf("getApprovalTargetStatus(address,address)")
)

// RegistryStatuses asks the policy registry, all at one block. The answers are in the
// order of the queries; there is one for each or an error.
func (c *Client) RegistryStatuses(ctx context.Context, queries []policy.RegistryQuery) ([]policy.RegistryStatus,
	error) {
	statuses, _, err := c.registryAt(ctx, c.cfg.Registry, queries)
	return statuses, err
}

func (c *Client) registryAt(ctx context.Context, registry policy.Address,
	queries []policy.RegistryQuery) ([]policy.RegistryStatus, Block, error) {
	if registry.IsZero() {
		return nil, Block{}, fmt.Errorf("chain %s: %w", c.cfg.Name, ErrNoRegistry)
	}
	data := make([][]byte, len(queries))
	for i, q := range queries {
		var err error
		if data[i], err = registryCalldata(q); err != nil {
			return nil, Block{}, err
		}
	}
	var block Block
	statuses, err := onEndpoint(ctx, c, "asking the policy registry",
		func(ctx context.Context, e *endpoint) ([]policy.RegistryStatus, error) {
			calls := make([]*call, len(queries))
			for i := range queries {
				calls[i] = &call{to: registry, data: data[i]}
			}
			r, err := e.read(ctx, calls, nil)
			if err != nil {
				return nil, err
			}
			block = r.block
			return registryAnswers(queries, calls)
		})
	return statuses, block, err
}

func registryCalldata(q policy.RegistryQuery) ([]byte, error) {
	switch q.Kind {
	case policy.CallPolicy:
		return calldata(getCallPolicyStatus, addressWord(q.Target), selectorWord(q.Selector)), nil
	case policy.TransferPolicy:
		return calldata(getTransferPolicyStatus, addressWord(q.Target)), nil
	case policy.ApprovalTarget:
		return calldata(getApprovalTargetStatus, addressWord(q.Target), addressWord(q.Spender)), nil
	}
	return nil, fmt.Errorf("unknown kind %d of registry query", q.Kind)
}

func registryAnswers(queries []policy.RegistryQuery, calls []*call) ([]policy.RegistryStatus, error) {
	statuses := make([]policy.RegistryStatus, len(calls))
	for i, c := range calls {
		w := c.words()
		statuses[i] = policy.RegistryStatus(w.uint64(uint64(policy.Blocked)))
		if err := w.end(); err != nil {
			return nil, fmt.Errorf("%v: %w", queries[i], err)
		}
	}
	return statuses, nil
}

// RegistryAnswer is what the registry said, and when.
type RegistryAnswer struct {
	Status policy.RegistryStatus
	Block  Block     // where it was read
	Read   time.Time // on the agent's clock
}

// RegistryCache keeps the registry's last answers. It refreshes nothing by itself and
// never forgets: its caller decides how old an answer may be. The zero value is empty
// and ready; it may be used concurrently.
type RegistryCache struct {
	mu      sync.Mutex
	answers map[policy.RegistryQuery]RegistryAnswer
}

// Get returns the last answer; false if there has been none.
func (r *RegistryCache) Get(q policy.RegistryQuery) (RegistryAnswer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a, ok := r.answers[q]
	return a, ok
}

// Refresh asks c and keeps the answers, all of them or, with an error, none. now is the
// agent's clock. An answer from an older block than the kept one, which an endpoint that
// lags gives, is not kept.
func (r *RegistryCache) Refresh(ctx context.Context, c *Client, queries []policy.RegistryQuery, now time.Time) error {
	statuses, block, err := c.registryAt(ctx, c.cfg.Registry, queries)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answers == nil {
		r.answers = map[policy.RegistryQuery]RegistryAnswer{}
	}
	for i, q := range queries {
		if r.answers[q].Block.Number <= block.Number {
			r.answers[q] = RegistryAnswer{statuses[i], block, now}
		}
	}
	return nil
}

// Learn takes over the answers of another cache, which is of the same registry.
func (r *RegistryCache) Learn(from *RegistryCache) {
	from.mu.Lock()
	answers := maps.Clone(from.answers)
	from.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = answers
}

// Keep forgets the answers to all but these queries, when sessions have ended.
func (r *RegistryCache) Keep(queries []policy.RegistryQuery) {
	kept := make(map[policy.RegistryQuery]RegistryAnswer, len(queries))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, q := range queries {
		if a, ok := r.answers[q]; ok {
			kept[q] = a
		}
	}
	r.answers = kept
}
