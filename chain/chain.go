// Package chain reads what a session's chain knows: the policy registry, a session's
// status and what is left of its limits, its events, an account's nonce, the time.
//
// Nothing here signs or sends. Every request is a JSON-RPC batch that asks for the
// chain id too, so no answer is believed that did not come with the right one. What
// belongs together is read from one endpoint at one block, whose hash is looked at
// again afterwards. An answer that is not exactly what the ABI says is an error and
// never a zero.
//
// It uses go-ethereum's rpc, not its ethclient: that one computes a block's hash from
// the header, which on a ZKsync chain gives another hash than the chain's own.
package chain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/ethereum/go-ethereum/rpc"

	"github.com/keyward/keyward/policy"
)

// What can be wrong, for errors.Is. An error of several endpoints is each of theirs.
var (
	// ErrUnavailable: no endpoint answered, or the node could not say. It passes; try again later.
	ErrUnavailable = errors.New("chain unavailable")
	// ErrReorg: the block that was read is no longer the chain's. It is an [ErrUnavailable] too.
	ErrReorg = fmt.Errorf("block reorganized away: %w", ErrUnavailable)
	// ErrWrongChain: an endpoint is of another chain than configured. Only the operator can mend it.
	ErrWrongChain = errors.New("endpoint is of another chain")
	// ErrGarbled: the answer is not what was asked for. Nothing of it was used.
	ErrGarbled = errors.New("garbled answer")
	// ErrReverted: the contract refused the call. Trying again does not help.
	ErrReverted = errors.New("the contract reverted")
	// ErrNotFound: the chain has no such event.
	ErrNotFound = errors.New("not found on chain")
	// ErrNoRegistry: the chain is configured without a policy registry.
	ErrNoRegistry = errors.New("the chain has no policy registry")
	// ErrNoValidator: the chain is configured without a session validator.
	ErrNoValidator = errors.New("the chain has no session validator")
)

// Config says what chain this is and how to reach it. Zero values of what follows
// Multicall stand for the defaults given.
type Config struct {
	Name      string
	ID        uint64
	Endpoints []string // http or https URLs, the preferred first; their credentials appear in no error and no log

	Validator policy.Address // SessionKeyValidator; zero: there is none
	Registry  policy.Address // SessionKeyPolicyRegistry; zero: there is none
	Multicall policy.Address // Multicall3; zero: calls go as a JSON-RPC batch instead

	Confirmations uint64        // blocks behind the newest that are read; 0: the newest itself
	Timeout       time.Duration // for one request; 10s
	Attempts      int           // rounds over the endpoints before an operation fails; 3
	RetryDelay    time.Duration // before the second round, doubled each time, at random down to 0; 250ms
	Rate          float64       // calls a second to one endpoint, each of a batch counts; 20
	MaxResponse   int64         // bytes of one answer; 4 MiB
	LogRange      uint64        // blocks asked for in one eth_getLogs; 50,000
	FirstBlock    uint64        // the search for events ends here

	Logger *slog.Logger // told when an endpoint fails or recovers; nil: nobody is
}

// Block identifies a block.
type Block struct {
	Number uint64
	Hash   policy.Hash
	Time   uint64 // Unix seconds
}

// Client reads one chain. Its methods may be called concurrently. Each is bounded by
// its context and by the configuration's time-out and attempts, whichever is first.
type Client struct {
	cfg       Config
	endpoints []*endpoint
}

// New checks cfg and returns a client. It contacts nobody.
func New(cfg Config) (*Client, error) {
	if cfg.ID == 0 {
		return nil, fmt.Errorf("chain %q has no id", cfg.Name)
	}
	if len(cfg.Endpoints) == 0 {
		return nil, fmt.Errorf("chain %q has no endpoint", cfg.Name)
	}
	cfg.setDefaults()
	c := &Client{cfg: cfg}
	for i, url := range cfg.Endpoints {
		e, err := newEndpoint(&c.cfg, i+1, url)
		if err != nil {
			return nil, fmt.Errorf("chain %q: %w", cfg.Name, err)
		}
		c.endpoints = append(c.endpoints, e)
	}
	return c, nil
}

func (cfg *Config) setDefaults() {
	def(&cfg.Timeout, 10*time.Second)
	def(&cfg.Attempts, 3)
	def(&cfg.RetryDelay, 250*time.Millisecond)
	def(&cfg.Rate, 20)
	def(&cfg.MaxResponse, 4<<20)
	def(&cfg.LogRange, 50_000)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
}

func def[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// Name is the chain's name in the configuration.
func (c *Client) Name() string { return c.cfg.Name }

// ID is the chain id.
func (c *Client) ID() uint64 { return c.cfg.ID }

// Registry is the address of the chain's policy registry; zero: it has none.
func (c *Client) Registry() policy.Address { return c.cfg.Registry }

// Close drops idle connections. What is under way goes on.
func (c *Client) Close() {
	for _, e := range c.endpoints {
		e.close()
	}
}

// Head returns the newest block, without regard to Confirmations.
func (c *Client) Head(ctx context.Context) (Block, error) {
	return onEndpoint(ctx, c, "reading the newest block", func(ctx context.Context, e *endpoint) (Block, error) {
		return e.block(ctx, rpc.LatestBlockNumber)
	})
}

// Canonical returns nil if b is still a block of the chain, and an [ErrReorg] if
// another one, or none, has its number now.
func (c *Client) Canonical(ctx context.Context, b Block) error {
	_, err := onEndpoint(ctx, c, fmt.Sprintf("looking at block %d again", b.Number),
		func(ctx context.Context, e *endpoint) (struct{}, error) {
			return struct{}{}, e.canonical(ctx, b)
		})
	return err
}
