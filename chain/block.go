package chain

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/policy"
)

// errNoBlock: the node has no block of that number.
var errNoBlock = fmt.Errorf("%w: the node has no such block", ErrUnavailable)

// block reads the block of that number, or the newest.
func (e *endpoint) block(ctx context.Context, number rpc.BlockNumber) (Block, error) {
	r := &request{method: "eth_getBlockByNumber", args: []any{number, false}}
	if err := e.send(ctx, r); err != nil {
		return Block{}, err
	}
	if r.err != nil {
		return Block{}, fmt.Errorf("%s: %w", r.method, r.err)
	}
	if string(r.result) == "null" && number >= 0 {
		return Block{}, errNoBlock
	}
	var header struct { // pointers: what is absent must not be taken for 0
		Number *hexutil.Uint64 `json:"number"`
		Hash   *common.Hash    `json:"hash"`
		Time   *hexutil.Uint64 `json:"timestamp"`
	}
	if err := decodeResult(r.result, &header); err != nil {
		return Block{}, fmt.Errorf("%s: %w", r.method, err)
	}
	if header.Number == nil || header.Hash == nil || header.Time == nil {
		return Block{}, fmt.Errorf("%s: %w: a block without number, hash or timestamp", r.method, ErrGarbled)
	}
	b := Block{uint64(*header.Number), policy.Hash(*header.Hash), uint64(*header.Time)}
	if number >= 0 && b.Number != uint64(number) {
		return Block{}, fmt.Errorf("%s: %w: block %d, asked for %d", r.method, ErrGarbled, b.Number, number)
	}
	return b, nil
}

// pin returns the block to read at: the newest one that has the configured confirmations.
func (e *endpoint) pin(ctx context.Context) (Block, error) {
	head, err := e.block(ctx, rpc.LatestBlockNumber)
	if err != nil || e.cfg.Confirmations == 0 {
		return head, err
	}
	if head.Number < e.cfg.Confirmations {
		return Block{}, fmt.Errorf("%w: the chain has %d blocks, fewer than the confirmations", ErrUnavailable, head.Number)
	}
	return e.block(ctx, rpc.BlockNumber(head.Number-e.cfg.Confirmations))
}

// canonical returns an ErrReorg if b is not the endpoint's block of that number.
func (e *endpoint) canonical(ctx context.Context, b Block) error {
	now, err := e.block(ctx, rpc.BlockNumber(b.Number))
	if errors.Is(err, errNoBlock) {
		return fmt.Errorf("%w: block %d (%v) is gone", ErrReorg, b.Number, b.Hash)
	}
	if err != nil {
		return err
	}
	if now != b {
		return fmt.Errorf("%w: block %d was %v, is %v", ErrReorg, b.Number, b.Hash, now.Hash)
	}
	return nil
}
