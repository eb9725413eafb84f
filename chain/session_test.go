package chain_test

import (
	"encoding/binary"
	"errors"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

var (
	shop     = policy.Address{0x50, 19: 1}
	friend   = policy.Address{0xf0, 19: 2}
	buy      = policy.Selector{1, 2, 3, 4}
	sell     = policy.Selector{5, 6, 7, 8}
	farAhead = uint64(4_000_000_000)
)

const period = 1000 // seconds

func lifetime(limit uint64) policy.UsageLimit {
	return policy.UsageLimit{LimitType: policy.Lifetime, Limit: num(limit)}
}

func allowance(limit uint64) policy.UsageLimit {
	return policy.UsageLimit{LimitType: policy.Allowance, Limit: num(limit), Period: num(period)}
}

// sampleSpec has every kind of limit, an unlimited one between limited ones, and policies that never decide.
func sampleSpec() *policy.Spec {
	return &policy.Spec{
		Signer: policy.Address{19: 9}, ExpiresAt: num(farAhead), FeeLimit: lifetime(1_000_000),
		CallPolicies: []policy.CallSpec{
			{Target: shop, Selector: buy, MaxValuePerUse: num(50), ValueLimit: allowance(100), Constraints: []policy.Constraint{
				{Condition: policy.Unconstrained, Index: 0},
				{Condition: policy.LessOrEqual, Index: 2, RefValue: policy.Hash{31: 200}, Limit: lifetime(500)},
				{Condition: policy.NotEqual, Index: 1, Limit: allowance(40)},
			}},
			{Target: shop, Selector: sell, MaxValuePerUse: num(0)},
			{Target: shop, Selector: buy, ValueLimit: allowance(777), Constraints: []policy.Constraint{
				{Index: 1, Limit: lifetime(999)},
			}},
		},
		TransferPolicies: []policy.TransferSpec{
			{Target: friend, MaxValuePerUse: num(30), ValueLimit: lifetime(90)},
			{Target: shop, MaxValuePerUse: num(30)},
			{Target: friend, MaxValuePerUse: num(1), ValueLimit: lifetime(91)},
		},
	}
}

// buying is calldata of buy with three words.
func buying(words ...uint64) []byte {
	b := buy[:]
	for _, w := range words {
		b = append(b, make([]byte, 24)...)
		b = binary.BigEndian.AppendUint64(b, w)
	}
	return b
}

// sampleUse counts on every tracker of sampleSpec that a call reaches.
func sampleUse() chaintest.Use {
	return chaintest.Use{To: shop, Value: big.NewInt(7), Data: buying(1, 11, 130), Fee: big.NewInt(1234)}
}

// counted is what sampleSpec has counted in the period of that time.
func counted(time, fee, value, word2, word1, transfer uint64) map[policy.Tracker]uint256.Int {
	id := time / period
	return map[policy.Tracker]uint256.Int{
		{Kind: policy.FeeTracker}: num(fee),
		{Kind: policy.CallValueTracker, Target: shop, Selector: buy, Allowance: true, PeriodID: id}:              num(value),
		{Kind: policy.CallParamTracker, Target: shop, Selector: buy, Position: 1}:                                num(word2),
		{Kind: policy.CallParamTracker, Target: shop, Selector: buy, Position: 2, Allowance: true, PeriodID: id}: num(word1),
		{Kind: policy.TransferValueTracker, Target: friend}:                                                      num(transfer),
	}
}

// A session from before it is created to after it is revoked, on a node, read in both ways.
func TestSnapshot(t *testing.T) {
	node := chaintest.Start(t)
	clients := map[string]*chain.Client{
		"multicall": newClient(t, chaintest.Config(node.URL)),
		"batch":     newClient(t, noMulticall(chaintest.Config(node.URL))),
	}
	account, spec := node.NewAccount(), sampleSpec()
	node.SetNonce(account, 41)
	look := func(what string, status chain.SessionStatus, nonce uint64, used func(time uint64) map[policy.Tracker]uint256.Int) {
		t.Helper()
		number, time := node.Head()
		for name, c := range clients {
			got, err := c.Snapshot(t.Context(), account, spec)
			if err != nil {
				t.Fatalf("%s, %s: %v", what, name, err)
			}
			if got.Status != status || got.Nonce != nonce {
				t.Errorf("%s, %s: %v with nonce %d, want %v with %d", what, name, got.Status, got.Nonce, status, nonce)
			}
			if got.Account != account || got.Session != spec.Hash() || got.Block.Number != number || got.Block.Time != time ||
				got.Time < time {
				t.Errorf("%s, %s: of %v, %v, time %d, block %+v; the node is at %d of %d", what, name,
					got.Account, got.Session, got.Time, got.Block, number, time)
			}
			if diff := cmp.Diff(used(got.Time), got.Used); diff != "" {
				t.Errorf("%s, %s: used (-want +got):\n%s", what, name, diff)
			}
			for tracker, used := range got.Used {
				remaining := got.Remaining[tracker]
				if sum := new(uint256.Int).Add(&used, &remaining); !sum.Eq(limitOf(spec, tracker)) {
					t.Errorf("%s, %s: %v: %s used and %s remaining", what, name, tracker, used.Dec(), remaining.Dec())
				}
			}
		}
	}
	nothing := func(time uint64) map[policy.Tracker]uint256.Int { return counted(time, 0, 0, 0, 0, 0) }
	look("before", chain.NotInitialized, 41, nothing)

	node.CreateSession(account, spec)
	look("created", chain.Active, 42, nothing)

	_, now := node.Head()
	node.SetTime(now - now%period + period) // far from a period's end
	for _, use := range []chaintest.Use{
		sampleUse(), sampleUse(),
		{To: friend, Value: big.NewInt(5), Fee: big.NewInt(9), Paymaster: true},
	} {
		if err := node.Use(account, spec, use); err != nil {
			t.Fatal(err)
		}
	}
	if err := node.Use(account, spec, chaintest.Use{To: friend, Value: big.NewInt(31)}); err == nil {
		t.Fatal("the node counted a use beyond maxValuePerUse")
	}
	look("used", chain.Active, 45, func(time uint64) map[policy.Tracker]uint256.Int {
		return counted(time, 2468, 14, 260, 22, 5)
	})

	_, now = node.Head()
	node.SetTime(now + period)
	look("in the next period", chain.Active, 45, func(time uint64) map[policy.Tracker]uint256.Int {
		return counted(time, 2468, 0, 260, 0, 5)
	})

	node.Revoke(account, spec.Hash())
	look("revoked", chain.Closed, 46, func(time uint64) map[policy.Tracker]uint256.Int {
		return counted(time, 2468, 0, 260, 0, 5)
	})
}

// limitOf is the limit that a tracker of sampleSpec is held to.
func limitOf(spec *policy.Spec, t policy.Tracker) *uint256.Int {
	p := &spec.CallPolicies[0]
	switch t.Kind {
	case policy.FeeTracker:
		return &spec.FeeLimit.Limit
	case policy.CallValueTracker:
		return &p.ValueLimit.Limit
	case policy.CallParamTracker:
		return &p.Constraints[t.Position].Limit.Limit
	}
	return &spec.TransferPolicies[0].ValueLimit.Limit
}

// The stored status never says Expired; the block's time does, with either validator.
func TestExpired(t *testing.T) {
	node := chaintest.Start(t)
	c := newClient(t, chaintest.Config(node.URL))
	account := node.NewAccount()
	_, now := node.Head()
	for i, keeps := range []bool{false, true} {
		end := now + 10_000*uint64(i+1)
		node.SetKeepsExpiry(keeps)
		spec := sampleSpec()
		spec.ExpiresAt = num(end)
		node.CreateSession(account, spec)
		for _, tt := range []struct {
			time uint64
			want chain.SessionStatus
		}{{end - 500, chain.Active}, {end, chain.Active}, {end + 1, chain.Expired}} {
			node.SetTime(tt.time)
			got, err := c.Snapshot(t.Context(), account, spec)
			if err != nil || got.Status != tt.want {
				t.Errorf("at %d of %d, keeping expiresAt %v: %v, %v; want %v", tt.time, end, keeps, got, err, tt.want)
			}
			stored, err := c.SessionStatus(t.Context(), account, spec.Hash())
			if err != nil || stored != chain.Active {
				t.Errorf("SessionStatus = %v, %v; want Active", stored, err)
			}
		}
	}
}

// An allowance without a period makes sessionState divide by zero. The rest is still known.
func TestStateReverts(t *testing.T) {
	node := chaintest.Start(t)
	account, spec := node.NewAccount(), sampleSpec()
	spec.TransferPolicies[0].ValueLimit = policy.UsageLimit{LimitType: policy.Allowance, Limit: num(1)}
	node.CreateSession(account, spec)
	for _, cfg := range []chain.Config{chaintest.Config(node.URL), noMulticall(chaintest.Config(node.URL))} {
		got, err := newClient(t, cfg).Snapshot(t.Context(), account, spec)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != chain.Active || got.Nonce != 1 || got.Used != nil || got.Remaining != nil {
			t.Errorf("Snapshot = %+v, want Active without usage", got)
		}
	}
}

// A second policy for what a first one decides has a limit below what the first has counted: the rest
// of that limit is negative, which reverts.
func TestStateRevertsLater(t *testing.T) {
	node := chaintest.Start(t)
	c := newClient(t, chaintest.Config(node.URL))
	account, spec := node.NewAccount(), sampleSpec()
	spec.TransferPolicies[2].ValueLimit = lifetime(20)
	node.CreateSession(account, spec)
	for _, tt := range []struct {
		more    int64
		reverts bool
	}{{20, false}, {1, true}} {
		if err := node.Use(account, spec, chaintest.Use{To: friend, Value: big.NewInt(tt.more)}); err != nil {
			t.Fatal(err)
		}
		got, err := c.Snapshot(t.Context(), account, spec)
		if err != nil || got.Status != chain.Active || (got.Used == nil) != tt.reverts {
			t.Errorf("after %d more: %+v, %v; want usage %v", tt.more, got, err, !tt.reverts)
		}
	}
}

// Only blocks with enough confirmations count, for everything.
func TestConfirmations(t *testing.T) {
	node := chaintest.Start(t)
	cfg := chaintest.Config(node.URL)
	cfg.Confirmations = 2
	c := newClient(t, cfg)
	account, spec := node.NewAccount(), sampleSpec()
	node.Mine(3)
	node.CreateSession(account, spec)
	for i, want := range []chain.SessionStatus{chain.NotInitialized, chain.NotInitialized, chain.Active} {
		got, err := c.Snapshot(t.Context(), account, spec)
		if err != nil {
			t.Fatal(err)
		}
		if got.Status != want || (got.Nonce == 1) != (want == chain.Active) {
			t.Errorf("after %d more blocks: %v with nonce %d, want %v", i, got.Status, got.Nonce, want)
		}
		nonce, block, err := c.Nonce(t.Context(), account)
		if err != nil || nonce != got.Nonce || block != got.Block {
			t.Errorf("Nonce = %d, %+v, %v; want as in %+v", nonce, block, err, got)
		}
		node.Mine(1)
	}
	cfg.Confirmations = 1_000_000
	if _, err := newClient(t, cfg).SessionStatus(t.Context(), account, spec.Hash()); !errors.Is(err,
		chain.ErrUnavailable) {
		t.Errorf("with more confirmations than blocks: %v, want ErrUnavailable", err)
	}
}

func TestNoValidator(t *testing.T) {
	cfg := chaintest.Config("http://127.0.0.1:1")
	cfg.Validator = policy.Address{}
	c := newClient(t, cfg)
	_, err1 := c.Snapshot(t.Context(), policy.Address{}, sampleSpec())
	_, err2 := c.SessionStatus(t.Context(), policy.Address{}, policy.Hash{})
	_, err3 := c.FindSession(t.Context(), policy.Address{}, policy.Hash{})
	for _, err := range []error{err1, err2, err3} {
		if !errors.Is(err, chain.ErrNoValidator) {
			t.Errorf("without a validator: %v, want ErrNoValidator", err)
		}
	}
}
