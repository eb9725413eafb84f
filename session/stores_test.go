package session_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/holiman/uint256"
	"github.com/jackc/pgx/v5"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/pgtest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/shared"
)

// store is a ledger, wherever it decides. Each method returns what a client or an operator would see.
type store interface {
	charge(t *testing.T, g session.Grant) outcome
	finish(t *testing.T, call int, signed bool) (reverted bool)
	settle(t *testing.T, v *session.ChainView, now time.Time)
	total(t *testing.T, tr policy.Tracker) uint256.Int
}

// outcome is what a charge came to.
type outcome struct {
	Refused  string // the error's text
	Counted  []policy.Charge
	Repeat   bool
	Replaces bool
}

const storesID = session.ID("00000000000000aa")

// storesSession has a lifetime limit and an allowance of a period of 1000 seconds, 100 each.
func storesSession() *session.Session {
	spec := &policy.Spec{
		Signer: policy.Address{0xcc}, ExpiresAt: *uint256.NewInt(4_000_000_000),
		FeeLimit: policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(100)},
		TransferPolicies: []policy.TransferSpec{{
			Target: policy.Address{1}, MaxValuePerUse: *uint256.NewInt(100),
			ValueLimit: policy.UsageLimit{LimitType: policy.Allowance, Limit: *uint256.NewInt(100),
				Period: *uint256.NewInt(1000)},
		}},
	}
	return &session.Session{
		ID: storesID, Kind: session.AGW, Account: policy.Address{0xaa}, ChainID: 11124, Validator: policy.Address{0xbb},
		Spec: spec, Hash: spec.Hash(),
		Status: session.Active, Clients: []session.Client{{ID: 1000}}, CreatedAt: time.Unix(1_800_000_000, 0).UTC(),
	}
}

// embedded decides in memory.
type embedded struct {
	*session.Sessions
	calls []*session.Reservation
}

