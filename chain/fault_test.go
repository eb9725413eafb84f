package chain_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/internal/syncbuf"
	"github.com/keyward/keyward/policy"
)

func hexOf(b []byte) string { return "0x" + hex.EncodeToString(b) }

// faults are what a node can do wrong to every request, and what the client makes of it.
var faults = []struct {
	name  string
	fault chaintest.Fault
	want  error
	once  bool // not tried again: it does not pass by itself
}{
	{"slow", chaintest.Slow, chain.ErrUnavailable, false},
	{"wrong chain", chaintest.WrongChain, chain.ErrWrongChain, true},
	{"garbled", chaintest.Garbled, chain.ErrGarbled, false},
	{"truncated", chaintest.Truncated, chain.ErrGarbled, false},
	{"huge", chaintest.Huge, chain.ErrGarbled, false},
	{"HTTP 429", chaintest.TooManyRequests, chain.ErrUnavailable, false},
	{"rate limit for the batch", chaintest.LimitExceeded, chain.ErrUnavailable, false},
	{"rate limit for the calls", chaintest.CallsRefused, chain.ErrUnavailable, false},
	{"short batch", chaintest.Short, chain.ErrGarbled, false},
	{"HTTP 503", chaintest.ServerError, chain.ErrUnavailable, false},
	{"gone", chaintest.Gone, chain.ErrUnavailable, false},
}

// operations are all that a client can be asked.
func operations(account policy.Address, spec *policy.Spec) map[string]func(context.Context, *chain.Client) error {
	return map[string]func(context.Context, *chain.Client) error{
		"Head":      func(ctx context.Context, c *chain.Client) error { _, err := c.Head(ctx); return err },
		"Canonical": func(ctx context.Context, c *chain.Client) error { return c.Canonical(ctx, chain.Block{Number: 1}) },
		"RegistryStatuses": func(ctx context.Context, c *chain.Client) error {
			_, err := c.RegistryStatuses(ctx, registryQueries())
			return err
		},
		"SessionStatus": func(ctx context.Context, c *chain.Client) error {
			_, err := c.SessionStatus(ctx, account, spec.Hash())
			return err
		},
		"Nonce":    func(ctx context.Context, c *chain.Client) error { _, _, err := c.Nonce(ctx, account); return err },
		"Snapshot": func(ctx context.Context, c *chain.Client) error { _, err := c.Snapshot(ctx, account, spec); return err },
		"FindSession": func(ctx context.Context, c *chain.Client) error {
			_, err := c.FindSession(ctx, account, spec.Hash())
			return err
		},
		"FindRevoked": func(ctx context.Context, c *chain.Client) error {
			_, err := c.FindRevoked(ctx, account, spec.Hash())
			return err
		},
	}
}

// One node, which does wrong: every operation fails with the sentinel of what is wrong, after
// a bounded number of tries; and works again when the node does.
func TestFaults(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			for name, operate := range operations(account, spec) {
				proxy := chaintest.NewProxy(t, node.URL)
				cfg := chaintest.Config(proxy.URL)
				if tt.fault == chaintest.Slow {
					cfg.Timeout = 20 * time.Millisecond
				}
				cfg.MaxResponse = 1 << 20
				c := newClient(t, cfg)
				proxy.Set(tt.fault)
				err := operate(t.Context(), c)
				if !errors.Is(err, tt.want) {
					t.Errorf("%s: %v, want %v", name, err, tt.want)
				}
				for _, other := range []error{chain.ErrUnavailable, chain.ErrWrongChain, chain.ErrGarbled, chain.ErrNotFound, chain.ErrReverted} {
					if other != tt.want && errors.Is(err, other) {
						t.Errorf("%s: %v is %v too", name, err, other)
					}
				}
				want := 3
				if tt.once {
					want = 1
				}
				if n := proxy.Calls("eth_chainId"); n != want {
					t.Errorf("%s: %d tries, want %d", name, n, want)
				}
				if strings.Contains(err.Error(), "0123456789abcdef") {
					t.Errorf("%s: the error shows what the node said: %v", name, err)
				}
				if got := c.Endpoints(); len(got) != 1 || !errors.Is(got[0].Err, tt.want) {
					t.Errorf("%s: Endpoints() = %+v, want %v", name, got, tt.want)
				}
				if name == "Canonical" || name == "FindRevoked" || tt.fault == chaintest.Slow {
					continue // they fail on a good node too, or might in so short a time
				}
				proxy.Set(chaintest.None)
				if err := operate(t.Context(), c); err != nil {
					t.Errorf("%s: after the fault: %v", name, err)
				}
				if got := c.Endpoints(); got[0].Err != nil {
					t.Errorf("%s: after the fault: Endpoints() = %+v", name, got)
				}
			}
		})
	}
}

