package shared

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"

	"github.com/holiman/uint256"
)

// Who writes the database can't make a session, change one or bring an older state of one back.
func testForged(t *testing.T, r *rig) {
	dir := t.TempDir()
	for name, sql := range map[string]string{
		"spec":     `UPDATE keyward.session SET content = replace(content, '"expiresAt":"4000000000"', '"expiresAt":"4000000001"')`,
		"status":   `UPDATE keyward.session SET status = 'blocked'`,
		"version":  `UPDATE keyward.session SET version = version + 1`,
		"new name": `INSERT INTO keyward.session SELECT 'other', status, version, change, hold, chain_id, account, content, mac FROM keyward.session`,
	} {
		a := open(t, r.config(t, "a", dir))
		id := session.ID("s" + strings.ReplaceAll(name, " ", ""))
		aSession(t, a, id)
		tx := connect(t, r.servers[0].URL("postgres", r.database))
		execute(t, tx, "BEGIN")
		execute(t, tx, sql+` WHERE id = '`+string(id)+`'`)
		execute(t, tx, "UPDATE keyward.session SET change = keyward.changed() WHERE id IN ('other', '"+string(id)+"')")
		execute(t, tx, "COMMIT")
		eventually(t, "the agent stops: "+name, func() bool { return errors.Is(a.Halted(), ErrForged) })
		a.Close()
		execute(t, tx, "DELETE FROM keyward.session WHERE id IN ('other', '"+string(id)+"')")
	}
	if _, err := Fence(t.Context(), r.owner, "a"); err != nil { // it has stopped, and would be waited for
		t.Fatal(err)
	}
	a := r.agent(t, "b")
	aSession(t, a, "s")
	var content, mac string
	if err := r.owner.QueryRow(t.Context(), "SELECT content, encode(mac, 'hex') FROM keyward.session WHERE id = 's'").Scan(&content, &mac); err != nil {
		t.Fatal(err)
	}
	if err := revoke(t.Context(), a, "s"); err != nil {
		t.Fatal(err)
	}
	execute(t, r.owner, `UPDATE keyward.session SET content = $1, mac = decode($2, 'hex'), status = 'active', version = 1, change = keyward.changed()`, content, mac)
	eventually(t, "an older state is refused", func() bool { return errors.Is(a.Halted(), ErrForged) })
}

// An agent's role may call the functions of agents for itself, and nothing else.
func testRights(t *testing.T, r *rig) {
	r.agent(t, "a").Close()
	conn := connect(t, r.servers[0].URL(r.role("b"), r.database))
	for _, sql := range []string{
		"SELECT * FROM keyward.session", "UPDATE keyward.usage SET used = 0", "SELECT keyward.fence('a')",
		"SELECT keyward.reconcile('{}', true)",
		"SELECT keyward.lift('a')", "SELECT keyward.carry('s', '00', 0)", "SELECT keyward.changed()",
		"CREATE TABLE keyward.x (n int)",
		"SELECT keyward.charge('a', 1, 1, 0, 0, '[]')", "SELECT keyward.ack('a', 1, 1, 1)",
		"SELECT keyward.changes('a', 1, 0)",
		"SELECT keyward.journal_of('a', 1, 0)", "SELECT keyward.join_store('a', NULL, NULL, NULL, NULL)",
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("agent b may run %s", sql)
		}
	}
	// What has no record is not done.
	own := connect(t, r.servers[0].URL(r.role("c"), r.database))
	execute(t, own, "SELECT keyward.join_store('c', NULL, NULL, NULL, NULL)")
	for _, request := range []string{`{}`, `{"b": {"s": "s", "n": "1", "d": "aa", "calls": 1}, "a": "\"time\":0"}`} {
		if _, err := own.Exec(t.Context(), "SELECT keyward.charge('c', 1, 1, 0, 0, $1)", "["+request+"]"); err == nil {
			t.Errorf("done without a record: %s", request)
		}
	}
	// A role that would rather not wait for the disk waits all the same.
	execute(t, conn, "BEGIN; SET LOCAL synchronous_commit = off")
	var mode string
	execute(t, conn, "SELECT keyward.join_store('b', NULL, NULL, NULL, NULL)")
	if err := conn.QueryRow(t.Context(), "SHOW synchronous_commit").Scan(&mode); err != nil || mode != "on" {
		t.Errorf("synchronous_commit at the commit is %s, %v", mode, err)
	}
	execute(t, conn, "ROLLBACK")
}