func openEmbedded(t *testing.T) store {
	t.Helper()
	dir := t.TempDir()
	s, err := session.Open(session.Config{
		LedgerPath: filepath.Join(dir, "ledger"), AuditPath: filepath.Join(dir, "audit.jsonl"),
		Backends: map[string]backends.Backend{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	if err := s.Keep(t.Context(), storesSession()); err != nil {
		t.Fatal(err)
	}
	return &embedded{Sessions: s}
}

func (e *embedded) charge(t *testing.T, g session.Grant) outcome {
	rec := &audit.Record{Event: audit.SignGranted}
	res, err := e.Charge(t.Context(), storesID, g, rec)
	e.calls = append(e.calls, res)
	if err != nil {
		return outcome{Refused: err.Error()}
	}
	return outcome{Counted: res.Counted, Repeat: rec.Verdict.Repeat, Replaces: rec.Verdict.Replaces}
}

func (e *embedded) finish(t *testing.T, call int, signed bool) bool {
	t.Helper()
	reverted, err := e.calls[call].Finish(t.Context(), signed)
	if err != nil {
		t.Fatal(err)
	}
	return reverted
}

func (e *embedded) settle(t *testing.T, v *session.ChainView, now time.Time) {
	t.Helper()
	if err := e.SettleAt(t.Context(), storesID, v, now); err != nil {
		t.Fatal(err)
	}
}

func (e *embedded) total(t *testing.T, tr policy.Tracker) uint256.Int {
	t.Helper()
	used, err := e.Total(storesID, tr)
	if err != nil {
		t.Fatal(err)
	}
	return used
}

// several asks two agents in turn, which PostgreSQL decides for.
type several struct {
	agents []*shared.Ledger
	term   uint64
	calls  []*shared.Reservation
}

func openSeveral(t *testing.T, server *pgtest.Server, database string) store {
	t.Helper()
	admin, err := pgx.Connect(t.Context(), server.URL("postgres", "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+database); err != nil {
		t.Fatal(err)
	}
	owner, err := pgx.Connect(t.Context(), server.URL("postgres", database))
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(t.Context())
	if _, err := shared.Migrate(t.Context(), owner); err != nil {
		t.Fatal(err)
	}
	s := &several{}
	for _, name := range []string{"a", "b"} {
		role := database + "_" + name
		if _, err := owner.Exec(t.Context(), "CREATE ROLE "+role+" LOGIN"); err != nil {
			t.Fatal(err)
		}
		if err := shared.Enroll(t.Context(), owner, name, role); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.ParseConfig(server.URL(role, database))
		if err != nil {
			t.Fatal(err)
		}
		l, err := shared.Open(t.Context(), shared.Config{Conn: conn, Agent: name, Dir: t.TempDir(), MACKey: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		s.agents = append(s.agents, l)
		if name == "a" {
			if err := l.Create(t.Context(), storesSession(), audit.Record{Event: audit.SessionCreated}); err != nil {
				t.Fatal(err)
			}
		}
	}
	lease, err := s.agents[1].Lead(t.Context(), shared.Lease{}, false)
	if err != nil || lease.Agent != "b" {
		t.Fatal(lease, err)
	}
	s.term = lease.Term
	return s
}

func (s *several) charge(t *testing.T, g session.Grant) outcome {
	t.Helper()
	rec := &audit.Record{Event: audit.SignGranted}
	res, err := s.agents[len(s.calls)%len(s.agents)].Reserve(storesID, g, rec)
	if err == nil {
		err = res.Durable(t.Context())
	}
	s.calls = append(s.calls, res)
	if err != nil {
		return outcome{Refused: err.Error()}
	}
	return outcome{Counted: res.Counted, Repeat: res.Repeat, Replaces: res.Replaces}
}

func (s *several) finish(t *testing.T, call int, signed bool) bool {
	t.Helper()
	res := s.calls[call]
	defer res.Done()
	if signed {
		return false
	}
	reverted, err := s.agents[call%len(s.agents)].TakeBack(t.Context(), []*shared.Reservation{res},
		audit.Record{Event: audit.SignReverted},
		audit.Record{Event: audit.SignFailed})
	if err != nil {
		t.Fatal(err)
	}
	return reverted
}

func (s *several) settle(t *testing.T, v *session.ChainView, now time.Time) {
	t.Helper()
	trackers := []policy.Tracker{{Kind: policy.FeeTracker}, storesAllowance(uint64(now.Unix()) / 1000)}
	if _, err := s.agents[1].Settle(t.Context(), s.term, storesID, v, trackers); err != nil {
		t.Fatal(err)
	}
}

func (s *several) total(t *testing.T, tr policy.Tracker) uint256.Int {
	t.Helper()
	all, err := s.agents[0].Usage(t.Context(), storesID)
	if err != nil {
		t.Fatal(err)
	}
	return uint256.Int(all[tr])
}

func storesAllowance(period uint64) policy.Tracker {
	return policy.Tracker{Kind: policy.TransferValueTracker, Target: policy.Address{1}, Allowance: true, PeriodID: period}
}

// TestStoresAgree gives the store that decides in memory and the one that decides in PostgreSQL, for two agents, the
// same calls. Both must refuse with the same words, count the same amounts, and come to the same totals.
func TestStoresAgree(t *testing.T) {
	server := pgtest.Start(t)
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			stores := []store{openEmbedded(t), openSeveral(t, server, fmt.Sprintf("stores%d", seed))}
			agree(t, stores, rand.New(rand.NewPCG(seed, 15)), seed%2 == 0)
		})
	}
}

// agree makes random calls. watched says that the chain is followed, from the start on.
func agree(t *testing.T, stores []store, rng *rand.Rand, watched bool) {
	now, block := int64(1_800_000_000), uint64(100)
	fee := policy.Tracker{Kind: policy.FeeTracker}
	calls, refused := 0, 0
	settle := func() {
		block += rng.Uint64N(4)
		v := &session.ChainView{Block: chain.Block{Number: block - rng.Uint64N(2), Time: 1_800_000_000},
			Nonce: rng.Uint64N(7), Used: map[policy.Tracker]uint256.Int{
				fee: *uint256.NewInt(rng.Uint64N(60)), storesAllowance(uint64(now) / 1000): *uint256.NewInt(rng.Uint64N(60)),
			}}
		for _, s := range stores {
			s.settle(t, v, time.Unix(now, 0))
		}
	}
	if watched {
		settle()
	}
	for step := range 100 {
		now += rng.Int64N(60)
		what := rng.IntN(20)
		if what == 0 && watched {
			settle()
		} else {
			g := aGrant(rng, now)
			first, second := stores[0].charge(t, g), stores[1].charge(t, g)
			if diff := cmp.Diff(first, second); diff != "" {
				t.Fatalf("step %d, %+v (-embedded +PostgreSQL):\n%s", step, g, diff)
			}
			if first.Refused != "" {
				refused++
			} else if signed := what > 5 || first.Repeat; stores[0].finish(t, calls, signed) != stores[1].finish(t, calls,
				signed) {
				t.Fatalf("step %d: one has taken the charge back", step)
			}
			calls++
		}
		for _, tr := range []policy.Tracker{fee, storesAllowance(uint64(now)/1000 - 1), storesAllowance(uint64(now) / 1000)} {
			if a, b := stores[0].total(t, tr), stores[1].total(t, tr); a != b {
				t.Fatalf("step %d: %s has counted %s in memory and %s in PostgreSQL", step, tr, a.Dec(), b.Dec())
			}
		}
	}
	if refused == 0 || refused == calls {
		t.Errorf("%d of %d calls were refused: the test shows little", refused, calls)
	}
}

// aGrant is a random one: of few nonces and digests, so that many repeat and replace.
func aGrant(rng *rand.Rand, now int64) session.Grant {
	g := session.Grant{Nonce: rng.Uint64N(6), At: time.Unix(now, 0)}
	binary.BigEndian.PutUint64(g.Digest[:], g.Nonce<<8|rng.Uint64N(8))
	amount := func() policy.Decimal { return policy.Decimal(*uint256.NewInt(rng.Uint64N(50))) }
	limit := policy.Decimal(*uint256.NewInt(100))
	if rng.IntN(8) > 0 {
		g.Charges = append(g.Charges, policy.Charge{Tracker: policy.Tracker{Kind: policy.FeeTracker}, Limit: limit,
			Amount: amount()})
	}
	if rng.IntN(3) > 0 {
		g.Charges = append(g.Charges, policy.Charge{Tracker: storesAllowance(uint64(now) / 1000), Limit: limit,
			Amount: amount()})
	}
	if rng.IntN(10) == 0 {
		g.Denied = &policy.Denial{Reason: "test", Detail: "the policy says no", Policy: -1, Constraint: -1}
	}
	if rng.IntN(3) == 0 {
		g.Rules = "rules-1"
		g.Counters = []rules.Counter{
			{Rule: "few", Key: "uid:1", Amount: *uint256.NewInt(1), Limit: *uint256.NewInt(5), Window: 10 * time.Minute,
				Sliding: rng.IntN(2) == 0},
			{Rule: "sum", Amount: *uint256.NewInt(rng.Uint64N(30)), Limit: *uint256.NewInt(200), Window: time.Hour},
		}
	}
	return g
}