// Two nodes, the first of which does wrong: the second one's answer is taken, and the
// first is left alone for a while.
func TestFailover(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	for _, tt := range faults {
		t.Run(tt.name, func(t *testing.T) {
			first, second := chaintest.NewProxy(t, node.URL), chaintest.NewProxy(t, node.URL)
			cfg := chaintest.Config(first.URL, second.URL)
			if tt.fault == chaintest.Slow {
				cfg.Timeout = 2 * time.Second
			}
			cfg.MaxResponse = 1 << 20
			c := newClient(t, cfg)
			first.Set(tt.fault)
			for range 2 {
				got, err := c.Snapshot(t.Context(), account, spec)
				if err != nil || got.Status != chain.Active || got.Nonce != 1 {
					t.Fatalf("Snapshot = %+v, %v; want the second node's", got, err)
				}
			}
			if n := first.Calls("eth_chainId"); n != 1 {
				t.Errorf("the first node was asked %d times, want once", n)
			}
			// When the second fails too, the first is asked again, for all that.
			first.Set(chaintest.None)
			second.Set(chaintest.Gone)
			if _, err := c.Snapshot(t.Context(), account, spec); err != nil {
				t.Errorf("Snapshot after the first node came back: %v", err)
			}
		})
	}
}

// An endpoint that changes to another chain between two requests of one reading: what it
// said before is not used either.
func TestChainChangesWhileReading(t *testing.T) {
	node, other := chaintest.Start(t), chaintest.StartChain(t, 999)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	for _, after := range []string{"eth_getBlockByNumber", "eth_getTransactionCount"} {
		proxy := chaintest.NewProxy(t, node.URL)
		proxy.Rewrite(func(m *chaintest.Message) {
			if m.Method == after {
				proxy.Forward(other.URL) // as a load balancer might, or a new address in DNS
			}
		})
		c := newClient(t, chaintest.Config(proxy.URL))
		if got, err := c.Snapshot(t.Context(), account, spec); !errors.Is(err, chain.ErrWrongChain) || got != nil {
			t.Errorf("after %s: Snapshot = %+v, %v; want ErrWrongChain", after, got, err)
		}
	}
}

// No lie of a node of the wrong chain is believed, even where all else looks right.
func TestWrongChainTellsNothing(t *testing.T) {
	node := chaintest.StartChain(t, 11124)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	c := newClient(t, chaintest.Config(node.URL))
	for name, operate := range operations(account, spec) {
		err := operate(t.Context(), c)
		if !errors.Is(err, chain.ErrWrongChain) || errors.Is(err, chain.ErrUnavailable) {
			t.Errorf("%s on another chain: %v, want ErrWrongChain", name, err)
		}
		if !strings.Contains(err.Error(), "its chain id is 11124, want 2741") {
			t.Errorf("%s: the error does not say which chain it is: %v", name, err)
		}
	}
}