// Two agents change one session: one of them is told.
func testConflict(t *testing.T, r *rig) {
	agents := []*Ledger{r.agent(t, "a"), r.agent(t, "b")}
	sess := aSession(t, agents[0], "s")
	eventually(t, "b has the session", func() bool { return agents[1].Session("s") != nil })
	if err := agents[1].Create(t.Context(), sess, audit.Record{Event: audit.SessionCreated}); !errors.Is(err,
		ErrConflict) {
		t.Errorf("the session was made twice: %v", err)
	}
	var both sync.WaitGroup
	errs := make([]error, 2)
	for i, l := range agents {
		both.Go(func() {
			_, errs[i] = l.Change(t.Context(), "s", audit.Record{Event: audit.SessionClients}, func(s *session.Session) error {
				s.Clients = []session.Client{{ID: uint32(i)}}
				return nil
			})
		})
	}
	both.Wait()
	var version, ok uint64
	for _, err := range errs {
		if err == nil {
			ok++
		} else if !errors.Is(err, ErrConflict) {
			t.Error(err)
		}
	}
	if err := r.owner.QueryRow(t.Context(), "SELECT version FROM keyward.session").Scan(&version); err != nil ||
		version != 1+ok || ok == 0 {
		t.Errorf("version %d after %d changes, %v", version, ok, err)
	}
}

