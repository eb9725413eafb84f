package shared

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/pgtest"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
)

// TestLedger runs what needs one server and breaks nothing of it.
func TestLedger(t *testing.T) {
	t.Parallel()
	server := []*pgtest.Server{pgtest.Start(t)}
	for name, test := range map[string]func(*testing.T, *rig){
		"charges": testCharges, "three agents": testThreeAgents, "lost answers": testLostAnswers, "crash": testCrash,
		"two processes": testTwoProcesses,
		"fence":         testFence, "revoke": testRevoke, "revoke, silent": testRevokeSilent, "lock": testLock,
		"forged": testForged, "rights": testRights,
		"conflict": testConflict, "take back": testTakeBack, "nonces": testNonces, "leader": testLeader,
		"migrations": testMigrations,
		"set back":   testSetBack, "no guard": testNoGuard,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // they wait for disks more than they compute
			test(t, newRig(t, server, "a", "b", "c"))
		})
	}
}

func testCharges(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	for i, step := range []struct {
		l      *Ledger
		g      session.Grant
		reason string
		more   uint64 // counted; 0: nothing
		used   uint64 // after it
	}{
		{a, grant(1, 1, charge(lifetime, 60, 100)), "", 60, 60},
		{b, grant(2, 1, charge(lifetime, 41, 100)), policy.ReasonLifetimeExceeded, 0, 60},
		{b, grant(1, 2, charge(lifetime, 70, 100)), "", 10, 70},  // a replacement costs the larger
		{a, grant(1, 1, charge(lifetime, 60, 100)), "", 0, 70},   // a repeat costs nothing
		{b, grant(1, 1, charge(lifetime, 60, 50)), "", 0, 70},    // and no limit denies it
		{b, grant(3, 1, charge(lifetime, 30, 100)), "", 30, 100}, // to the last
		{a, grant(4, 1, charge(lifetime, 1, 100)), policy.ReasonLifetimeExceeded, 0, 100},
		{a, grant(4, 1, charge(lifetime, 0, 100)), "", 0, 100},
	} {
		res, err := reserve(step.l, "s", step.g)
		if reason(err) != step.reason || step.reason == "" && err != nil {
			t.Fatalf("step %d: %v, want %q", i, err, step.reason)
		}
		if err == nil {
			var more uint64
			for _, c := range res.Counted {
				x := c.Amount.Int()
				more += x.Uint64()
			}
			if more != step.more {
				t.Errorf("step %d counts %d, want %d", i, more, step.more)
			}
		}
		if got := used(t, a, "s", lifetime); got != step.used {
			t.Fatalf("step %d: used %d, want %d", i, got, step.used)
		}
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	verifyTrail(t, a, 4)
}

// verifyTrail checks that a closed agent's file is the chain that the database sealed.
func verifyTrail(t *testing.T, l *Ledger, records uint64) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(l.cfg.Dir, "audit.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	head := audit.Head{}
	for len(data) > 0 {
		i := 0
		for data[i] != '\n' {
			i++
		}
		if head, err = head.Follow(data[:i]); err != nil {
			t.Fatal(err)
		}
		data = data[i+1:]
	}
	if head.Seq != records || head.Hash != l.Head().Hash {
		t.Errorf("the file has %d records, want %d; the database %d", head.Seq, records, l.Head().Seq)
	}
}

// Three agents spend one limit: all of it and nothing more.
func testThreeAgents(t *testing.T, r *rig) {
	agents := []*Ledger{r.agent(t, "a"), r.agent(t, "b"), r.agent(t, "c")}
	aSession(t, agents[0], "s")
	var granted atomic.Int64
	var callers sync.WaitGroup
	for n, l := range agents {
		eventually(t, "every agent has the session", func() bool { return l.Session("s") != nil })
		for c := range 8 {
			callers.Go(func() {
				for i := range 10 {
					nonce := uint64(n*1000 + c*100 + i)
					res, err := reserve(l, "s", grant(nonce, 1, charge(lifetime, 1, 100), charge(allowance, 1, 1000)))
					if err == nil {
						granted.Add(1)
						res.Done()
					} else if reason(err) != policy.ReasonLifetimeExceeded {
						t.Error(err)
					}
				}
			})
		}
	}
	callers.Wait()
	if got := granted.Load(); got != 100 || used(t, agents[1], "s", lifetime) != 100 ||
		used(t, agents[1], "s", allowance) != 100 {
		t.Errorf("%d granted, %d used, the limit is 100", got, used(t, agents[1], "s", lifetime))
	}
}

// A batch whose answer is lost is asked again and counted once.
func testLostAnswers(t *testing.T, r *rig) {
	cfg := r.config(t, "a", t.TempDir())
	var losses atomic.Int64
	cfg.loses = func() bool { return losses.Add(-1) >= 0 }
	a := open(t, cfg)
	aSession(t, a, "s")
	for nonce := range uint64(5) {
		losses.Store(int64(nonce % 3))
		if _, err := reserve(a, "s", grant(nonce, 1, charge(lifetime, 10, 50))); err != nil {
			t.Fatal(err)
		}
	}
	if got := used(t, a, "s", lifetime); got != 50 {
		t.Errorf("used %d, want 50", got)
	}
	var tries int64
	if err := r.owner.QueryRow(t.Context(), "SELECT tries FROM keyward.agent WHERE id = 'a'").Scan(&tries); err != nil ||
		tries < 2 {
		t.Errorf("the last batch was asked %d times, %v", tries, err)
	}
	a.Close()
	verifyTrail(t, a, 6)
}

// What was committed as the agent died is in its trail after the next start.
func testCrash(t *testing.T, r *rig) {
	cfg := r.config(t, "a", t.TempDir())
	var dead atomic.Bool
	cfg.loses = dead.Load
	a := open(t, cfg)
	aSession(t, a, "s")
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 10, 50))); err != nil {
		t.Fatal(err)
	}
	dead.Store(true)
	rec := &audit.Record{Time: time.Unix(1_800_000_000, 0), Event: audit.SignGranted, Session: "s"}
	if _, err := a.Reserve("s", grant(2, 1, charge(lifetime, 10, 50)), rec); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is committed", func() bool { return committed(t, r, "a") == 3 })
	crash(a)
	cfg.loses = nil
	again := open(t, cfg)
	if got := again.Head().Seq; got != 3 || used(t, again, "s", lifetime) != 20 {
		t.Errorf("after the crash: %d records, %d used", got, used(t, again, "s", lifetime))
	}
	if _, err := reserve(again, "s", grant(3, 1, charge(lifetime, 10, 50))); err != nil {
		t.Fatal(err)
	}
	again.Close()
	verifyTrail(t, again, 4)
}