// An answer of the wrong form is never a zero.
func TestGarbledAnswers(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	word := func(last byte) string { return hexOf(append(make([]byte, 31), last)) }
	member := func(key string, value any) func(json.RawMessage) json.RawMessage {
		return func(r json.RawMessage) json.RawMessage { return replace(t, r, key, value) }
	}
	is := func(result string) func(json.RawMessage) json.RawMessage {
		return func(json.RawMessage) json.RawMessage { return json.RawMessage(result) }
	}
	quoted := func(s string) func(json.RawMessage) json.RawMessage { return is(`"` + s + `"`) }
	for _, tt := range []struct {
		name, method string
		change       func(json.RawMessage) json.RawMessage
	}{
		{"no chain id", "eth_chainId", is("null")},
		{"chain id as a number", "eth_chainId", is("2741")},
		{"chain id in decimal", "eth_chainId", quoted("2741")},
		{"chain id with zeros before", "eth_chainId", quoted("0x00ab5")},
		{"empty chain id", "eth_chainId", quoted("0x")},
		{"no block", "eth_getBlockByNumber", is("null")},
		{"a block that is none", "eth_getBlockByNumber", is("[]")},
		{"a block without a hash", "eth_getBlockByNumber", member("hash", nil)},
		{"a block with half a hash", "eth_getBlockByNumber", member("hash", "0x1234")},
		{"a block without a number", "eth_getBlockByNumber", member("number", nil)},
		{"a block without a time", "eth_getBlockByNumber", member("timestamp", nil)},
		{"a time beyond 64 bits", "eth_getBlockByNumber", member("timestamp", "0x10000000000000000")},
		{"no nonce", "eth_getTransactionCount", is("null")},
		{"empty nonce", "eth_getTransactionCount", quoted("0x")},
		{"a nonce that is none", "eth_getTransactionCount", is("{}")},
		{"no return value", "eth_call", is("null")},
		{"an empty return value", "eth_call", quoted("0x")},
		{"half a word", "eth_call", quoted(word(1)[:34])},
		{"a word too many", "eth_call", quoted(word(1) + word(0)[2:])},
		{"an unknown status", "eth_call", quoted(word(4))},
		{"a status beyond a byte", "eth_call", quoted("0x01" + word(1)[4:])},
		{"no hex", "eth_call", quoted("0xzz")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proxy := chaintest.NewProxy(t, node.URL)
			proxy.Rewrite(func(m *chaintest.Message) {
				if m.Method == tt.method {
					m.Result = tt.change(m.Result)
				}
			})
			for name, cfg := range map[string]chain.Config{
				"multicall": chaintest.Config(proxy.URL), "batch": noMulticall(chaintest.Config(proxy.URL)),
			} {
				got, err := newClient(t, cfg).Snapshot(t.Context(), account, spec)
				if !errors.Is(err, chain.ErrGarbled) || got != nil {
					t.Errorf("%s: Snapshot = %+v, %v; want ErrGarbled", name, got, err)
				}
			}
			if tt.method != "eth_call" {
				return
			}
			status, err := newClient(t, noMulticall(chaintest.Config(proxy.URL))).SessionStatus(t.Context(), account, spec.Hash())
			if !errors.Is(err, chain.ErrGarbled) || status != 0 {
				t.Errorf("SessionStatus = %v, %v; want ErrGarbled", status, err)
			}
		})
	}
}

// What is secret in a URL is in no error and no log, whatever goes wrong.
func TestNoCredentials(t *testing.T) {
	const user, password, key, query = "us3r", "passw0rd", "k3y", "t0ken"
	node := chaintest.Start(t)
	var log syncbuf.Buffer
	for _, tt := range faults {
		proxy := chaintest.NewProxy(t, node.URL)
		host := strings.TrimPrefix(proxy.URL, "http://")
		cfg := chaintest.Config("http://" + user + ":" + password + "@" + host + "/" + key + "?q=" + query)
		if tt.fault == chaintest.Slow {
			cfg.Timeout = 20 * time.Millisecond
		}
		cfg.MaxResponse = 1 << 20
		cfg.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		proxy.Set(tt.fault)
		c := newClient(t, cfg)
		_, err := c.Head(t.Context())
		if err == nil || !strings.Contains(err.Error(), host) {
			t.Errorf("%s: %v, want an error that names the host", tt.name, err)
		}
		refused := cfg
		refused.Endpoints = []string{"http://" + user + ":" + password + "@127.0.0.1:1/" + key + "?q=" + query}
		_, err2 := newClient(t, refused).Head(t.Context())
		for _, secret := range []string{user, password, key, query} {
			for _, text := range []string{err.Error(), err2.Error(), c.Endpoints()[0].Endpoint, c.Endpoints()[0].Err.Error(), log.String()} {
				if strings.Contains(text, secret) {
					t.Errorf("%s: %q is in %q", tt.name, secret, text)
				}
			}
		}
	}
	if n := strings.Count(log.String(), "chain endpoint failed"); n < len(faults) {
		t.Errorf("%d failures were logged, want %d or more:\n%s", n, len(faults), log.String())
	}
}

