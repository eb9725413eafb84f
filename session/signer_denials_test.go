package session

import (
	"errors"
	"testing"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

func TestSimulateCountsNothing(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	records := len(a.events(t))
	for range 200 {
		v, err := a.Simulate(t.Context(), app, transfer(sess, 1))
		if err != nil || v.Denial != nil || len(v.Charges) != 2 {
			t.Fatalf("Simulate = %+v, %v, want two charges", v, err)
		}
	}
	for _, u := range mustUsage(t, a, sess.ID) {
		if u.Used != (policy.Decimal{}) {
			t.Errorf("%+v: Simulate counted", u)
		}
	}
	if got := len(a.events(t)); got != records {
		t.Errorf("%d audit records, want %d as before", got, records)
	}
}

// A used-up limit says which policy it belongs to.
func TestLimitDenialsNameTheirPolicy(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	var d *policy.Denial
	for nonce := range uint64(3) {
		req := transfer(sess, nonce)
		req.Tx.Value = *uint256.NewInt(50)
		_, err := a.Sign(t.Context(), app, req)
		errors.As(err, &d)
	}
	if d == nil || d.Policy != 0 || d.Reason != policy.ReasonAllowanceExceeded || d.Remaining == nil ||
		!d.Remaining.IsZero() {
		t.Errorf("third time 50 of 100: %+v, want the allowance of transfer policy 0 with nothing left", d)
	}
}

func TestLockedSignsNothing(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); !errors.Is(err, ErrLocked) {
		t.Errorf("Sign = %v, want ErrLocked", err)
	}
	if err := a.Unlock(a.LockVersion(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
		t.Errorf("unlocked: Sign = %v", err)
	}
}

func TestMessagesAreRefusedAndRecorded(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	wantDenial(t, a.Refuse(t.Context(), app, sess.Signer(), "personal_sign", ReasonMessage, "a message"),
		"messageNotAllowed")
	if got := a.lastEvent(t); got != string(audit.MessageRefused) {
		t.Errorf("last event %s, want %s", got, audit.MessageRefused)
	}
	if err := a.Refuse(t.Context(), stranger, sess.Signer(), "personal_sign", ReasonMessage, "a message"); !errors.Is(err,
		ErrUnknownSigner) {
		t.Errorf("stranger: %v, want ErrUnknownSigner", err)
	}
}

// A key that was replaced in the device under the same URI is not used.
func TestAnotherKeyUnderTheURIIsNotUsed(t *testing.T) {
	a := newAgent(t)
	one, two := a.active(t), a.active(t)
	a.ledger.mu.Lock()
	swapped := *one
	swapped.KeyURI = two.KeyURI
	a.ledger.index.put(&swapped)
	a.ledger.mu.Unlock()
	a.forgetKey(one.ID)
	if _, err := a.Sign(t.Context(), app, transfer(&swapped, 1)); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("Sign = %v, want ErrKeyNotFound", err)
	}
}
