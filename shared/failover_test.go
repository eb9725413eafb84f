package shared

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/pgtest"
	"github.com/keyward/keyward/policy"
)

// pair is a rig on a primary and a standby.
func pair(t *testing.T, synchronous bool, agents ...string) (r *rig, primary, standby *pgtest.Server) {
	t.Helper()
	primary = pgtest.Start(t)
	r = newRig(t, []*pgtest.Server{primary}, agents...)
	standby = primary.Standby("second")
	if synchronous {
		primary.Set("synchronous_standby_names = 'second'")
		primary.Reload()
	}
	eventually(t, "the standby follows", func() bool {
		var state string
		err := r.owner.QueryRow(t.Context(), "SELECT coalesce(max(sync_state), '') FROM pg_stat_replication WHERE state = "+
			"'streaming'").Scan(&state)
		return err == nil && (state == "sync" || state == "async" && !synchronous)
	})
	r.servers = []*pgtest.Server{primary, standby}
	return r, primary, standby
}

// failOver kills the primary, promotes the standby, and connects the owner there.
func (r *rig) failOver(t *testing.T, primary, standby *pgtest.Server) {
	t.Helper()
	primary.Stop("immediate")
	if !standby.Running() {
		standby.Start()
	}
	standby.Promote()
	r.owner = connect(t, standby.URL("postgres", r.database))
}

// With a synchronous standby nothing is lost: both agents find their records and go on by themselves, under load.
func TestFailoverSynchronous(t *testing.T) {
	t.Parallel()
	r, primary, standby := pair(t, true, "a", "b")
	agents := []*Ledger{r.agent(t, "a"), r.agent(t, "b")}
	aSession(t, agents[0], "s")
	eventually(t, "b has the session", func() bool { return agents[1].Session("s") != nil })
	var granted, maybe, after atomic.Int64
	var over, stop atomic.Bool
	var callers sync.WaitGroup
	for n, l := range agents {
		callers.Go(func() {
			for i := uint64(0); !stop.Load(); i++ {
				late := over.Load()
				res, err := reserve(l, "s", grant(uint64(n)<<32|i, 1, charge(lifetime, 1, 1_000_000)))
				switch {
				case err == nil:
					granted.Add(1)
					res.Done()
					if late {
						after.Add(1)
					}
				case errors.Is(err, ErrUnreachable):
					maybe.Add(1) // its batch may have been decided
					time.Sleep(20 * time.Millisecond)
				case errors.Is(err, ErrFrozen):
					time.Sleep(20 * time.Millisecond)
				default:
					t.Errorf("agent %d: %v", n, err)
					return
				}
			}
		})
	}
	eventually(t, "charges", func() bool { return granted.Load() > 20 })
	r.failOver(t, primary, standby)
	over.Store(true)
	eventually(t, "charges after the failover", func() bool { return after.Load() > 20 })
	stop.Store(true)
	callers.Wait()
	if got := int64(used(t, agents[0], "s", lifetime)); got < granted.Load() || got > granted.Load()+maybe.Load() {
		t.Errorf("used %d, %d granted and %d not known", got, granted.Load(), maybe.Load())
	}
	var timeline string
	if err := r.owner.QueryRow(t.Context(), "SELECT timeline FROM keyward.store").Scan(&timeline); err != nil ||
		timeline != "00000002" {
		t.Errorf("timeline %s, %v", timeline, err)
	}
}

// Nobody signs on a new timeline until every agent has found its records there, also one that does not run.
func TestFailoverWaitsForAll(t *testing.T) {
	t.Parallel()
	r, primary, standby := pair(t, true, "a", "b")
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 1, 100))); err != nil {
		t.Fatal(err)
	}
	a.Close()
	r.failOver(t, primary, standby)
	eventually(t, "b waits", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 1, 100)))
		if err == nil {
			t.Fatal("b charges, and a has not found its records")
		}
		return errors.Is(err, ErrFrozen)
	})
	open(t, a.cfg)
	eventually(t, "b charges once a has found its records", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 1, 100)))
		return err == nil
	})
}

// An asynchronous standby loses commits. The agent that had acknowledged them finds out; nobody signs until the
// operator has accounted for them.
func TestFailoverLoses(t *testing.T) {
	t.Parallel()
	r, primary, standby := pair(t, false, "a", "b")
	a, b := r.agent(t, "a"), r.agent(t, "b")
	aSession(t, a, "s")
	eventually(t, "b has the session", func() bool { return b.Session("s") != nil })
	eventually(t, "the standby has it", func() bool {
		var lag int64
		err := r.owner.QueryRow(t.Context(), "SELECT coalesce(max(pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)), 1) "+
			"FROM pg_stat_replication").Scan(&lag)
		return err == nil && lag <= 0
	})
	standby.Stop("fast")
	if _, err := reserve(a, "s", grant(1, 1, charge(lifetime, 80, 100))); err != nil {
		t.Fatal(err)
	}
	r.failOver(t, primary, standby)
	eventually(t, "a finds out", func() bool { return errors.Is(a.Halted(), ErrLost) })
	eventually(t, "b waits", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 80, 100)))
		if err == nil {
			t.Fatal("b spends what a has spent")
		}
		return errors.Is(err, ErrFrozen)
	})
	if fenced, err := Fence(t.Context(), r.owner, "a"); err != nil || fenced.Whole {
		t.Errorf("Fence = %+v, %v, want one that can't name all", fenced, err)
	}
	eventually(t, "the session is on hold", func() bool {
		_, err := reserve(b, "s", grant(2, 1, charge(lifetime, 80, 100)))
		if err == nil {
			t.Fatal("b spends what a has spent")
		}
		return reason(err) == policy.ReasonSessionNotActive
	})
}

// A database that can't be reached is an error that may pass, without a long wait once that is known; nothing is
// counted meanwhile.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	r := newRig(t, []*pgtest.Server{server}, "a")
	a := r.agent(t, "a")
	aSession(t, a, "s")
	charged, err := reserve(a, "s", grant(1, 1, charge(lifetime, 1, 100)))
	if err != nil {
		t.Fatal(err)
	}
	server.Stop("fast")
	if _, err := reserve(a, "s", grant(2, 1, charge(lifetime, 1, 100))); !errors.Is(err, ErrUnreachable) {
		t.Errorf("without a database: %v", err)
	}
	eventually(t, "nothing is released", func() bool {
		_, err := a.Release(charged, func() {})
		return errors.Is(err, ErrUnreachable)
	})
	begun := time.Now()
	for nonce := range uint64(20) {
		if _, err := reserve(a, "s", grant(100+nonce, 1, charge(lifetime, 1, 100))); !errors.Is(err, ErrUnreachable) {
			t.Errorf("without a database: %v", err)
		}
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("20 refusals took %v", took)
	}
	server.Start()
	eventually(t, "it signs again", func() bool {
		_, err := reserve(a, "s", grant(3, 1, charge(lifetime, 1, 100)))
		return err == nil
	})
	if got := used(t, a, "s", lifetime); got < 2 || got > 3 { // the first without an answer may have been decided
		t.Errorf("used %d, want 2 or 3", got)
	}
}
