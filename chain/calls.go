package chain

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/ethereum/go-ethereum/common"
	"github.com/ethereum/go-ethereum/common/hexutil"
	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/policy"
)

// A call is an eth_call, and what came of it.
type call struct {
	to   policy.Address
	data []byte

	output   []byte // never empty, unless reverted
	reverted bool
}

// words reads the output of a call that must not revert.
func (c *call) words() *words {
	w := &words{rest: c.output}
	if c.reverted {
		w.err = ErrReverted
	}
	return w
}

// A reading is what one endpoint says of one block.
type reading struct {
	block Block
	// time is block.timestamp as the contracts saw it, Unix seconds.
	time uint64
}

// read makes the calls, and further requests that args have numbered with the block, at one
// block, which is still the chain's when they are all answered.
func (e *endpoint) read(ctx context.Context, calls []*call, more func(rpc.BlockNumber) []*request) (reading, error) {
	block, err := e.pin(ctx)
	if err != nil {
		return reading{}, err
	}
	r := reading{block: block, time: block.Time}
	number := rpc.BlockNumber(block.Number)
	var further []*request
	if more != nil {
		further = more(number)
	}
	if e.cfg.Multicall.IsZero() {
		err = e.callEach(ctx, number, calls, further)
	} else {
		r.time, err = e.callTogether(ctx, number, calls, further)
	}
	if err != nil {
		return reading{}, err
	}
	if r.time < block.Time {
		return reading{}, fmt.Errorf("%w: contracts saw the time %d in block %d of %d", ErrGarbled, r.time, block.Number,
			block.Time)
	}
	for _, q := range further {
		if q.err != nil {
			return reading{}, fmt.Errorf("%s: %w", q.method, q.err)
		}
	}
	return r, e.canonical(ctx, block)
}

// callEach makes each call an eth_call of its own.
func (e *endpoint) callEach(ctx context.Context, number rpc.BlockNumber, calls []*call, further []*request) error {
	all := make([]*request, 0, len(calls)+len(further))
	for _, c := range calls {
		all = append(all, ethCall(c.to, c.data, number))
	}
	if err := e.send(ctx, append(all, further...)...); err != nil {
		return err
	}
	for i, c := range calls {
		var err error
		if c.output, err = callOutput(all[i]); errors.Is(err, ErrReverted) {
			c.reverted = true
			continue
		}
		if err == nil {
			err = c.wantOutput()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func ethCall(to policy.Address, data []byte, number rpc.BlockNumber) *request {
	message := struct {
		To   common.Address `json:"to"`
		Data hexutil.Bytes  `json:"data"`
	}{common.Address(to), data}
	return &request{method: "eth_call", args: []any{message, number}}
}

func callOutput(r *request) (output hexutil.Bytes, err error) {
	var refusal *nodeError
	if errors.As(r.err, &refusal) && refusal.code == revertCode {
		return nil, ErrReverted
	}
	if r.err != nil {
		return nil, fmt.Errorf("eth_call: %w", r.err)
	}
	if err := decodeResult(r.result, &output); err != nil {
		return nil, fmt.Errorf("eth_call: %w", err)
	}
	return output, nil
}

// wantOutput refuses the empty output, which is what a call of no contract has.
func (c *call) wantOutput() error {
	if len(c.output) == 0 {
		return fmt.Errorf("%w: nothing from %v; is there a contract?", ErrGarbled, c.to)
	}
	return nil
}

// Multicall3 (https://www.multicall3.com).
var (
	aggregate3          = selectorOf("aggregate3((address,bool,bytes)[])")
	getCurrentTimestamp = selectorOf("getCurrentBlockTimestamp()")
)

// callTogether makes all calls one eth_call of Multicall3, and returns the block's
// timestamp that they saw.
func (e *endpoint) callTogether(ctx context.Context, number rpc.BlockNumber, calls []*call, further []*request) (uint64,
	error) {
	clock := &call{to: e.cfg.Multicall, data: calldata(getCurrentTimestamp)}
	together := append([]*call{clock}, calls...)
	r := ethCall(e.cfg.Multicall, encodeAggregate(together), number)
	if err := e.send(ctx, append([]*request{r}, further...)...); err != nil {
		return 0, err
	}
	output, err := callOutput(r)
	if err != nil {
		return 0, fmt.Errorf("multicall: %w", err)
	}
	if err := (&call{to: e.cfg.Multicall, output: output}).wantOutput(); err != nil {
		return 0, fmt.Errorf("multicall: %w", err)
	}
	if err := decodeAggregate(output, together); err != nil {
		return 0, fmt.Errorf("multicall: %w", err)
	}
	for _, c := range together {
		if !c.reverted {
			if err := c.wantOutput(); err != nil {
				return 0, err
			}
		}
	}
	w := clock.words()
	time := w.uint64(math.MaxUint64)
	return time, w.end()
}

// encodeAggregate returns the calldata of aggregate3, with allowFailure.
func encodeAggregate(calls []*call) []byte {
	b := calldata(aggregate3, uintWord(wordSize), uintWord(uint64(len(calls))))
	offset := wordSize * len(calls)
	for _, c := range calls {
		b = appendWord(b, uintWord(uint64(offset)))
		offset += wordSize*4 + padded(len(c.data))
	}
	for _, c := range calls {
		b = appendWord(b, addressWord(c.to))
		b = appendWord(b, uintWord(1))
		b = appendWord(b, uintWord(wordSize*3))
		b = appendWord(b, uintWord(uint64(len(c.data))))
		b = append(b, c.data...)
		b = append(b, make([]byte, padded(len(c.data))-len(c.data))...)
	}
	return b
}

func appendWord(b []byte, w policy.Hash) []byte { return append(b, w[:]...) }

// padded is n rounded up to whole words.
func padded(n int) int { return (n + wordSize - 1) / wordSize * wordSize }

// decodeAggregate reads aggregate3's (bool success, bytes returnData)[] into calls.
func decodeAggregate(output []byte, calls []*call) error {
	w := &words{rest: output}
	w.want(uintWord(wordSize), "the results' offset")
	w.want(uintWord(uint64(len(calls))), "the number of results")
	offsets := make([]uint64, len(calls))
	for i := range calls {
		offsets[i] = w.uint64(uint64(len(output)))
	}
	at := uint64(wordSize * len(calls))
	for i, c := range calls {
		if offsets[i] != at {
			w.fail("result %d is at %d, want %d", i, offsets[i], at)
		}
		c.reverted = w.uint64(1) == 0
		w.want(uintWord(2*wordSize), "a result's offset")
		n := w.uint64(uint64(len(w.rest)))
		c.output = w.bytes(int(n))
		at += uint64(wordSize*3 + padded(int(n)))
	}
	return w.end()
}

// bytes reads n bytes and their padding, which must be zero.
func (w *words) bytes(n int) []byte {
	if padded(n) > len(w.rest) {
		w.fail("the return value is too short")
		return nil
	}
	b, padding := w.rest[:n], w.rest[n:padded(n)]
	for _, p := range padding {
		if p != 0 {
			w.fail("padding that is not zero")
		}
	}
	w.rest = w.rest[padded(n):]
	return b
}
