package chain

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/crypto"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/policy"
)

// RegistryReport is what stands at an address that may be the policy registry's.
type RegistryReport struct {
	Address policy.Address
	Code    bool // there is a contract
	// Err is why it does not answer as a registry does: an [ErrReverted] or an [ErrGarbled]. Nil if it does.
	Err      error
	Statuses []policy.RegistryStatus // its answers; nil if there are none
	// LastChange is the block of its newest PolicyStatusChanged, 0 if there was none in
	// the newest blocks (eight times Config.LogRange).
	LastChange uint64
}

// Live reports whether the contract answers as a registry.
func (r *RegistryReport) Live() bool { return r.Code && r.Err == nil }

// Populated reports whether anything is known to be in it: a change, or an answer that is not Unset.
func (r *RegistryReport) Populated() bool {
	set := func(s policy.RegistryStatus) bool { return s != policy.Unset }
	return r.Live() && (r.LastChange > 0 || slices.ContainsFunc(r.Statuses, set))
}

// CompareRegistries looks at each address and asks what is there the queries, of which
// there may be none. That one is no registry is in its report; the error is that the
// chain could not be read.
func (c *Client) CompareRegistries(ctx context.Context, addresses []policy.Address,
	queries []policy.RegistryQuery) ([]RegistryReport, error) {
	reports := make([]RegistryReport, len(addresses))
	for i, address := range addresses {
		if err := c.inspect(ctx, &reports[i], address, queries); err != nil {
			return nil, err
		}
	}
	return reports, nil
}

func (c *Client) inspect(ctx context.Context, r *RegistryReport, address policy.Address,
	queries []policy.RegistryQuery) (err error) {
	r.Address = address
	if r.Code, err = c.hasCode(ctx, address); err != nil || !r.Code {
		return err
	}
	// One question more, so that it has to answer something.
	asked := append(slices.Clone(queries), policy.RegistryQuery{Kind: policy.TransferPolicy, Target: address})
	statuses, _, err := c.registryAt(ctx, address, asked)
	switch {
	case errors.Is(err, ErrReverted) || errors.Is(err, ErrGarbled):
		r.Err = err
		return nil
	case err != nil:
		return err
	}
	r.Statuses = statuses[:len(queries)]
	r.LastChange, err = c.lastChange(ctx, address)
	return err
}

func (c *Client) hasCode(ctx context.Context, address policy.Address) (bool, error) {
	return onEndpoint(ctx, c, "looking for a contract", func(ctx context.Context, e *endpoint) (bool, error) {
		var q *request
		_, err := e.read(ctx, nil, func(number rpc.BlockNumber) []*request {
			q = &request{method: "eth_getCode", args: []any{common.Address(address), number}}
			return []*request{q}
		})
		if err != nil {
			return false, err
		}
		var code hexutil.Bytes
		if err := decodeResult(q.result, &code); err != nil {
			return false, fmt.Errorf("%s: %w", q.method, err)
		}
		return len(code) > 0, nil
	})
}

// policyStatusChanged is the registry's event, in both of its published forms.
var policyStatusChanged = []common.Hash{
	crypto.Keccak256Hash([]byte("PolicyStatusChanged(uint8,address,bytes32,uint8)")),
	crypto.Keccak256Hash([]byte("PolicyStatusChanged(uint8,address,bytes4,uint8)")),
}

// searchedRanges bounds the search for a registry's last change, which may be long ago.
const searchedRanges = 8

func (c *Client) lastChange(ctx context.Context, registry policy.Address) (uint64, error) {
	filter := logFilter{registry, [][]common.Hash{policyStatusChanged}}
	block, err := onEndpoint(ctx, c, "looking for PolicyStatusChanged",
		func(ctx context.Context, e *endpoint) (uint64, error) {
			last, err := e.lastLog(ctx, filter, searchedRanges)
			if err != nil {
				return 0, err
			}
			return last.event().Block, nil
		})
	if errors.Is(err, ErrNotFound) {
		return 0, nil
	}
	return block, err
}
