package config

import (
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/keyward/keyward/internal/suggest"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// Chain is one chain that sessions may be for.
type Chain struct {
	ID        uint64
	Validator policy.Address // SessionKeyValidator; zero: none, so only eoa sessions
	Registry  policy.Address // SessionKeyPolicyRegistry; zero: none
	Multicall policy.Address // Multicall3; zero: none

	Kind        string // of its nodes, by whose rules a transaction is refused that none can include; "": unknown
	Fork        string // of KindEthereum; "": no rule that depends on it
	MaxGasLimit uint64 // a setting of its nodes; 0: no such rule
	MaxTxSize   Size   // a setting of its nodes; 0: no such rule

	RPC           []string      // URLs; none: the agent works offline for this chain
	RPCTimeout    time.Duration // for one request
	RPCAttempts   int           // rounds over the URLs
	RPCRate       int           // calls a second to one URL
	RPCMaxBytes   Size          // of one answer
	RPCLogRange   uint64        // blocks in one search for events
	FirstBlock    uint64        // where the search for events ends
	Confirmations uint64        // blocks behind the newest that are read
}

// Abstract's contracts. Validator and registry are of https://docs.abs.xyz, session keys;
// Multicall3 is of viem's chain definitions.
var (
	// SessionKeyValidator is the module's address on both of Abstract's chains.
	SessionKeyValidator = policy.Address{
		0x34, 0xca, 0x15, 0x01, 0xfa, 0xe2, 0x31, 0xcc, 0x2e, 0xbc,
		0x99, 0x5c, 0xe0, 0x13, 0xdb, 0xe8, 0x82, 0xd7, 0xd0, 0x81,
	}
	// RegistryOfDocs is the mainnet's policy registry as the production docs name it. It is the default.
	RegistryOfDocs = policy.Address{
		0xa1, 0x46, 0xc7, 0x11, 0x8a, 0x46, 0xb3, 0x2a, 0xbd, 0x0e,
		0x1a, 0xca, 0x41, 0xdf, 0x4e, 0x61, 0x06, 0x1b, 0x6b, 0x93,
	}
	// RegistryOfSDK is the mainnet's policy registry as agw-client's constants name it.
	RegistryOfSDK = policy.Address{
		0xfd, 0x20, 0xb9, 0xd7, 0xa4, 0x06, 0xe2, 0xc4, 0xf5, 0xd6,
		0xdf, 0x71, 0xab, 0xe3, 0xee, 0x48, 0xb2, 0xec, 0xcc, 0x9f,
	}
	// Multicall is the mainnet's Multicall3.
	Multicall = policy.Address{
		0xaa, 0x4d, 0xe4, 0x1d, 0xba, 0x0c, 0xa5, 0xdc, 0xbb, 0x28,
		0x8b, 0x7c, 0xc6, 0xb7, 0x08, 0xf3, 0xaa, 0xc7, 0x59, 0xe7,
	}
	// TestnetMulticall is the testnet's Multicall3.
	TestnetMulticall = policy.Address{
		0xf9, 0xcd, 0xa6, 0x24, 0xfb, 0xc7, 0xe0, 0x59, 0x35, 0x5c,
		0xe9, 0x8a, 0x31, 0x69, 0x3d, 0x29, 0x9f, 0xac, 0xd9, 0x63,
	}
)

// PublicRPC are the URLs that Abstract offers to everyone, by chain id. None is
// contacted unless the operator puts it into rpc.
var PublicRPC = map[uint64]string{
	2741:  "https://api.mainnet.abs.xyz",
	11124: "https://api.testnet.abs.xyz",
}

func builtInChains() map[string]*Chain {
	mainnet, testnet := defaultChain(), defaultChain()
	mainnet.ID, mainnet.Validator, mainnet.Registry, mainnet.Multicall = 2741, SessionKeyValidator, RegistryOfDocs,
		Multicall
	testnet.ID, testnet.Validator, testnet.Multicall = 11124, SessionKeyValidator, TestnetMulticall
	mainnet.Kind, testnet.Kind = zktx.KindZKsync, zktx.KindZKsync
	return map[string]*Chain{"abstract": mainnet, "abstract-testnet": testnet}
}

// defaultChain is a chain whose section says nothing.
func defaultChain() *Chain {
	return &Chain{RPCTimeout: 10 * time.Second, RPCAttempts: 3, RPCRate: 20, RPCMaxBytes: 4 << 20, RPCLogRange: 50_000}
}

func (c *Chain) fields() []field {
	return []field{
		{key: "id", dst: &c.ID, doc: "chain id"},
		{key: "validator", dst: &c.Validator, doc: "SessionKeyValidator's address; without it, only eoa sessions"},
		{key: "registry", dst: &c.Registry, doc: "SessionKeyPolicyRegistry's address"},
		{key: "multicall", dst: &c.Multicall, doc: "Multicall3's address; without it, a JSON-RPC batch does its work"},
		{key: "kind", dst: &c.Kind, doc: `"zksync" or "ethereum": whose nodes' rules hold for a transaction; without it, only what holds everywhere`},
		{key: "fork", dst: &c.Fork, doc: `of kind "ethereum", e.g. "prague" or "osaka"; without it, no rule that depends on the fork`},
		{key: "max_gas_limit", dst: &c.MaxGasLimit, doc: "a gas limit above it is refused; without it, there is no such rule"},
		{key: "max_tx_size", dst: &c.MaxTxSize, doc: "bytes of a transaction as the chain's nodes count them; without it, " +
			"there is no such rule"},
		{key: "rpc", dst: &c.RPC, doc: "URLs of nodes, the preferred first; without one the agent works offline"},
		{key: "rpc_timeout", dst: &c.RPCTimeout, doc: "for one request to a node"},
		{key: "rpc_attempts", dst: &c.RPCAttempts, doc: "rounds over the nodes before an answer is given up"},
		{key: "rpc_rate", dst: &c.RPCRate, doc: "calls a second to one node"},
		{key: "rpc_max_bytes", dst: &c.RPCMaxBytes, doc: "size of one answer"},
		{key: "rpc_log_range", dst: &c.RPCLogRange, doc: "blocks in one search for events; nodes that allow fewer are " +
			"asked for fewer"},
		{key: "first_block", dst: &c.FirstBlock, doc: "where the search for events ends"},
		{key: "confirmations", dst: &c.Confirmations, doc: "how many blocks behind the newest are believed"},
	}
}

// validateChains refuses an ID of 0, and one that two names share: a session's chain is its ID.
func (d *document) validateChains(chains map[string]*Chain) error {
	byID := map[uint64]string{}
	for _, name := range slices.Sorted(maps.Keys(chains)) {
		id := chains[name].ID
		p := path{"chains", name}
		if id == 0 {
			return d.errorf(p, "chain %q has no id; add id = (its chain id)", name)
		}
		if other, ok := byID[id]; ok {
			if _, inFile := d.at[p.id()]; !inFile {
				p, name, other = path{"chains", other}, other, name
			}
			return d.errorf(p, "chains %q and %q have the same id, %d", name, other, id)
		}
		byID[id] = name
		if err := d.validateKind(p, chains[name]); err != nil {
			return err
		}
		if err := d.validateRPC(p, chains[name]); err != nil {
			return err
		}
	}
	return nil
}

// validateKind rejects kinds and forks that are not known: with a slip in one, a rule would be missing without a word.
func (d *document) validateKind(p path, c *Chain) error {
	kinds := []string{zktx.KindZKsync, zktx.KindEthereum}
	switch {
	case c.Kind != "" && !slices.Contains(kinds, c.Kind):
		return d.errorf(p.in("kind"), "kind: want %q or %q, not %q%s", kinds[0], kinds[1], c.Kind,
			suggest.DidYouMean(c.Kind, kinds))
	case c.Fork != "" && c.Kind != zktx.KindEthereum:
		return d.errorf(p.in("fork"), "fork: goes with kind = %q", zktx.KindEthereum)
	case c.Fork != "" && !slices.Contains(zktx.Forks, c.Fork):
		return d.errorf(p.in("fork"), "fork: %q is not one of %s%s", c.Fork, strings.Join(zktx.Forks, ", "),
			suggest.DidYouMean(c.Fork, zktx.Forks))
	}
	return nil
}

// validateRPC refuses URLs that are none, and bounds of zero. A URL may hold a
// credential, so no error shows it.
func (d *document) validateRPC(p path, c *Chain) error {
	for i, text := range c.RPC {
		if err := checkURL(text); err != nil {
			return d.errorf(p.in("rpc"), "rpc: URL %d %v", i+1, err)
		}
		if slices.Contains(c.RPC[:i], text) {
			return d.errorf(p.in("rpc"), "rpc: URL %d is given twice", i+1)
		}
	}
	for _, f := range []field{
		{key: "rpc_timeout", dst: &c.RPCTimeout}, {key: "rpc_attempts", dst: &c.RPCAttempts},
		{key: "rpc_rate", dst: &c.RPCRate},
		{key: "rpc_max_bytes", dst: &c.RPCMaxBytes}, {key: "rpc_log_range", dst: &c.RPCLogRange},
	} {
		if isZero(f.dst) {
			return d.errorf(p.in(f.key), "%s: must be more than 0", f.key)
		}
	}
	return nil
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "":
		return errors.New(`is none; write "https://HOST/PATH"`)
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("is neither https nor http")
	case u.Fragment != "":
		return errors.New("has a fragment")
	}
	return nil
}