// The bound is on the answer's bytes, and the error says so.
func TestMaxResponse(t *testing.T) {
	node := chaintest.Start(t)
	cfg := chaintest.Config(node.URL)
	cfg.MaxResponse = 300
	_, err := newClient(t, cfg).Head(t.Context())
	if !errors.Is(err, chain.ErrGarbled) || !strings.Contains(err.Error(), "it has more than 300 bytes") {
		t.Errorf("Head: %v, want ErrGarbled for its size", err)
	}
}

// A redirect would take a URL's credentials elsewhere.
func TestRedirect(t *testing.T) {
	node := chaintest.Start(t)
	followed := false
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { followed = true }))
	defer elsewhere.Close()
	redirect := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	defer redirect.Close()
	c := newClient(t, chaintest.Config(redirect.URL, node.URL))
	if _, err := c.Head(t.Context()); err != nil {
		t.Errorf("Head: %v, want the second endpoint's", err)
	}
	if followed {
		t.Error("the redirect was followed")
	}
}

// A caller that gives up is answered at once, with its own reason, and the endpoint is not blamed.
func TestCanceled(t *testing.T) {
	node := chaintest.Start(t)
	proxy := chaintest.NewProxy(t, node.URL)
	proxy.Set(chaintest.Slow)
	c := newClient(t, chaintest.Config(proxy.URL))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := c.Head(ctx)
		done <- err
	}()
	for proxy.Calls("eth_chainId") == 0 {
		time.Sleep(time.Millisecond) // until the request is there
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || errors.Is(err, chain.ErrUnavailable) {
		t.Errorf("Head = %v, want context.Canceled", err)
	}
	if err := c.Endpoints()[0].Err; err != nil {
		t.Errorf("the endpoint is blamed: %v", err)
	}
}

// A client that may make one call in a thousand years makes those of its first burst.
func TestRate(t *testing.T) {
	node := chaintest.Start(t)
	first, second := chaintest.NewProxy(t, node.URL), chaintest.NewProxy(t, node.URL)
	cfg := chaintest.Config(first.URL)
	cfg.Rate = 1e-11
	cfg.Attempts = 1
	c := newClient(t, cfg)
	var err error
	asked := 0
	for ; err == nil && asked < 100; asked++ {
		_, err = c.Head(t.Context())
	}
	if !errors.Is(err, chain.ErrUnavailable) || asked != 26 || first.Calls("eth_chainId") != 25 {
		t.Errorf("after %d questions and %d requests: %v; want 25 of two calls each, then ErrUnavailable",
			asked, first.Calls("eth_chainId"), err)
	}
	// Each endpoint has its own.
	cfg.Endpoints = []string{first.URL, second.URL}
	c = newClient(t, cfg)
	for range 50 {
		if _, err := c.Head(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := second.Calls("eth_chainId"); n != 25 {
		t.Errorf("the second endpoint had %d requests, want 25", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	node.CreateSession(account, spec)
	first := chaintest.NewProxy(t, node.URL)
	c := newClient(t, chaintest.Config(first.URL, node.URL))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 4 {
				if i == 0 {
					first.Set([]chaintest.Fault{chaintest.Gone, chaintest.None}[j%2])
				}
				if s, err := c.Snapshot(t.Context(), account, spec); err != nil || s.Status != chain.Active {
					t.Errorf("Snapshot = %+v, %v", s, err)
				}
			}
		})
	}
	all.Wait()
}
