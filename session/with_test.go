package session

import (
	"errors"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/chain"
)

// Another configuration has the same sessions. Its queue is that of the same device, and a key that another device
// found is not used.
func TestWith(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	cfg := a.cfg
	cfg.ExpiryMargin = 10 * time.Minute
	same := a.Sessions.With(cfg)
	if same.queue("soft") != a.Sessions.queue("soft") {
		t.Error("the same device has another queue")
	}
	if got, want := same.SignsUntil(sess), a.Sessions.SignsUntil(sess).Add(-9*time.Minute); !got.Equal(want) {
		t.Errorf("with a longer margin it signs until %v, want %v", got, want)
	}
	cfg.Backends = map[string]backends.Backend{"soft": &soft.Backend{}}
	other := a.Sessions.With(cfg)
	if other.queue("soft") == a.Sessions.queue("soft") {
		t.Error("another device has the same queue")
	}
	if _, err := a.Sessions.key(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	if err := other.FindKey(t.Context(), sess); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("the other device has the key: %v", err)
	}
	if held := other.Holds("soft"); len(held) != 1 || held[0].ID != sess.ID {
		t.Errorf("Holds = %v", held)
	}
}

// What follows a configuration is as that says once it is adopted: when a session ends, and how many refusals get a
// record.
func TestAdopt(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	cfg := a.cfg
	cfg.ExpiryMargin, cfg.RefusalsPerSecond, cfg.RefusalBurst = time.Hour, 1000, 7
	next := a.Sessions.With(cfg)
	before := a.ledger.index.nextDue()
	next.Adopt()
	if got := a.ledger.index.nextDue(); !got.Equal(next.SignsUntil(sess).Add(time.Second)) || !got.Before(before) {
		t.Errorf("the session is due at %v, want at its new end, %v", got, next.SignsUntil(sess))
	}
	if a.refusals.all.Limit() != 1000 || a.refusals.all.Burst() != 7 || a.refusals.strangers.Limit() != 500 ||
		a.refusals.strangers.Burst() != 4 {
		t.Errorf("refusals with a record: %v, %d", a.refusals.all.Limit(), a.refusals.all.Burst())
	}
}

// What a clock has seen goes over to the next configuration, and so a clock that is wrong stays wrong. A conclusion by
// another bound does not.
func TestClockLearns(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	old := &clock{bound: time.Minute}
	old.look(chain.Block{Number: 5, Time: uint64(start.Unix()) + 600}, momentOf(start, start))
	old.ahead = fastLooks
	for bound, wrong := range map[time.Duration]bool{time.Minute: true, 5 * time.Minute: true, time.Hour: false,
		0: false} {
		next := &clock{bound: bound}
		next.learn(old)
		if err := next.check(momentOf(start, start)); (err != nil) != wrong {
			t.Errorf("with a bound of %v: %v, want wrong: %v", bound, err, wrong)
		}
	}
}
