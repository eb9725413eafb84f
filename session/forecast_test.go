package session

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// runsOut returns when the fee limit and the value limit run out.
func (a *agent) runsOut(t *testing.T, id ID) (fee, value time.Time) {
	t.Helper()
	u := mustUsage(t, a, id)
	return u[0].RunsOut, u[1].RunsOut
}

func TestForecast(t *testing.T) {
	a := newAgent(t)
	a.now = time.Unix(1_800_000_000/3600*3600, 0) // a period starts
	start := a.now
	sess := a.active(t)
	sign := func(from, to uint64) {
		t.Helper()
		for nonce := from; nonce < to; nonce++ {
			if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); err != nil {
				t.Fatal(err)
			}
		}
	}
	sign(0, 10)
	if fee, _ := a.runsOut(t, sess.ID); !fee.IsZero() {
		t.Errorf("fees run out at %v, of a session that is seconds old", fee)
	}
	// 100 of 1,000 in 10 minutes: the rest lasts 90; 10 of 100 wei an hour: that lasts the hour.
	a.pass(10 * time.Minute)
	fee, value := a.runsOut(t, sess.ID)
	if want := start.Add(100 * time.Minute); !fee.Equal(want) || !value.IsZero() {
		t.Errorf("fees run out at %v, value at %v, want %v and never", fee, value, want)
	}
	// Lately it was nothing: nothing runs out.
	a.foresee(t.Context(), a.clock())
	a.pass(10 * time.Minute)
	if fee, _ := a.runsOut(t, sess.ID); !fee.IsZero() {
		t.Errorf("fees run out at %v, want never at a rate of 0", fee)
	}
	// Then 20 in 10 minutes since the first look: 20 wei of value, 70 left; 200 fees, 700 left.
	sign(10, 30)
	fee, value = a.runsOut(t, sess.ID)
	if want := a.clock().Add(35 * time.Minute); !fee.Equal(want) || !value.Equal(want) {
		t.Errorf("fees run out at %v, value at %v, want both at %v", fee, value, want)
	}
	// The next period starts with all of the allowance.
	a.pass(time.Hour)
	if _, value := a.runsOut(t, sess.ID); !value.IsZero() {
		t.Errorf("value runs out at %v in a period that has used nothing", value)
	}
}

// A session that is not used is not looked at. When it is used again, its rate counts from the last two hours, not from
// its start.
func TestForecastAfterAPause(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	sign := func(from, to uint64) {
		t.Helper()
		for nonce := from; nonce < to; nonce++ {
			if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); err != nil {
				t.Fatal(err)
			}
		}
		a.foresee(t.Context(), a.clock())
		a.pass(10 * time.Minute)
	}
	sign(0, 5)
	sign(5, 10)
	if len(a.forecast.inUse) != 1 {
		t.Error("a session that was just used is not looked at again")
	}
	for range 18 {
		sign(0, 0)
	}
	if len(a.forecast.inUse) != 0 {
		t.Error("a session is looked at that was not used for three hours")
	}
	sign(10, 20) // 100 of 1,000 in 2 h 10 min, 800 left
	if fee, _ := a.runsOut(t, sess.ID); !fee.Equal(a.clock().Add(8 * 130 * time.Minute)) {
		t.Errorf("fees run out at %v, want in 17 h 20 m", fee.Sub(a.clock()))
	}
}

// The operator is told once a day of each limit that will be used up and each session that will end
// without a successor, and only ahead of time.
func TestWarningsAhead(t *testing.T) {
	a := newAgent(t)
	var log bytes.Buffer
	a.Sessions.cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
	a.Sessions.cfg.WarnAhead = 6 * time.Hour
	sess := a.active(t)
	told := func() (limits, ends int) {
		a.foresee(t.Context(), a.clock())
		defer log.Reset()
		return strings.Count(log.String(), "a limit will be used up"), strings.Count(log.String(), "has no successor")
	}
	if limits, ends := told(); limits != 0 || ends != 0 {
		t.Errorf("told of %d limits and %d ends at once", limits, ends)
	}
	for nonce := range uint64(20) {
		if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); err != nil {
			t.Fatal(err)
		}
	}
	a.pass(20 * time.Minute)
	if limits, ends := told(); limits != 1 || ends != 0 {
		t.Errorf("told of %d limits and %d ends, want the fees' only", limits, ends)
	}
	if limits, _ := told(); limits != 0 {
		t.Errorf("told of %d limits again", limits)
	}
	a.pass(18 * time.Hour)
	if _, ends := told(); ends != 1 {
		t.Errorf("told of %d ends 5 h 40 m ahead, want one", ends)
	}
	if _, ends := told(); ends != 0 {
		t.Error("told of the end again")
	}
	clear(a.forecast.warned)
	if _, _, err := a.RenewSession(t.Context(), operator, sess.ID,
		*new(uint256.Int).AddUint64(&sess.Spec.ExpiresAt, 86400), true); err != nil {
		t.Fatal(err)
	}
	if _, ends := told(); ends != 0 {
		t.Error("told of the end of a session that has a successor")
	}
}

func TestRenewRefuses(t *testing.T) {
	a := newAgent(t)
	active := a.active(t)
	pending, err := a.Create(t.Context(), operator, a.createRequest())
	if err != nil {
		t.Fatal(err)
	}
	req := a.createRequest()
	req.Kind, req.Account, req.Validator = EOA, policy.Address{}, policy.Address{}
	eoa, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	later := *new(uint256.Int).AddUint64(&active.Spec.ExpiresAt, 1)
	earlier := *new(uint256.Int).SubUint64(&active.Spec.ExpiresAt, 1)
	for _, tt := range []struct {
		name   string
		id     ID
		expiry uint256.Int
		want   string
	}{
		{"unknown", "none", later, "unknown signer"},
		{"pending", pending.ID, later, "only an active one"},
		{"eoa", eoa.ID, later, "its key is the account"},
		{"earlier", active.ID, earlier, "before the session does"},
	} {
		if _, _, err := a.RenewSession(t.Context(), operator, tt.id, tt.expiry, true); err == nil ||
			!strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: Renew = %v, want %q", tt.name, err, tt.want)
		}
	}
	// A successor that has ended makes room for another.
	next, _, err := a.RenewSession(t.Context(), operator, active.ID, later, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Revoke(t.Context(), operator, next.ID); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Sign(t.Context(), app, &SignRequest{Session: active.ID, Tx: transfer(active, 1).Tx}); err != nil ||
		got.Session.ID != active.ID {
		t.Errorf("Sign = %v, %v, want the old session, whose successor has ended", got, err)
	}
	if _, _, err := a.RenewSession(t.Context(), operator, active.ID, later, true); err != nil {
		t.Errorf("renewing again: %v", err)
	}
}
