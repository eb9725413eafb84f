package session

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

// stuck is a device that does not destroy one of its keys.
type stuck struct {
	*soft.Backend
	uri string
}

func (b *stuck) Destroy(ctx context.Context, uri string) error {
	if uri == b.uri {
		return backends.ErrUnavailable
	}
	return b.Backend.Destroy(ctx, uri)
}

// TestSweepDestroysEveryKey: one look destroys the keys of all sessions that are due, also after one that has no key
// any more and one whose device fails. That one's turn comes again.
func TestSweepDestroysEveryKey(t *testing.T) {
	a := newAgent(t)
	device := &stuck{Backend: a.soft}
	a.cfg.Backends["soft"] = device
	revoke := func(n int) (all []*Session) {
		for range n {
			sess := a.active(t)
			if _, err := a.key(t.Context(), sess); err != nil {
				t.Fatal(err)
			}
			if _, err := a.Revoke(t.Context(), operator, sess.ID); err != nil {
				t.Fatal(err)
			}
			all = append(all, sess)
		}
		return all
	}
	left := func() (ids []ID) {
		for _, sess := range a.List() {
			if sess.KeyDestroyedAt.IsZero() {
				ids = append(ids, sess.ID)
			}
		}
		return ids
	}
	failing := map[ID]bool{}
	revoke(1)
	a.pass(time.Hour)
	a.sweep(t.Context(), failing) // one has no key any more
	all := revoke(6)
	device.uri = all[0].KeyURI
	a.pass(time.Hour)
	a.sweep(t.Context(), failing)
	if got := left(); !slices.Equal(got, []ID{all[0].ID}) {
		t.Errorf("sessions %v have keys, want only %s, whose device fails", got, all[0].ID)
	}
	device.uri = ""
	a.sweep(t.Context(), failing)
	if got := left(); len(got) > 0 {
		t.Errorf("sessions %v have keys", got)
	}
	a.keysMu.Lock()
	defer a.keysMu.Unlock()
	if len(a.keys) > 0 {
		t.Errorf("%d destroyed keys are kept", len(a.keys))
	}
}

// TestUndoPassesOverWhatIsClaimed: a creation that somebody works on does not keep the others from being cleaned up.
func TestUndoPassesOverWhatIsClaimed(t *testing.T) {
	a := newAgent(t)
	var ids []ID
	for range 20 { // the order is random
		ids = append(ids, newID())
		if err := a.putIntent(t.Context(), ids[len(ids)-1], intent{Backend: "soft"}); err != nil {
			t.Fatal(err)
		}
	}
	end, ok := a.claim(ids[0])
	if !ok {
		t.Fatal("nobody has it, and it can't be claimed")
	}
	a.sweep(t.Context(), map[ID]bool{})
	if left := a.Unfinished(); !slices.Equal(left, ids[:1]) {
		t.Errorf("%v are left, want only the one that is claimed, %s", left, ids[0])
	}
	end()
	a.sweep(t.Context(), map[ID]bool{})
	if left := a.Unfinished(); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestCloseCommitsWhatIsInLine: a ledger that is closed has written what was reserved before.
func TestCloseCommitsWhatIsInLine(t *testing.T) {
	for range 10 { // the committer may be woken by either
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		r := reservation(t, l, 1, 1, 10)
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Durable(t.Context()); err != nil {
			t.Fatalf("Durable = %v", err)
		}
		l = reopenLedger(t, dir)
		l.addActive("s", &policy.Spec{})
		if used := feeUsed(t, l); used != 10 {
			t.Fatalf("%d used after the next start, want 10", used)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestTrailIsSyncedInTime: what was appended to the trail is synced, although nothing follows.
func TestTrailIsSyncedInTime(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	if err := reservation(t, l, 1, 1, 10).Durable(t.Context()); err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); l.lag.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d bytes of the trail are not synced after a minute", l.lag.Load())
		}
	}
}

// TestRegistryAnswerIsAsOldAsTheOldest: one policy that was asked about lately does not renew the others' answers.
func TestRegistryAnswerIsAsOldAsTheOldest(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	c := o.watcher.chains[chaintest.ChainID]
	sess := o.create()
	first := sess.Spec.RegistryQueries()[0]
	spec := *sess.Spec
	spec.TransferPolicies = append(slices.Clone(spec.TransferPolicies), spec.TransferPolicies[0])
	spec.TransferPolicies[len(spec.TransferPolicies)-1].Target[0] ^= 1
	both := spec.RegistryQueries()
	if len(both) != 2 || both[0] != first {
		t.Fatalf("queries %v, want the session's own and another", both)
	}
	now := o.clock()
	for i, q := range both {
		if err := c.registry.Refresh(t.Context(), c.Client, []policy.RegistryQuery{q},
			now.Add(time.Duration(i-2)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if got := c.oldestAnswer(&Session{Spec: &spec}, now); !got.Equal(now.Add(-2 * time.Hour)) {
		t.Errorf("the answers are of %v, want the older one's time, 2 hours before %v", got, now)
	}
}