// A charge is taken back if no other call for its digest was ever made, by any agent.
func testTakeBack(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	take := func(all ...*Reservation) bool {
		t.Helper()
		done, err := all[0].ledger.TakeBack(t.Context(), all, audit.Record{Event: audit.SignReverted},
			audit.Record{Event: audit.SignFailed})
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	must := func(l *Ledger, g session.Grant) *Reservation {
		t.Helper()
		res, err := reserve(l, "s", g)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	one := must(a, grant(1, 1, charge(lifetime, 60, 100)))
	two := must(a, grant(1, 2, charge(lifetime, 80, 100)))
	if !take(two) || used(t, a, "s", lifetime) != 60 {
		t.Errorf("without the replacement: used %d, want 60", used(t, a, "s", lifetime))
	}
	again := must(b, grant(1, 1, charge(lifetime, 60, 100)))
	if take(one) || take(again) || used(t, a, "s", lifetime) != 60 {
		t.Error("a charge was taken back that another agent had asked for")
	}
	three := must(a, grant(3, 1, charge(lifetime, 40, 100)))
	repeat := must(a, grant(3, 1, charge(lifetime, 40, 100)))
	if take(three) {
		t.Error("a charge was taken back of which a second call is in flight")
	}
	if !take(three, repeat) || used(t, a, "s", lifetime) != 60 {
		t.Errorf("after both calls have failed: used %d, want 60", used(t, a, "s", lifetime))
	}
	must(b, grant(3, 1, charge(lifetime, 40, 100))) // it is charged again
	if got := used(t, a, "s", lifetime); got != 100 {
		t.Errorf("used %d, want 100", got)
	}
	a.Close()
	verifyTrail(t, a, 9)
}

// Each nonce goes to one caller; none that something was signed for; one whose lease is over again; none that the chain
// has passed.
func testNonces(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	sess := aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	if _, err := reserve(a, "s", grant(8, 1, charge(lifetime, 1, 100))); err != nil {
		t.Fatal(err)
	}
	lease := func(l *Ledger, from uint64, term time.Duration) uint64 {
		n, err := l.LeaseNonce(t.Context(), sess.ChainID, sess.Account, from, term)
		if err != nil {
			t.Error(err)
		}
		return n
	}
	var mu sync.Mutex
	seen := map[uint64]int{}
	var callers sync.WaitGroup
	for i := range 10 {
		callers.Go(func() {
			n := lease([]*Ledger{a, b}[i%2], 5, time.Hour)
			mu.Lock()
			defer mu.Unlock()
			seen[n]++
		})
	}
	callers.Wait()
	for n := uint64(5); n <= 15; n++ {
		if want := map[bool]int{true: 0, false: 1}[n == 8]; seen[n] != want {
			t.Errorf("nonce %d was handed out %d times, want %d", n, seen[n], want)
		}
	}
	if n := lease(a, 5, time.Second); n != 16 {
		t.Errorf("the next is %d, want 16", n)
	}
	eventually(t, "its lease is over", func() bool { return lease(b, 5, time.Hour) == 16 })
	if n := lease(b, 1000, time.Hour); n != 1000 {
		t.Errorf("after the chain has passed 999: %d, want 1000", n)
	}
	if _, err := a.LeaseNonce(t.Context(), 1, sess.Account, 0, time.Hour); err == nil {
		t.Error("a nonce of an account without a session was handed out")
	}
}

// One agent leads; a stopped one is followed; the older term settles nothing.
func testLeader(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 60, 100), charge(allowance, 5, 100))); err != nil {
		t.Fatal(err)
	}
	lead := func(l *Ledger, term, beat uint64, take bool) Lease {
		t.Helper()
		lease, err := l.Lead(t.Context(), Lease{Term: term, Beat: beat}, take)
		if err != nil {
			t.Fatal(err)
		}
		return lease
	}
	first := lead(a, 0, 0, false)
	if first.Agent != "a" || lead(b, first.Term, first.Beat, false).Agent != "a" ||
		lead(b, first.Term, first.Beat+7, true).Agent != "a" {
		t.Fatalf("a does not lead: %+v", first)
	}
	view := &session.ChainView{Block: chain.Block{Number: 10}, Nonce: 2,
		Used: map[policy.Tracker]uint256.Int{lifetime: *uint256.NewInt(50)}}
	later := allowance
	later.PeriodID = 1
	if _, err := b.Settle(t.Context(), first.Term, "s", view, nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("who does not lead settles: %v", err)
	}
	second := lead(b, first.Term, first.Beat, true)
	if second.Agent != "b" || second.Term != first.Term+1 {
		t.Fatalf("b does not lead: %+v", second)
	}
	if _, err := a.Settle(t.Context(), first.Term, "s", view, nil); !errors.Is(err, ErrNotLeader) {
		t.Errorf("the older term settles: %v", err)
	}
	settled, err := b.Settle(t.Context(), second.Term, "s", view, []policy.Tracker{allowance, later})
	if err != nil || used(t, a, "s", lifetime) != 50 || used(t, a, "s", allowance) != 5 || used(t, a, "s", later) != 0 {
		t.Errorf("Settle = %+v, %v; used %d", settled, err, used(t, a, "s", lifetime))
	}
	view.Block.Number, view.Nonce = 9, 1 // a lower block only raises
	if _, err := b.Settle(t.Context(), second.Term, "s", view, []policy.Tracker{later}); err != nil ||
		used(t, a, "s", lifetime) != 110 || used(t, a, "s", later) != 5 {
		t.Errorf("after a lower block: %v; used %d and %d", err, used(t, a, "s", lifetime), used(t, a, "s", later))
	}
}

