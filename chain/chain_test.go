package chain_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

func newClient(t *testing.T, cfg chain.Config) *chain.Client {
	t.Helper()
	c, err := chain.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// noMulticall is cfg for a chain without Multicall3.
func noMulticall(cfg chain.Config) chain.Config {
	cfg.Multicall = policy.Address{}
	return cfg
}

func num(x uint64) uint256.Int { return *uint256.NewInt(x) }

func TestNew(t *testing.T) {
	const secret = "hunter2"
	for _, tt := range []struct {
		name, url string
		ok        bool
	}{
		{"https", "https://node.example/v3/" + secret, true},
		{"http with a password", "http://user:" + secret + "@127.0.0.1:8545", true},
		{"websocket", "wss://node.example/" + secret, false},
		{"a path", "/run/" + secret, false},
		{"no host", "https:///" + secret, false},
		{"no URL", "https://no de/" + secret, false},
		{"bad escape", "https://node.example/%zz" + secret, false},
		{"fragment", "https://node.example/#" + secret, false},
	} {
		_, err := chain.New(chain.Config{Name: "c", ID: 1, Endpoints: []string{tt.url}})
		if (err == nil) != tt.ok {
			t.Errorf("%s: New: %v, want success %v", tt.name, err, tt.ok)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error shows the URL: %v", tt.name, err)
		}
	}
	if _, err := chain.New(chain.Config{Name: "c", ID: 1}); err == nil {
		t.Error("a chain without an endpoint was taken")
	}
	if _, err := chain.New(chain.Config{Name: "c", Endpoints: []string{"http://h"}}); err == nil {
		t.Error("a chain without an id was taken")
	}
}

func TestHead(t *testing.T) {
	node := chaintest.Start(t)
	cfg := chaintest.Config(node.URL)
	cfg.Confirmations = 1000 // which the newest block has nothing to do with
	c := newClient(t, cfg)
	node.SetTime(4_000_000_000)
	number, time := node.Head()
	got, err := c.Head(t.Context())
	if err != nil || got.Number != number || got.Time != time || time != 4_000_000_000 || got.Hash == (policy.Hash{}) {
		t.Errorf("Head = %+v, %v; want block %d of %d", got, err, number, time)
	}
}

func TestCanonical(t *testing.T) {
	node := chaintest.Start(t)
	c := newClient(t, chaintest.Config(node.URL))
	snapshot := node.Snapshot()
	node.Mine(2)
	b, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Canonical(t.Context(), b); err != nil {
		t.Errorf("Canonical of the newest block: %v", err)
	}
	node.Revert(snapshot)
	if err := c.Canonical(t.Context(), b); !errors.Is(err, chain.ErrReorg) || !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("Canonical of a block that is gone: %v, want ErrReorg, which may pass", err)
	}
	node.Mine(3)
	if err := c.Canonical(t.Context(), b); !errors.Is(err, chain.ErrReorg) {
		t.Errorf("Canonical of a block that was replaced: %v, want ErrReorg", err)
	}
}

// A block that is not the one asked for.
func TestOtherBlock(t *testing.T) {
	node := chaintest.Start(t)
	proxy := chaintest.NewProxy(t, node.URL)
	c := newClient(t, chaintest.Config(proxy.URL))
	b, err := c.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	proxy.Rewrite(func(m *chaintest.Message) {
		if m.Method == "eth_getBlockByNumber" {
			m.Result = replace(t, m.Result, "number", "0x0")
		}
	})
	if err := c.Canonical(t.Context(), b); !errors.Is(err, chain.ErrGarbled) {
		t.Errorf("Canonical: %v, want ErrGarbled", err)
	}
}

// The chain forks after the state is read and before the block is looked at again: what
// was read is thrown away, and read again from the blocks that are there now.
func TestReorgWhileReading(t *testing.T) {
	for name, config := range map[string]func(chain.Config) chain.Config{
		"multicall": func(c chain.Config) chain.Config { return c },
		"batch":     noMulticall,
	} {
		t.Run(name, func(t *testing.T) {
			node := chaintest.Start(t)
			account, spec := node.NewAccount(), sampleSpec()
			snapshot := node.Snapshot()
			node.CreateSession(account, spec)
			proxy := chaintest.NewProxy(t, node.URL)
			c := newClient(t, config(chaintest.Config(proxy.URL)))
			forks := 0
			proxy.Rewrite(func(m *chaintest.Message) {
				if m.Method != "eth_getTransactionCount" || forks > 0 {
					return
				}
				forks++
				node.Revert(snapshot)
				node.Mine(3)
			})
			got, err := c.Snapshot(t.Context(), account, spec)
			if err != nil {
				t.Fatal(err)
			}
			if forks != 1 || got.Status != chain.NotInitialized || got.Nonce != 0 {
				t.Errorf("after %d forks: status %v and nonce %d of the fork that is gone", forks, got.Status, got.Nonce)
			}
		})
	}
}

// A chain that never stands still is no answer.
func TestReorgAlways(t *testing.T) {
	node := chaintest.Start(t)
	proxy := chaintest.NewProxy(t, node.URL)
	c := newClient(t, chaintest.Config(proxy.URL))
	blocks := byte(0)
	proxy.Rewrite(func(m *chaintest.Message) {
		if m.Method == "eth_getBlockByNumber" {
			blocks++
			m.Result = replace(t, m.Result, "hash", policy.Hash{31: blocks})
		}
	})
	_, err := c.SessionStatus(t.Context(), policy.Address{1}, policy.Hash{2})
	if !errors.Is(err, chain.ErrReorg) {
		t.Errorf("SessionStatus: %v, want ErrReorg", err)
	}
}

// replace changes one member of a JSON object; nil removes it.
func replace(t *testing.T, object json.RawMessage, key string, value any) json.RawMessage {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal(object, &members); err != nil {
		t.Errorf("%s: %v", object, err)
		return object
	}
	if members[key] = value; value == nil {
		delete(members, key)
	}
	out, err := json.Marshal(members)
	if err != nil {
		t.Error(err)
	}
	return out
}
