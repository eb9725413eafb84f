package shared

import (
	"errors"
	"testing"

	"github.com/keyward/keyward/internal/pgtest"
)

// A commit that no longer waits for its standby comes with a warning. It is not believed: the batch is asked again, and
// that waits for the standby too.
func TestWarnedCommit(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	r := newRig(t, []*pgtest.Server{server}, "a")
	a := r.agent(t, "a")
	aSession(t, a, "s")
	server.Set("synchronous_standby_names = 'nobody'")
	server.Reload()
	eventually(t, "commits wait", func() bool {
		var names string
		err := r.owner.QueryRow(t.Context(), "SHOW synchronous_standby_names").Scan(&names)
		return err == nil && names == "nobody"
	})
	answered := make(chan error, 1)
	go func() {
		res, err := reserve(a, "s", grant(1, 1, charge(lifetime, 1, 100)))
		if err == nil {
			res.Done()
		}
		answered <- err
	}()
	eventually(t, "the charge waits for the standby", func() bool {
		var waiting int
		err := r.owner.QueryRow(t.Context(), `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND query LIKE '%keyward.charge%'`).Scan(&waiting)
		return err == nil && waiting > 0
	})
	eventually(t, "it joins again, to ask again, and waits for the standby", func() bool {
		var waiting int
		err := r.owner.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE wait_event = 'SyncRep' AND query LIKE '%keyward.join_store%'`).Scan(&waiting)
		return err == nil && waiting > 0
	})
	select {
	case err := <-answered:
		if err == nil {
			t.Fatal("a commit that is on no standby was believed")
		}
	default:
	}
	server.Set("synchronous_standby_names = ''")
	server.Reload()
	if err := <-answered; err != nil && !errors.Is(err, ErrUnreachable) { // it may have waited too long for its caller
		t.Error(err)
	}
	eventually(t, "it signs again", func() bool {
		_, err := reserve(a, "s", grant(2, 1, charge(lifetime, 1, 100)))
		return err == nil
	})
	if got := used(t, a, "s", lifetime); got != 2 {
		t.Errorf("used %d, want 2", got)
	}
}
