package session

import (
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/policy"
)

// forgetting is a model whose chain is seen at times that the test says.
type forgetting struct{ *model }

func newForgetting(t *testing.T) forgetting { return forgetting{newModel(t, 1)} }

// sign signs a digest for a nonce, for a fee, and returns what the fee limit counts for it.
func (f forgetting) sign(nonce uint64, digest byte, fee uint64) (counted uint64) {
	f.t.Helper()
	before := f.total(feeTracker)
	after, err := reserve(f.t, f.ledger, "s", grantOf(nonce, digest, feeCharge(feeLimit, fee)))
	if err != nil {
		f.t.Fatal(err)
	}
	return after - before
}

// seen settles by a block that comes d after the last, and leaves the account at nonce with fees counted.
func (f forgetting) seen(d time.Duration, nonce, fees uint64) {
	f.t.Helper()
	f.now += int64(d / time.Second)
	f.mine(func(s *modelState) { s.nonce, s.used[feeTracker] = nonce, fees })
	f.read(0)
	f.settle()
}

// wantHeld wants that many nonces and digests in the store, also after a restart.
func (f forgetting) wantHeld(when string, liabilities, digests int) {
	f.t.Helper()
	f.restart()
	if held := heldIn(f.t, f.ledger); held[liabilityKey] != liabilities || held[signedKey] != digests {
		f.t.Errorf("%s: %d nonces and %d digests are in the store, want %d and %d", when, held[liabilityKey], held[signedKey],
			liabilities, digests)
	}
}

const day = 24 * time.Hour

// What was signed for a nonce is kept for a day after the account has used it, and dropped within the day after that.
func TestForgetsADayAfterTheNonceWasUsed(t *testing.T) {
	f := newForgetting(t)
	f.sign(3, 1, 100)
	f.sign(3, 2, 60) // a replacement
	f.sign(4, 3, 10)
	f.wantHeld("signed", 2, 3)
	f.seen(time.Minute, 4, 60) // the cheaper one has landed
	f.wantHeld("landed", 2, 3)
	f.seen(day-time.Minute-time.Second, 4, 60)
	f.wantHeld("a second before a day", 2, 3)
	if got := f.total(feeTracker); got != 70 {
		t.Errorf("total %d, want 60 that landed and 10 that can", got)
	}
	f.seen(time.Second, 4, 60) // from now on, it waits for what is used by now
	f.wantHeld("used for less than a day, as far as the ledger can say", 2, 3)
	f.seen(day, 4, 60)
	f.wantHeld("two days after", 1, 1)
	if got := f.total(feeTracker); got != 70 {
		t.Errorf("total %d after it was forgotten, want 70", got)
	}
}

// What the chain has not passed stays charged, and its digest free, however old it is.
func TestForgetsNothingThatCanLand(t *testing.T) {
	f := newForgetting(t)
	f.sign(3, 1, 100)
	f.sign(5, 2, 40)
	f.sign(5, 3, 50)
	f.seen(time.Minute, 5, 100)
	for range 30 {
		f.seen(day, 5, 100)
		if got := f.total(feeTracker); got != 150 {
			t.Fatalf("total %d, want 100 that landed and 50 that can", got)
		}
	}
	f.wantHeld("after a month", 1, 2)
	for digest, fee := range map[byte]uint64{2: 40, 3: 50} {
		if more := f.sign(5, digest, fee); more != 0 {
			t.Errorf("digest %d cost %d again", digest, more)
		}
	}
	f.seen(day, 6, 150)
	f.wantHeld("used", 1, 2)
	f.seen(day-time.Second, 6, 150)
	f.wantHeld("used for almost a day", 1, 2)
	f.seen(time.Second, 6, 150)
	f.wantHeld("used for a day", 0, 0)
}

// A reorganisation within the day finds every liability and each digest that it brings back.
func TestForgetsNothingThatAReorganisationBringsBack(t *testing.T) {
	f := newForgetting(t)
	f.sign(3, 1, 100)
	f.sign(4, 2, 50)
	f.seen(time.Minute, 5, 150)
	f.seen(day-time.Minute-time.Second, 5, 150)
	f.seen(time.Second, 3, 0) // as if a day had not been
	if got := f.total(feeTracker); got != 150 {
		t.Errorf("total %d after a reorganisation, want 150 that can land again", got)
	}
	if more := f.sign(3, 1, 100); more != 0 {
		t.Errorf("a digest that can land again cost %d", more)
	}
	f.seen(day, 3, 0)
	f.seen(day, 3, 0)
	f.wantHeld("two days later, both still open", 2, 2)
}

// A chain that is set back below what was forgotten lowers no total.
func TestBelowWhatIsForgottenTotalsStay(t *testing.T) {
	f := newForgetting(t)
	f.sign(3, 1, 100)
	f.seen(time.Minute, 4, 100)
	f.seen(day, 4, 100)
	f.seen(day, 4, 100)
	f.wantHeld("forgotten", 0, 0)
	f.seen(time.Minute, 3, 0)
	if got := f.total(feeTracker); got != 100 {
		t.Errorf("total %d, want the 100 of before: what was forgotten may land again", got)
	}
}

// Signing again and again for a nonce that was used long ago does not fill the store, even if the account stands still.
func TestForgetsWhatWasSignedForUsedNonces(t *testing.T) {
	f := newForgetting(t)
	f.seen(time.Minute, 5, 0)
	f.seen(day, 5, 0)
	for i := range byte(10) {
		f.sign(4, i+1, 10) // it can't land
		f.seen(day, 5, 0)
		if got := f.total(feeTracker); got != 0 {
			t.Fatalf("total %d, want 0: nothing can land", got)
		}
	}
	f.wantHeld("ten days of signing for a used nonce", 0, 0)
}

// A day's totals of past periods are kept, and older ones dropped.
func TestForgetsPastPeriods(t *testing.T) {
	f := newForgetting(t)
	for i := range byte(72) { // an hour each
		g := grantOf(uint64(i)+3, i+1, []policy.Charge{{Tracker: valueIn(f.now),
			Limit:  policy.Decimal(*uint256.NewInt(valueLimit)),
			Amount: policy.Decimal(*uint256.NewInt(1))}})
		if _, err := reserve(t, f.ledger, "s", g); err != nil {
			t.Fatal(err)
		}
		f.seen(time.Hour, uint64(i)+4, 0)
	}
	f.restart()
	if held := heldIn(t, f.ledger); held[usageKey] > 51 || held[usageKey] < 25 { // and the fee's
		t.Errorf("%d totals after three days of hours, want those of one to two days", held[usageKey])
	}
}

// A session that ends without a chain keeps every digest until its key is destroyed, and nothing after that.
func TestForgetsAnExpiredSession(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.signed(t, sess, 7)
	held := func() [2]int { h := heldIn(t, a.ledger); return [2]int{h[liabilityKey], h[signedKey]} }
	a.pass(25 * time.Hour)
	a.runUntil(t, func() bool { s, err := a.Get(sess.ID); return err == nil && s.Status == Expired })
	if got := held(); got != [2]int{1, 1} {
		t.Errorf("%d nonces and digests after the session expired, want 1 and 1", got)
	}
	a.pass(2 * time.Hour) // the grace period of its key
	a.runUntil(t, func() bool { return held() == [2]int{} })
}