// Migrations run once, however many begin them; a schema of another program is refused.
func testMigrations(t *testing.T, r *rig) {
	execute(t, r.owner, "DROP SCHEMA keyward CASCADE")
	var all sync.WaitGroup
	var mu sync.Mutex
	steps := 0
	for range 4 {
		conn := connect(t, r.servers[0].URL("postgres", r.database))
		all.Go(func() {
			taken, err := Migrate(t.Context(), conn)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			steps += len(taken)
		})
	}
	all.Wait()
	if steps != len(migrations()) {
		t.Errorf("%d steps were taken, want %d", steps, len(migrations()))
	}
	if err := Enroll(t.Context(), r.owner, "a", r.role("a")); err != nil {
		t.Fatal(err)
	}
	execute(t, r.owner, "UPDATE keyward.migration SET hash = 'other' WHERE number = 2")
	if _, err := Migrate(t.Context(), r.owner); !errors.Is(err, ErrSchema) {
		t.Errorf("another program's migration: %v", err)
	}
	execute(t, r.owner, "INSERT INTO keyward.migration (number, name, hash) SELECT max(number) + 1, 'later', '' FROM "+
		"keyward.migration")
	if _, err := Open(t.Context(), r.config(t, "a", t.TempDir())); !errors.Is(err, ErrSchema) {
		t.Errorf("an agent of another program: %v", err)
	}
}

// A database that was put back to an older state is found out by each agent that has acknowledged more, though its
// timeline is the same.
func testSetBack(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	aSession(t, a, "s")
	a.Close()
	execute(t, r.owner, "CREATE TABLE copy AS SELECT * FROM keyward.agent")
	a = open(t, a.cfg)
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 10, 50))); err != nil {
		t.Fatal(err)
	}
	a.Close()
	execute(t, r.owner, "UPDATE keyward.agent SET seq = copy.seq, head = copy.head FROM copy WHERE copy.id = agent.id; "+
		"DELETE FROM keyward.journal WHERE seq > 1")
	if _, err := Open(t.Context(), a.cfg); !errors.Is(err, ErrLost) {
		t.Fatalf("Open = %v, want ErrLost", err)
	}
	b := r.agent(t, "b")
	if _, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50))); !errors.Is(err, ErrFrozen) {
		t.Errorf("another agent charges: %v", err)
	}
	missing, err := Reconcile(t.Context(), r.owner, []string{"a"}, false)
	if err != nil || len(missing) != 0 {
		t.Fatalf("Reconcile = %v, %v", missing, err)
	}
	if _, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50))); reason(err) != policy.ReasonSessionNotActive {
		t.Errorf("a session on hold is charged: %v", err)
	}
	if err := Unhold(t.Context(), r.owner, "s"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it signs again", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50)))
		return err == nil
	})
}

// An agent without its guard file can't say what it had acknowledged.
func testNoGuard(t *testing.T, r *rig) {
	a := r.agent(t, "a")
	aSession(t, a, "s")
	a.Close()
	if err := os.Remove(guardPath(a.cfg.Dir)); err != nil {
		t.Fatal(err)
	}
	_, err := Open(t.Context(), a.cfg)
	contains(t, err, "no guard file")
}

// The newer of two marks counts, and one that was cut short does not.
func TestGuard(t *testing.T) {
	path := guardPath(t.TempDir())
	g, found, err := openGuard(path)
	if err != nil || found {
		t.Fatal(found, err)
	}
	for i := range uint64(5) {
		if err := g.update(func(m *mark) { m.head.Seq, m.version = i, 2*i }); err != nil {
			t.Fatal(err)
		}
	}
	last := g.mark()
	g.close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range data { // a write of the next mark, cut short anywhere, goes to the older slot
		older := int((last.writes + 1) % 2 * slotBytes)
		if i < older || i >= older+slotBytes {
			continue
		}
		torn := append([]byte(nil), data...)
		for j := older; j <= i; j++ {
			torn[j] ^= 0xff
		}
		if err := os.WriteFile(path, torn, 0o600); err != nil {
			t.Fatal(err)
		}
		g, found, err := openGuard(path)
		if err != nil || !found || g.mark() != last {
			t.Fatalf("torn at %d: %+v, %v, want %+v", i, g.mark(), err, last)
		}
		g.close()
	}
	for _, damaged := range [][]byte{nil, make([]byte, 2*slotBytes), data[:10]} {
		if err := os.WriteFile(path, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := openGuard(path); err == nil {
			t.Errorf("a guard file of %d damaged bytes is accepted", len(damaged))
		}
	}
}