// committed is the number of an agent's last record in the database.
func committed(t *testing.T, r *rig, agent string) (seq uint64) {
	t.Helper()
	if err := r.owner.QueryRow(t.Context(), "SELECT seq FROM keyward.agent WHERE id = $1", agent).Scan(&seq); err != nil {
		t.Fatal(err)
	}
	return seq
}

// A second process of an agent, on a copy of its directory, takes over; the first signs nothing more.
func testTwoProcesses(t *testing.T, r *rig) {
	dir, copied := t.TempDir(), t.TempDir()
	a := open(t, r.config(t, "a", dir))
	aSession(t, a, "s")
	if _, err := Open(t.Context(), r.config(t, "a", dir)); !errors.Is(err, ErrInUse) {
		t.Errorf("a second process in one directory: %v", err)
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	open(t, r.config(t, "a", copied))
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 10, 50))); !errors.Is(err, ErrFenced) {
		t.Errorf("the first process charges: %v", err)
	}
}

func testFence(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	res, err := reserve(a, "s", grant(1, 1, charge(lifetime, 10, 50)))
	if err != nil {
		t.Fatal(err)
	}
	fenced, err := Fence(t.Context(), r.owner, "a")
	if err != nil || !fenced.Whole || len(fenced.Digests) != 1 || fenced.Digests[0] != res.item.request.Digest {
		t.Errorf("Fence = %+v, %v, want the digest that may still leave", fenced, err)
	}
	if _, err := reserve(a, "s", grant(2, 1, charge(lifetime, 10, 50))); !errors.Is(err, ErrFenced) {
		t.Errorf("a fenced agent charges: %v", err)
	}
	eventually(t, "the fenced agent releases nothing", func() bool {
		_, err := a.Release(res, func() {})
		return errors.Is(err, ErrFenced)
	})
	if _, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50))); err != nil {
		t.Errorf("the other agent: %v", err)
	}
	a.Close()
	if _, err := Open(t.Context(), a.cfg); !errors.Is(err, ErrFenced) {
		t.Errorf("a fenced agent starts: %v", err)
	}
	if err := Lift(t.Context(), r.owner, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := reserve(open(t, a.cfg), "s", grant(3, 1, charge(lifetime, 10, 50))); err != nil {
		t.Errorf("after the fence is lifted: %v", err)
	}
	if _, err := Fence(t.Context(), r.owner, "nobody"); err == nil {
		t.Error("an agent that does not exist was fenced")
	}
}

