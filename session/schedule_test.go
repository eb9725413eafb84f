package session

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
)

// TestScheduleIsTheScan changes sessions at random and holds what is due to what a look at every session gives.
func TestScheduleIsTheScan(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	s := onlyIndex()
	s.cfg.KeyGrace, s.cfg.ExpiryMargin = 50*time.Second, 10*time.Second
	now := time.Unix(1_000, 0)
	s.cfg.Now = func() time.Time { return now }
	for n := range 10 { // there before the schedule
		s.ledger.index.put(numbered(n, account, Client{ID: 1}))
	}
	s.ledger.index.startSchedule(s.dueAt)
	due := 0
	for n := 10; n < 2_000; n++ {
		now = now.Add(time.Duration(rng.IntN(1_000)) * time.Millisecond)
		sess := numbered(n, account, Client{ID: 1})
		sess.Spec.ExpiresAt = *uint256.NewInt(uint64(now.Unix()) + 11 + rng.Uint64N(300))
		s.ledger.index.put(sess)
		changed := *s.List()[rng.IntN(n)]
		if !changed.Status.Ended() {
			changed.Status, changed.EndedAt = Revoked, now
			s.ledger.index.put(&changed)
		}
		want := s.filter(func(sess *Session) bool { at := s.dueAt(sess); return !at.IsZero() && !at.After(now) })
		got := s.ledger.index.takeDue(now)
		due += len(got)
		slices.SortFunc(got, byAge)
		if !slices.Equal(got, want) {
			t.Fatalf("step %d: %d sessions due, want %d", n, len(got), len(want))
		}
		for _, sess := range got {
			next := *sess
			switch {
			case rng.IntN(3) == 0: // it did not work
				s.ledger.index.putBack(sess)
				continue
			case !next.Status.Ended():
				next.Status, next.EndedAt = Expired, now
			default:
				next.KeyDestroyedAt = now
			}
			s.ledger.index.put(&next)
		}
		for _, sess := range s.List() {
			if at := s.dueAt(sess); !at.IsZero() && at.After(now) && s.ledger.index.nextDue().After(at.Add(time.Millisecond)) {
				t.Fatalf("step %d: something is due at %v, the schedule says %v", n, at, s.ledger.index.nextDue())
			}
		}
	}
	if due < 1_000 {
		t.Errorf("only %d sessions came up", due)
	}
}

// Where ending a session or destroying its key fails, Run tries again at its next pause and goes on with the others.
func TestRunTriesAgain(t *testing.T) {
	a := newAgent(t)
	sess, other := a.active(t), a.active(t)
	for _, id := range []ID{sess.ID, other.ID} {
		if _, err := a.Revoke(t.Context(), operator, id); err != nil {
			t.Fatal(err)
		}
	}
	backend := a.Sessions.cfg.Backends["soft"]
	delete(a.Sessions.cfg.Backends, "soft")
	a.pass(time.Hour)
	failing := map[ID]bool{}
	if pause := a.sweep(t.Context(), failing); pause != longestPause {
		t.Errorf("looks again in %v, want %v", pause, longestPause)
	}
	if !failing[sess.ID] || !failing[other.ID] {
		t.Errorf("failing: %v, want both", failing)
	}
	a.Sessions.cfg.Backends["soft"] = backend
	a.sweep(t.Context(), failing)
	for _, id := range []ID{sess.ID, other.ID} {
		if got, err := a.Sessions.Get(id); err != nil || got.KeyDestroyedAt.IsZero() {
			t.Errorf("session %s: %v, want its key destroyed", id, err)
		}
	}
	if got := a.lastEvent(t); got != string(audit.KeyDestroyed) {
		t.Errorf("last event %s", got)
	}
}

// BenchmarkLists lists sessions among 100,000 of one client.
func BenchmarkLists(b *testing.B) {
	const count = 100_000
	all := make([]*Session, count)
	for n := range all {
		all[n] = numbered(n, account, Client{ID: 1000})
	}
	s := onlyIndex(all...)
	s.ledger.index.startSchedule(s.dueAt)
	peer := audit.Peer{UID: 1000, GID: 1000}
	b.Run("page", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if page := s.VisiblePage(peer, Page{After: all[i*7919%(count-101)], Limit: 100}); len(page) != 100 {
				b.Fatal(len(page))
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if page := s.VisibleTo(peer); len(page) != count {
				b.Fatal(len(page))
			}
		}
	})
	b.Run("due", func(b *testing.B) {
		for b.Loop() {
			if due := s.ledger.index.takeDue(time.Unix(0, 0)); len(due) != 0 {
				b.Fatal(len(due))
			}
		}
	})
	b.Run("change", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			next := *all[i*7919%count]
			if next.Status = Active; i/count%2 == 0 {
				next.Status = Expired
			}
			s.ledger.index.put(&next)
		}
	})
}
