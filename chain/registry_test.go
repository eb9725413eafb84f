package chain_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/internal/config"
	"github.com/keyward/keyward/policy"
)

// registryQueries are one of each kind, and for each its neighbors, which differ in one field.
func registryQueries() []policy.RegistryQuery {
	return []policy.RegistryQuery{
		{Kind: policy.CallPolicy, Target: shop, Selector: buy},
		{Kind: policy.TransferPolicy, Target: shop},
		{Kind: policy.ApprovalTarget, Target: shop, Spender: friend},
		{Kind: policy.CallPolicy, Target: shop, Selector: sell},
		{Kind: policy.CallPolicy, Target: friend, Selector: buy},
		{Kind: policy.TransferPolicy, Target: friend},
		{Kind: policy.ApprovalTarget, Target: friend, Spender: shop},
		{Kind: policy.ApprovalTarget, Target: shop, Spender: shop},
	}
}

func TestRegistryStatuses(t *testing.T) {
	node := chaintest.Start(t)
	queries := registryQueries()
	want := make([]policy.RegistryStatus, len(queries))
	for i, status := range []policy.RegistryStatus{policy.Allowed, policy.Blocked, policy.Allowed} {
		node.SetRegistry(queries[i], status)
		want[i] = status
	}
	// More than one batch holds.
	many, wantMany := slices.Repeat(queries, 20), slices.Repeat(want, 20)
	for name, cfg := range map[string]chain.Config{
		"multicall": chaintest.Config(node.URL),
		"batch":     noMulticall(chaintest.Config(node.URL)),
	} {
		c := newClient(t, cfg)
		got, err := c.RegistryStatuses(t.Context(), queries)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
		got, err = c.RegistryStatuses(t.Context(), many)
		if diff := cmp.Diff(wantMany, got); diff != "" || err != nil {
			t.Errorf("%s, many: %v (-want +got):\n%s", name, err, diff)
		}
		if got, err := c.RegistryStatuses(t.Context(), nil); len(got) != 0 || err != nil {
			t.Errorf("%s: no queries: %v, %v", name, got, err)
		}
		if _, err := c.RegistryStatuses(t.Context(), []policy.RegistryQuery{{Kind: 3}}); err == nil {
			t.Errorf("%s: a query of no kind was answered", name)
		}
	}
}

// Where there is no registry, that is no answer and not Unset.
func TestRegistryAbsent(t *testing.T) {
	node := chaintest.Start(t)
	query := registryQueries()[:1]
	for name, cfg := range map[string]chain.Config{
		"multicall": chaintest.Config(node.URL),
		"batch":     noMulticall(chaintest.Config(node.URL)),
	} {
		cfg.Registry = config.RegistryOfSDK // where nothing is yet
		if got, err := newClient(t, cfg).RegistryStatuses(t.Context(), query); !errors.Is(err, chain.ErrGarbled) ||
			!strings.Contains(err.Error(), "nothing from "+cfg.Registry.String()) {
			t.Errorf("%s: no contract: %v, %v; want ErrGarbled that says so", name, got, err)
		}
		cfg.Registry = cfg.Validator // a contract without the getters
		if got, err := newClient(t, cfg).RegistryStatuses(t.Context(), query); !errors.Is(err, chain.ErrReverted) {
			t.Errorf("%s: another contract: %v, %v; want ErrReverted", name, got, err)
		}
		cfg.Registry = policy.Address{}
		if got, err := newClient(t, cfg).RegistryStatuses(t.Context(), query); !errors.Is(err, chain.ErrNoRegistry) {
			t.Errorf("%s: none configured: %v, %v; want ErrNoRegistry", name, got, err)
		}
	}
}

func TestRegistryCache(t *testing.T) {
	node := chaintest.Start(t)
	proxy := chaintest.NewProxy(t, node.URL)
	c := newClient(t, chaintest.Config(proxy.URL))
	queries := registryQueries()[:2]
	var cache chain.RegistryCache
	if a, ok := cache.Get(queries[0]); ok {
		t.Fatalf("an empty cache says %+v", a)
	}
	now := time.Unix(1_800_000_000, 0)
	refresh := func(at time.Time) error { return cache.Refresh(t.Context(), c, queries, at) }
	want := func(status policy.RegistryStatus, read time.Time) {
		t.Helper()
		a, ok := cache.Get(queries[0])
		if !ok || a.Status != status || !a.Read.Equal(read) {
			t.Errorf("cached: %+v, %v; want %v of %v", a, ok, status, read)
		}
	}
	node.SetRegistry(queries[0], policy.Allowed)
	if err := refresh(now); err != nil {
		t.Fatal(err)
	}
	want(policy.Allowed, now)
	behind := node.Snapshot()

	// What can't be read leaves the answer as old as it is.
	node.SetRegistry(queries[0], policy.Blocked)
	proxy.Set(chaintest.Gone)
	if err := refresh(now.Add(time.Minute)); !errors.Is(err, chain.ErrUnavailable) {
		t.Fatalf("Refresh without a node: %v, want ErrUnavailable", err)
	}
	want(policy.Allowed, now)

	proxy.Set(chaintest.None)
	if err := refresh(now.Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	want(policy.Blocked, now.Add(2*time.Minute))

	// A node that lags does not bring back what was.
	node.Revert(behind)
	if err := refresh(now.Add(3 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	want(policy.Blocked, now.Add(2*time.Minute))

	cache.Keep(queries[1:])
	if a, ok := cache.Get(queries[0]); ok {
		t.Errorf("a forgotten answer is kept: %+v", a)
	}
	if _, ok := cache.Get(queries[1]); !ok {
		t.Error("an answer that was to be kept is gone")
	}
}

func TestCompareRegistries(t *testing.T) {
	node := chaintest.Start(t)
	query := registryQueries()[1]
	node.SetRegistry(query, policy.Allowed)
	at, _ := node.Head()
	node.Mine(100)
	cfg := chaintest.Config(node.URL)
	cfg.LogRange = 50
	c := newClient(t, cfg)
	empty := policy.Address{0xee}
	node.PutRegistry(empty)
	addresses := []policy.Address{config.RegistryOfDocs, config.RegistryOfSDK, empty, cfg.Validator}
	reports, err := c.CompareRegistries(t.Context(), addresses, []policy.RegistryQuery{query})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		code, live, populated bool
		last                  uint64
		statuses              []policy.RegistryStatus
		err                   error
	}{
		{true, true, true, at, []policy.RegistryStatus{policy.Allowed}, nil},
		{false, false, false, 0, nil, nil},
		{true, true, false, 0, []policy.RegistryStatus{policy.Unset}, nil},
		{true, false, false, 0, nil, chain.ErrReverted},
	} {
		r := reports[i]
		if r.Address != addresses[i] || r.Code != want.code || r.Live() != want.live || r.Populated() != want.populated ||
			r.LastChange != want.last || !slices.Equal(r.Statuses, want.statuses) || !errors.Is(r.Err, want.err) {
			t.Errorf("%v: %+v, want %+v", addresses[i], r, want)
		}
	}
	// Populated also without a question that fits.
	reports, err = c.CompareRegistries(t.Context(), addresses[:1], nil)
	if err != nil || !reports[0].Populated() {
		t.Errorf("without queries: %+v, %v; want populated", reports, err)
	}
	cfg.Endpoints = []string{"http://127.0.0.1:1"}
	if reports, err := newClient(t, cfg).CompareRegistries(t.Context(), addresses, nil); !errors.Is(err,
		chain.ErrUnavailable) {
		t.Errorf("without a node: %+v, %v; want ErrUnavailable", reports, err)
	}
}
