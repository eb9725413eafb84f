package shared

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"
	"github.com/jackc/pgx/v5"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/pgtest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// macKey is that of the tests.
var macKey = []byte("thirty-two bytes of a secret key")

// rig is a shared store in a database of its own.
type rig struct {
	servers  []*pgtest.Server
	database string
	owner    *pgx.Conn
}

var databases atomic.Int64

// newRig makes a shared store on the servers, the first of which takes writes, with agents.
func newRig(t testing.TB, servers []*pgtest.Server, agents ...string) *rig {
	t.Helper()
	r := &rig{servers: servers, database: fmt.Sprintf("store%d", databases.Add(1))}
	admin := connect(t, servers[0].URL("postgres", "postgres"))
	execute(t, admin, "CREATE DATABASE "+r.database)
	r.owner = connect(t, servers[0].URL("postgres", r.database))
	if _, err := Migrate(t.Context(), r.owner); err != nil {
		t.Fatal(err)
	}
	for _, a := range agents {
		execute(t, admin, "CREATE ROLE "+r.role(a)+" LOGIN")
		if err := Enroll(t.Context(), r.owner, a, r.role(a)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func (r *rig) role(agent string) string { return r.database + "_" + agent }

func connect(t testing.TB, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func execute(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// config is that of an agent with a directory.
func (r *rig) config(t testing.TB, agent, dir string) Config {
	t.Helper()
	cfg, err := pgx.ParseConfig(pgtest.URL(r.role(agent), r.database, r.servers...))
	if err != nil {
		t.Fatal(err)
	}
	return Config{Conn: cfg, Agent: agent, Dir: dir, MACKey: macKey}
}

// agent opens an agent in a fresh directory and closes it when the test ends.
func (r *rig) agent(t testing.TB, name string) *Ledger {
	t.Helper()
	return open(t, r.config(t, name, t.TempDir()))
}

func open(t testing.TB, cfg Config) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// crash ends an agent as kill -9 does: it leaves nothing.
func crash(l *Ledger) {
	l.halt(errors.New("the test has killed it"))
	l.cancel()
	l.running.Wait()
	l.trail.Close()
	l.guard.close()
}

var (
	lifetime  = policy.Tracker{Kind: policy.FeeTracker}
	allowance = policy.Tracker{Kind: policy.TransferValueTracker, Target: policy.Address{1}, Allowance: true}
)

// aSession creates an active session for all agents.
func aSession(t testing.TB, l *Ledger, id session.ID) *session.Session {
	t.Helper()
	sess := &session.Session{
		ID: id, Kind: session.AGW, Account: policy.Address{0xaa}, ChainID: 11124, Validator: policy.Address{0xbb},
		Spec: &policy.Spec{Signer: policy.Address{0xcc}, ExpiresAt: *uint256.NewInt(4_000_000_000)}, Status: session.Active,
		Clients: []session.Client{{ID: 1000}}, CreatedAt: time.Unix(1_800_000_000, 0).UTC(),
	}
	sess.Hash = sess.Spec.Hash()
	if err := l.Create(t.Context(), sess, audit.Record{Event: audit.SessionCreated, Session: string(id)}); err != nil {
		t.Fatal(err)
	}
	return sess
}

func charge(t policy.Tracker, amount, limit uint64) policy.Charge {
	return policy.Charge{Tracker: t, Amount: policy.Decimal(*uint256.NewInt(amount)),
		Limit: policy.Decimal(*uint256.NewInt(limit))}
}

// grant is one for a nonce; number makes its digest.
func grant(nonce, number uint64, charges ...policy.Charge) session.Grant {
	g := session.Grant{Nonce: nonce, Charges: charges, At: time.Unix(1_800_000_000, 0)}
	binary.BigEndian.PutUint64(g.Digest[:], nonce)
	binary.BigEndian.PutUint64(g.Digest[8:], number)
	return g
}

// reserve charges g and returns when the database has decided.
func reserve(l *Ledger, id session.ID, g session.Grant) (*Reservation, error) {
	rec := &audit.Record{Time: g.At, Event: audit.SignGranted, Session: string(id), Digest: g.Digest.String(),
		Detail: "<of a test>"}
	r, err := l.Reserve(id, g, rec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return r, r.Durable(ctx)
}

// used is what a tracker of the session has counted.
func used(t testing.TB, l *Ledger, id session.ID, tr policy.Tracker) uint64 {
	t.Helper()
	all, err := l.Usage(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	x := uint256.Int(all[tr])
	return x.Uint64()
}

// reason is the stable word of a denial; "" if err is none.
func reason(err error) string {
	var d *policy.Denial
	if errors.As(err, &d) {
		return d.Reason
	}
	return ""
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	end := time.Now().Add(2 * time.Minute)
	for !is() {
		if time.Now().After(end) {
			t.Fatalf("not within 2 minutes: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// contains fails unless err's text has part.
func contains(t testing.TB, err error, part string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), part) {
		t.Errorf("error %v, want one with %q", err, part)
	}
}
