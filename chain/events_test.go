package chain_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

func TestFindSession(t *testing.T) {
	node := chaintest.Start(t)
	account, other, spec := node.NewAccount(), node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	at, _ := node.Head()
	another := sampleSpec()
	another.ExpiresAt = num(1 << 40)
	node.CreateSession(account, another)
	node.CreateSession(other, another)
	node.Mine(200)
	proxy := chaintest.NewProxy(t, node.URL)
	cfg := chaintest.Config(proxy.URL)
	cfg.LogRange = 40 // so that it is several ranges away
	c := newClient(t, cfg)

	got, event, err := c.FindCreated(t.Context(), account, spec.Hash())
	if diff := cmp.Diff(spec, got); diff != "" || err != nil || event.Block != at || event.Transaction == (policy.Hash{}) {
		t.Errorf("FindCreated: block %d, want %d, %v (-want +got):\n%s", event.Block, at, err, diff)
	}
	if n := proxy.Calls("eth_getLogs"); n != 6 {
		t.Errorf("%d ranges were looked at, want 6", n)
	}
	if got, err := c.FindSession(t.Context(), other, spec.Hash()); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("FindSession of another account = %v, %v; want ErrNotFound", got, err)
	}
	if got, err := c.FindSession(t.Context(), account, policy.Hash{1}); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("FindSession of another hash = %v, %v; want ErrNotFound", got, err)
	}
	cfg.FirstBlock = at + 1
	if got, err := newClient(t, cfg).FindSession(t.Context(), account, spec.Hash()); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("FindSession after its block = %v, %v; want ErrNotFound", got, err)
	}
	cfg.FirstBlock = at
	if _, err := newClient(t, cfg).FindSession(t.Context(), account, spec.Hash()); err != nil {
		t.Errorf("FindSession from its block on: %v", err)
	}

	if e, err := c.FindRevoked(t.Context(), account, spec.Hash()); !errors.Is(err, chain.ErrNotFound) {
		t.Errorf("FindRevoked of an open session = %+v, %v; want ErrNotFound", e, err)
	}
	node.Revoke(account, another.Hash(), spec.Hash())
	at, _ = node.Head()
	if e, err := c.FindRevoked(t.Context(), account, spec.Hash()); err != nil || e.Block != at {
		t.Errorf("FindRevoked = %+v, %v; want block %d", e, err, at)
	}
}

// A node that allows fewer blocks than are asked for is asked for fewer.
func TestLogRangeRefused(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	node.Mine(100)
	proxy := chaintest.NewProxy(t, node.URL)
	allowed := uint64(30)
	proxy.Rewrite(func(m *chaintest.Message) {
		if m.Method != "eth_getLogs" {
			return
		}
		var filter struct{ FromBlock, ToBlock hexNumber }
		if err := json.Unmarshal(m.Params[0], &filter); err != nil {
			t.Error(err)
		}
		if uint64(filter.ToBlock-filter.FromBlock)+1 > allowed {
			m.Refuse(-32602)
		}
	})
	c := newClient(t, chaintest.Config(proxy.URL))
	if _, err := c.FindSession(t.Context(), account, spec.Hash()); err != nil {
		t.Errorf("FindSession on a node that allows %d blocks: %v", allowed, err)
	}
	allowed = 0
	if _, err := c.FindSession(t.Context(), account, spec.Hash()); !errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("FindSession on a node that allows none: %v, want ErrUnavailable", err)
	}
}

type hexNumber uint64

func (n *hexNumber) UnmarshalText(text []byte) error {
	*n = 0
	for _, c := range text[2:] {
		digit := hexNumber(c - '0')
		if c >= 'a' {
			digit = hexNumber(c-'a') + 10
		}
		*n = *n<<4 | digit
	}
	return nil
}

// A search that meets a fault goes on where it was.
func TestFindSessionPatience(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	node.Mine(100)
	proxy := chaintest.NewProxy(t, node.URL)
	cfg := chaintest.Config(proxy.URL)
	cfg.LogRange = 20
	asked := 0
	proxy.Rewrite(func(m *chaintest.Message) {
		if m.Method != "eth_getLogs" {
			return
		}
		switch asked++; asked {
		case 2:
			m.Refuse(-32005)
		case 4:
			m.Result = json.RawMessage("null")
		}
	})
	if _, err := newClient(t, cfg).FindSession(t.Context(), account, spec.Hash()); err != nil {
		t.Errorf("FindSession: %v", err)
	}
	if asked != 6+2 {
		t.Errorf("%d ranges were asked for, want 6, and 2 of them again", asked)
	}
}

// Whatever a node makes of the event, it is the session asked for or an error.
func TestFindSessionLies(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	lie := *spec
	lie.Signer = policy.Address{0xbd}
	garbled := spec.EncodeABI()
	garbled[31] = 0x40
	topics := func(m map[string]any) []any { return m["topics"].([]any) }
	for name, change := range map[string]func(log map[string]any){
		"another signer":     func(l map[string]any) { l["data"] = hexOf(lie.EncodeABI()) },
		"garbled spec":       func(l map[string]any) { l["data"] = hexOf(garbled) },
		"short spec":         func(l map[string]any) { l["data"] = hexOf(spec.EncodeABI()[:64]) },
		"no data":            func(l map[string]any) { delete(l, "data") },
		"another contract":   func(l map[string]any) { l["address"] = shop.String() },
		"no contract":        func(l map[string]any) { delete(l, "address") },
		"another account":    func(l map[string]any) { topics(l)[1] = policy.Hash{1}.String() },
		"a topic too few":    func(l map[string]any) { l["topics"] = topics(l)[:2] },
		"a topic too many":   func(l map[string]any) { l["topics"] = append(topics(l), policy.Hash{1}.String()) },
		"another block":      func(l map[string]any) { l["blockNumber"] = "0xffffff" },
		"no transaction":     func(l map[string]any) { delete(l, "transactionHash") },
		"a block of no type": func(l map[string]any) { l["blockNumber"] = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			proxy := chaintest.NewProxy(t, node.URL)
			proxy.Rewrite(func(m *chaintest.Message) {
				if m.Method != "eth_getLogs" {
					return
				}
				var logs []map[string]any
				if err := json.Unmarshal(m.Result, &logs); err != nil || len(logs) != 1 {
					t.Errorf("%d logs, %v", len(logs), err)
					return
				}
				change(logs[0])
				m.Result, _ = json.Marshal(logs)
			})
			got, err := newClient(t, chaintest.Config(proxy.URL)).FindSession(t.Context(), account, spec.Hash())
			if !errors.Is(err, chain.ErrGarbled) || got != nil {
				t.Errorf("FindSession = %v, %v; want ErrGarbled", got, err)
			}
		})
	}
}
