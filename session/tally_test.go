package session

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/rules"
)

func n(x uint64) uint256.Int { return *uint256.NewInt(x) }

func rateOf(limit uint64, window time.Duration, sliding bool) rules.Counter {
	return rules.Counter{Rule: "rate", Key: "uid:1", Amount: n(1), Limit: n(limit), Window: window, Sliding: sliding}
}

// TestTallyAgainstEvents compares windows with a list of all events, at random times, some of them earlier than the one
// before. A fixed window is exact. A sliding one counts at least what it should, and no event that is older than the
// window and a part.
func TestTallyAgainstEvents(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range 200 {
		c := rateOf(1<<40, time.Duration(1+random.IntN(7200))*time.Second, round%2 == 0)
		length := int64(c.Window / time.Second)
		var have tally
		var events []int64
		now := int64(1_700_000_000)
		for step := range 200 {
			now += int64(random.IntN(int(length/4)+2)) - int64(random.IntN(2))
			begins, part := windowOf(&c, now)
			least, most := uint64(0), uint64(0)
			for _, at := range events {
				if at >= begins {
					least++
				}
				if at >= begins-max(1, length/slidingParts) {
					most++
				}
			}
			if !c.Sliding {
				most = least
			}
			got := have.since(begins)
			if got.Uint64() < least || got.Uint64() > most {
				t.Fatalf("seed %d, round %d, step %d: %d counted in %+v, want %d to %d", seed, round, step, got.Uint64(), c, least,
					most)
			}
			have = have.add(begins, part, now, n(1))
			events = append(events, now)
			if len(have) > slidingParts*2+2+clockSlack {
				t.Fatalf("seed %d: %d parts", seed, len(have))
			}
		}
	}
}

func TestTallyEncoding(t *testing.T) {
	want := tally{{-5, 7, n(0)}, {1_700_000_000, 1_700_000_059, *new(uint256.Int).SetAllOne()}}
	d := &decoder{b: want.append(nil)}
	got := d.tally()
	if err := d.end("a tally"); err != nil || len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("%v, %v", got, err)
	}
}

// guarded reserves a fee that a guard rule counts, too.
func guarded(t *testing.T, l *Ledger, nonce uint64, digest byte, c rules.Counter, at int64) (*Reservation, error) {
	t.Helper()
	g := grantOf(nonce, digest, feeCharge(1_000_000, 1))
	g.Counters, g.At = []rules.Counter{c}, time.Unix(at, 0)
	return l.Reserve("s", g, &audit.Record{Event: audit.SignGranted})
}

func countedBy(t *testing.T, l *Ledger, c rules.Counter, at int64) uint64 {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	have, err := l.tallyLocked(tallyKey(&c))
	if err != nil {
		t.Fatal(err)
	}
	begins, _ := windowOf(&c, at)
	sum := have.since(begins)
	return sum.Uint64()
}

// TestCountersSurvive fills a counter, restarts in between, and waits for the next window.
func TestCountersSurvive(t *testing.T) {
	l, dir := newLedger(t)
	l.addActive("s", &policy.Spec{})
	c := rateOf(3, time.Minute, false)
	const at = 1_700_000_040 // a window's first second
	for i := range uint64(3) {
		r, err := guarded(t, l, i, byte(i), c, at+int64(i))
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Durable(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.signed()
		if i == 1 {
			if err := l.close(); err != nil {
				t.Fatal(err)
			}
			l = reopenLedger(t, dir)
			l.addActive("s", &policy.Spec{})
		}
	}
	_, err := guarded(t, l, 3, 3, c, at+59)
	wantDenial(t, err, ReasonGuardRule)
	if fee := feeUsed(t, l); fee != 3 {
		t.Errorf("a fee of %d is counted, want 3: all or none", fee)
	}
	if _, err = guarded(t, l, 2, 2, c, at+59); err != nil {
		t.Errorf("the same digest again: %v", err)
	}
	other := c
	other.Key = "uid:2"
	if _, err = guarded(t, l, 4, 4, other, at+59); err != nil {
		t.Errorf("another client: %v", err)
	}
	if _, err = guarded(t, l, 5, 5, c, at+60); err != nil {
		t.Errorf("the next window: %v", err)
	}
	_, err = guarded(t, l, 6, 6, rules.Counter{Rule: "spend", Amount: n(2), Limit: n(1), Window: time.Minute}, at)
	wantDenial(t, err, ReasonGuardRule)
}

// TestCountersAreTakenBack takes back a grant whose device has certainly not signed, and keeps one in doubt.
func TestCountersAreTakenBack(t *testing.T) {
	for _, certain := range []bool{true, false} {
		l, dir := newLedger(t)
		l.addActive("s", &policy.Spec{})
		c := rateOf(10, time.Hour, true)
		const at = 1_700_000_000
		first, err := guarded(t, l, 1, 1, c, at)
		if err != nil {
			t.Fatal(err)
		}
		first.signed()
		second, err := guarded(t, l, 2, 2, c, at)
		if err != nil {
			t.Fatal(err)
		}
		again, err := guarded(t, l, 2, 2, c, at) // joins
		if err != nil {
			t.Fatal(err)
		}
		if fails(t, second, certain) || fails(t, again, true) != certain {
			t.Fatal("taken back at the wrong time")
		}
		want := uint64(2)
		if certain {
			want = 1
		}
		if got := countedBy(t, l, c, at); got != want {
			t.Errorf("certain: %v: %d counted, want %d", certain, got, want)
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		l = reopenLedger(t, dir)
		if got := countedBy(t, l, c, at); got != want {
			t.Errorf("certain: %v, after a restart: %d counted, want %d", certain, got, want)
		}
	}
}

// TestPreviewAsksCounters has a counter that is used up: Preview refuses, and counts nothing.
func TestPreviewAsksCounters(t *testing.T) {
	l, _ := newLedger(t)
	l.addActive("s", &policy.Spec{})
	c := rateOf(1, time.Hour, false)
	g := grantOf(1, 1, feeCharge(1000, 1))
	g.Counters, g.At = []rules.Counter{c}, time.Unix(1_700_000_000, 0)
	for range 3 {
		if _, err := l.Preview("s", g); err != nil {
			t.Fatal(err)
		}
	}
	r, err := guarded(t, l, 1, 1, c, 1_700_000_000)
	if err != nil {
		t.Fatal(err)
	}
	r.signed()
	g.Nonce, g.Digest = 2, policy.Hash{2}
	_, err = l.Preview("s", g)
	wantDenial(t, err, ReasonGuardRule)
}