func revoke(ctx context.Context, l *Ledger, id session.ID) error {
	_, err := l.Change(ctx, id, audit.Record{Event: audit.SessionRevoked, Session: string(id)},
		func(s *session.Session) error {
			s.Status = session.Revoked
			return nil
		})
	return err
}

// Once a revoke is answered no agent releases anything of the session. A write that has begun is waited for, or cut.
func testRevoke(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	var all []*Reservation
	for nonce := range uint64(2) {
		res, err := reserve(b, "s", grant(nonce, 1, charge(lifetime, 10, 50)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, res)
	}
	var done func()
	cut := make(chan struct{})
	done, err := b.Release(all[0], func() { close(cut) })
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-cut
		done()
	}()
	if err := revoke(t.Context(), a, "s"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-cut:
	default:
		t.Error("the revoke was answered while a write of the session was under way")
	}
	if _, err := b.Release(all[1], func() {}); reason(err) != policy.ReasonSessionNotActive {
		t.Errorf("after the revoke: Release = %v", err)
	}
	if _, err := reserve(b, "s", grant(3, 1, charge(lifetime, 10, 50))); reason(err) != policy.ReasonSessionNotActive {
		t.Errorf("after the revoke: %v", err)
	}
}

// A revoke that an agent does not acknowledge says so, with what may still leave that agent.
func testRevokeSilent(t *testing.T, r *rig) {
	cfg := r.config(t, "a", t.TempDir())
	cfg.Patience = 200 * time.Millisecond
	a, b := open(t, cfg), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	gone, err := reserve(b, "s", grant(1, 1, charge(lifetime, 10, 50)))
	if err != nil {
		t.Fatal(err)
	}
	gone.Done()
	left, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first has left", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.open) == 1 })
	if _, err := reserve(b, "s", grant(3, 1, charge(lifetime, 1000, 50))); err == nil { // tells the database what has left
		t.Fatal("more than the limit was granted")
	}
	crash(b)
	var incomplete *Incomplete
	if err := revoke(t.Context(), a, "s"); !errors.As(err, &incomplete) || len(incomplete.Silent) != 1 ||
		incomplete.Silent[0].Agent != "b" ||
		len(incomplete.Silent[0].Digests) != 1 || incomplete.Silent[0].Digests[0] != left.item.request.Digest {
		t.Fatalf("revoke = %v, want agent b with one digest", err)
	}
	if _, err := Fence(t.Context(), r.owner, "b"); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	version := a.version
	a.mu.Unlock()
	if err := a.await(t.Context(), version, "s"); err != nil {
		t.Errorf("after the fence: %v", err)
	}
}

func testLock(t *testing.T, r *rig) {
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	res, err := reserve(b, "s", grant(1, 1, charge(lifetime, 10, 50)))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.SetLock(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Release(res, func() {}); !errors.Is(err, session.ErrLocked) {
		t.Errorf("Release = %v", err)
	}
	if _, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50))); !errors.Is(err, session.ErrLocked) {
		t.Errorf("reserve = %v", err)
	}
	b.Close()
	b = open(t, b.cfg)
	if _, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50))); !errors.Is(err, session.ErrLocked) {
		t.Errorf("after a restart: reserve = %v", err)
	}
	if err := a.SetLock(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "b signs again", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 10, 50)))
		return err == nil
	})
}
