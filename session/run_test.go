package session

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keyward/keyward/audit"
)

// A ledger that has halted can't end the sessions that are past their end: Run tries again every minute, and not all
// the time.
func TestRunRestsWhileHalted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSimWorld(1)
		w.start()
		w.disk.SetBefore(nil)
		defer w.stop()
		for len(w.model.sessions) == 0 { // the device fails now and then
			w.create()
		}
		w.agent.end()
		w.agent.work.Wait()
		s := w.agent.Sessions
		s.ledger.haltOn(errors.New("the disk is full"))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
		defer cancel()
		var looks atomic.Int32
		now := s.cfg.Now
		s.cfg.Now = func() time.Time {
			if looks.Add(1) > 2000 {
				cancel()
			}
			return now()
		}
		s.Run(ctx)
		if n := looks.Load(); n > 2000 {
			t.Errorf("Run looked at the clock more than 2000 times within %v", time.Since(w.model.sessions[0].CreatedAt))
		}
		if err := s.Record(t.Context(), audit.Record{}); !errors.Is(err, ErrHalted) {
			t.Errorf("Record = %v, want ErrHalted", err)
		}
	})
}
