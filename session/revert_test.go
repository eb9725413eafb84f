package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// reservation reserves a fee, without waiting for the disk.
func reservation(t *testing.T, l *Ledger, nonce uint64, digest byte, fee uint64) *Reservation {
	t.Helper()
	r, err := l.Reserve("s", grantOf(nonce, digest, feeCharge(1000, fee)), &audit.Record{Event: audit.SignGranted})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fails ends a call without a signature, and reports whether its charge was taken back.
func fails(t *testing.T, r *Reservation, certain bool) (reverted bool) {
	t.Helper()
	e, err := r.failed(certain, audit.Record{Event: audit.SignFailed, Detail: "why"})
	if err == nil && e != nil {
		err = e.wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return e != nil
}

func feeUsed(t *testing.T, l *Ledger) uint64 {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	used, err := l.totalLocked(l.books["s"], feeTracker)
	if err != nil {
		t.Fatal(err)
	}
	return used.Uint64()
}

// wantUsed wants the fee limit to have counted that much, in memory and after a restart, which it returns.
func wantUsed(t *testing.T, l *Ledger, dir, when string, want uint64) *Ledger {
	t.Helper()
	if got := feeUsed(t, l); got != want {
		t.Errorf("%s: %d used, want %d", when, got, want)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	l = reopenLedger(t, dir)
	l.addActive("s", &policy.Spec{})
	if got := feeUsed(t, l); got != want {
		t.Errorf("%s, after a restart: %d used, want %d", when, got, want)
	}
	return l
}

func TestRevertGivesBackWhatTheDigestAloneCost(t *testing.T) {
	for _, c := range []struct {
		name   string
		others []uint64 // what the other digests for the nonce cost
		fee    uint64   // of the one that is taken back
		want   uint64
	}{
		{"the only one", nil, 40, 0},
		{"the dearest", []uint64{10, 30}, 40, 30},
		{"not the dearest", []uint64{10, 50}, 40, 50},
		{"as dear as another", []uint64{40}, 40, 40},
		{"free", []uint64{5}, 0, 5},
	} {
		for _, onDisk := range []bool{false, true} {
			t.Run(fmt.Sprint(c.name, " ", onDisk), func(t *testing.T) {
				l, dir := newLedger(t)
				l.addActive("s", &policy.Spec{})
				release := func() {}
				if !onDisk {
					release = hold(l)
				}
				reservation(t, l, 9, 200, 7).signed() // of another nonce
				for i, fee := range c.others {
					reservation(t, l, 1, byte(i), fee).signed()
				}
				r := reservation(t, l, 1, 100, c.fee)
				if onDisk {
					if err := r.Durable(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
				e, err := r.failed(true, audit.Record{Event: audit.SignFailed, Detail: "why"})
				if err != nil || e == nil {
					t.Fatal("not taken back", err)
				}
				release()
				if err := e.wait(t.Context()); err != nil {
					t.Fatal(err)
				}
				l = wantUsed(t, l, dir, "taken back", c.want+7)
				if held := heldIn(t, l); held[signedKey] != len(c.others)+1 || held[liabilityKey] != min(len(c.others), 1)+1 {
					t.Errorf("%v entries in the store", held)
				}
				if r := reservation(t, l, 1, 100, c.fee); feeUsed(t, l) != max(c.want, c.fee)+7 {
					t.Errorf("asked for again, %d are used: it must be charged again", feeUsed(t, l))
				} else if !fails(t, r, true) {
					t.Error("charged again, it can't be taken back again")
				}
				wantUsed(t, l, dir, "taken back again", c.want+7)
			})
		}
	}
}

// Only calls that were in flight together since the digest was charged take it back, and only if all of them are
// certain.
func TestRevertIsForTheLastOfTheFlight(t *testing.T) {
	for _, c := range []struct {
		name    string
		certain []bool // of each call, all in flight together
		want    bool
	}{
		{"one", []bool{true}, true},
		{"one in doubt", []bool{false}, false},
		{"three", []bool{true, true, true}, true},
		{"the first in doubt", []bool{false, true, true}, false},
		{"the last in doubt", []bool{true, true, false}, false},
	} {
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		var calls []*Reservation
		for range c.certain {
			calls = append(calls, reservation(t, l, 1, 1, 40))
		}
		for i, r := range calls {
			if got := fails(t, r, c.certain[i]); got != (c.want && i == len(calls)-1) {
				t.Errorf("%s: call %d took the charge back: %v", c.name, i, got)
			}
		}
		wantUsed(t, l, dir, c.name, map[bool]uint64{true: 0, false: 40}[c.want])
	}
	t.Run("signed", func(t *testing.T) {
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		first, second := reservation(t, l, 1, 1, 40), reservation(t, l, 1, 1, 40)
		first.signed()
		if fails(t, second, true) {
			t.Error("a digest that was signed was taken back")
		}
		wantUsed(t, l, dir, "signed", 40)
	})
	t.Run("a later call", func(t *testing.T) {
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		fails(t, reservation(t, l, 1, 1, 40), false)
		if fails(t, reservation(t, l, 1, 1, 40), true) {
			t.Error("a call that found the digest charged took it back")
		}
		l = wantUsed(t, l, dir, "a later call", 40)
		if fails(t, reservation(t, l, 1, 1, 40), true) {
			t.Error("a call that found the digest in the store took it back")
		}
		wantUsed(t, l, dir, "a later process", 40)
	})
}

// A crash before the entry leaves the charge, and so does a ledger that stops.
func TestRevertThatIsNotOnDiskLeavesTheCharge(t *testing.T) {
	l, dir := newLedger(t)
	l.addActive("s", &policy.Spec{})
	r := reservation(t, l, 1, 1, 40)
	if err := r.Durable(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.haltOn(errors.New("the disk is gone"))
	if e, err := r.failed(true, audit.Record{Event: audit.SignFailed}); !errors.Is(err, ErrHalted) || e != nil {
		t.Errorf("taken back on a ledger that stopped: %v, %v", e, err)
	}
	wantUsed(t, l, dir, "stopped", 40)
}

// Once the chain has passed the nonce its cost is in no total, and nothing is given back.
func TestRevertOfAPassedNonceGivesNothingBack(t *testing.T) {
	f := newForgetting(t)
	r, err := f.ledger.Reserve("s", grantOf(3, 1, feeCharge(feeLimit, 100)), &audit.Record{Event: audit.SignGranted})
	if err != nil {
		t.Fatal(err)
	}
	f.sign(4, 2, 70)
	f.seen(time.Minute, 4, 0) // by another transaction
	if got := f.total(feeTracker); got != 70 {
		t.Fatalf("total %d, want 70", got)
	}
	if !fails(t, r, true) || f.total(feeTracker) != 70 {
		t.Errorf("total %d after it was taken back, want 70", f.total(feeTracker))
	}
	f.restart()
	if got := f.total(feeTracker); got != 70 {
		t.Errorf("total %d after a restart, want 70", got)
	}
	f.seen(time.Minute, 3, 0) // a reorganisation: it can't land again, as it was never signed
	if got := f.total(feeTracker); got != 70 {
		t.Errorf("total %d after a reorganisation, want 70", got)
	}
}

// What was carried into a later period is worked out again from the digests that remain.
func TestRevertOfWhatWasCarried(t *testing.T) {
	f := newForgetting(t)
	value := func(digest byte, amount uint64) *Reservation {
		t.Helper()
		r, err := f.ledger.Reserve("s", grantOf(3, digest, []policy.Charge{{Tracker: valueIn(f.now),
			Limit: policy.Decimal(*uint256.NewInt(valueLimit)), Amount: policy.Decimal(*uint256.NewInt(amount))}}),
			&audit.Record{Event: audit.SignGranted})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := f.now
	value(1, 20).signed()
	dear := value(2, 60)
	f.now += hour
	value(3, 30).signed() // carries 60 into this period
	if old, now := f.total(valueIn(first)), f.total(valueIn(f.now)); old != 60 || now != 60 {
		t.Fatalf("totals %d and %d, want 60 and 60", old, now)
	}
	if !fails(t, dear, true) {
		t.Fatal("not taken back")
	}
	for range 2 {
		if old, now := f.total(valueIn(first)), f.total(valueIn(f.now)); old != 30 && old != 20 || now != 30 {
			t.Errorf("totals %d and %d, want 20 (or 30) and 30", old, now)
		}
		f.restart()
	}
}

// certainly is an error of a device that has made no signature.
var certainly = backends.NotSigned(errors.New("the device is not there"))

// The client's answer waits for the entry, whose record says why; a limit has counted nothing.
func TestSignTakesBackWhatWasCertainlyNotSigned(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	fail := certainly
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) { return nil, fail }
	for nonce := range uint64(110) { // more than the limits have room for
		if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, backends.ErrNotSigned) {
			t.Fatal(err)
		}
	}
	if got := a.lastEvent(t); got != string(audit.SignReverted) {
		t.Errorf("last event %s, want %s", got, audit.SignReverted)
	}
	a.wantFee(t, sess, 0)
	trail, err := os.ReadFile(a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(trail)), "\n")
	var rec struct {
		Detail struct {
			Why      string
			Returned map[string]string
		}
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &rec); err != nil ||
		!strings.Contains(rec.Detail.Why, "not there") || rec.Detail.Returned["fee"] != "10" {
		t.Errorf("record %s, %v", lines[len(lines)-1], err)
	}
	fail = errors.New("no answer")
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err == nil || a.lastEvent(t) != string(audit.SignFailed) {
		t.Errorf("%v, last event %s", err, a.lastEvent(t))
	}
	a.wantFee(t, sess, 10)
	a.restart(t)
	a.wantFee(t, sess, 10)
}

// wantFee wants sess's fee limit to have counted that much.
func (a *agent) wantFee(t *testing.T, sess *Session, want uint64) {
	t.Helper()
	all, err := a.Usage(sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, u := range all {
		if used := uint256.Int(u.Used); u.Tracker == feeTracker && used.Uint64() != want {
			t.Errorf("%d of the fee limit used, want %d", used.Uint64(), want)
		}
	}
}
