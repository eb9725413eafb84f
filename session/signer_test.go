package session

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// transfer asks for a transfer of 1 wei to target at a fee of 10 wei.
func transfer(sess *Session, nonce uint64) *SignRequest {
	return &SignRequest{Signer: sess.Signer(), Method: "test", Tx: &zktx.Transaction{
		Type: zktx.TypeZKsync, ChainID: sess.ChainID, Nonce: nonce, From: sess.Account, To: target,
		Value: *uint256.NewInt(1), GasLimit: *uint256.NewInt(10), MaxFeePerGas: *uint256.NewInt(1),
		GasPerPubdata: *uint256.NewInt(50000),
	}}
}

func wantDenial(t *testing.T, err error, reason string) {
	t.Helper()
	var d *policy.Denial
	if !errors.As(err, &d) || d.Reason != reason {
		t.Errorf("got %v, want a denial with reason %s", err, reason)
	}
}

func TestSignGivesASignatureOfTheSession(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	req := transfer(sess, 7)
	got, err := a.Sign(t.Context(), app, req)
	if err != nil {
		t.Fatal(err)
	}
	if got.Digest != req.Tx.Digest() {
		t.Error("the digest is not that of the transaction")
	}
	rsv := got.Signature
	rsv[64] -= 27
	pub, err := crypto.SigToPub(got.Digest[:], rsv[:])
	if err != nil || policy.Address(crypto.PubkeyToAddress(*pub)) != sess.Signer() {
		t.Errorf("signature recovers to %v, %v, want %s", pub, err, sess.Signer())
	}
	if len(got.PeriodIDs) != 2 || got.PeriodIDs[1] != uint64(a.clock().Unix())/3600 {
		t.Errorf("period ids %v", got.PeriodIDs)
	}
	if got := a.lastEvent(t); got != string(audit.SignGranted) {
		t.Errorf("last event %s, want %s", got, audit.SignGranted)
	}
}

func TestSignDenies(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	for _, tc := range []struct {
		name   string
		edit   func(*SignRequest)
		reason string
	}{
		{"other target", func(r *SignRequest) { r.Tx.To = policy.Address{1} }, policy.ReasonTransferNotAllowed},
		{"too much value", func(r *SignRequest) { r.Tx.Value = *uint256.NewInt(51) }, policy.ReasonValueTooHigh},
		{"fee over the limit", func(r *SignRequest) { r.Tx.GasLimit = *uint256.NewInt(1001) }, policy.ReasonLifetimeExceeded},
		{"other chain", func(r *SignRequest) { r.Tx.ChainID = 1 }, "wrongChain"},
		{"other account", func(r *SignRequest) { r.Tx.From = policy.Address{2} }, "wrongAccount"},
		{"from the signer", func(r *SignRequest) { r.Tx.From = sess.Signer() }, "wrongAccount"},
		{"ethereum transaction", func(r *SignRequest) { r.Tx.Type = zktx.TypeDynamicFee }, "wrongType"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req := transfer(sess, 1)
			tc.edit(req)
			_, err := a.Sign(t.Context(), app, req)
			wantDenial(t, err, tc.reason)
			if got := a.lastEvent(t); got != string(audit.SignDenied) {
				t.Errorf("last event %s, want %s", got, audit.SignDenied)
			}
			v, err := a.Simulate(t.Context(), app, req)
			if err != nil || v.Denial == nil || v.Denial.Reason != tc.reason {
				t.Errorf("Simulate = %+v, %v, want the same denial", v, err)
			}
		})
	}
	if n, err := a.Outstanding(sess.ID); err != nil || n != 0 {
		t.Errorf("%d liabilities, %v, after denials only", n, err)
	}
}

// Whoever is no client learns nothing: the answer is the same as for no session at all.
func TestSignIsForClientsOnly(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	unknown := transfer(sess, 1)
	unknown.Signer = policy.Address{9}
	byID := &SignRequest{Session: sess.ID, Tx: transfer(sess, 1).Tx}
	byAccount := &SignRequest{Tx: transfer(sess, 1).Tx}
	for _, tc := range []struct {
		name string
		peer audit.Peer
		req  *SignRequest
	}{
		{"stranger by signer", stranger, transfer(sess, 1)},
		{"stranger by id", stranger, byID},
		{"stranger by account", stranger, byAccount},
		{"root is no exception", audit.Peer{UID: 0}, transfer(sess, 1)},
		{"no such signer", app, unknown},
	} {
		_, err := a.Sign(t.Context(), tc.peer, tc.req)
		if err == nil || err.Error() != ErrUnknownSigner.Error() {
			t.Errorf("%s: Sign = %v, want exactly ErrUnknownSigner", tc.name, err)
		}
		if got := a.lastEvent(t); got != string(audit.AccessRefused) {
			t.Errorf("%s: last event %s, want %s", tc.name, got, audit.AccessRefused)
		}
	}
	for _, req := range []*SignRequest{transfer(sess, 1), byID, byAccount} {
		if _, err := a.Sign(t.Context(), app, req); err != nil {
			t.Errorf("the client itself: Sign = %v", err)
		}
	}
}

func TestGroupsAreClients(t *testing.T) {
	a := newAgent(t)
	req := a.createRequest()
	req.Clients = []Client{{Group: true, ID: 50}}
	sess, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		peer audit.Peer
		want int
	}{
		{audit.Peer{UID: 1, GID: 50}, 1},
		{audit.Peer{UID: 1, GID: 1, Groups: []uint32{7, 50}}, 1},
		{audit.Peer{UID: 50, GID: 1}, 0},
	} {
		if got := a.VisibleTo(tc.peer); len(got) != tc.want {
			t.Errorf("%+v sees %d sessions, want %d (%s)", tc.peer, len(got), tc.want, sess.ID)
		}
	}
}

func TestSeveralSessionsOfAnAccount(t *testing.T) {
	a := newAgent(t)
	first, second := a.active(t), a.active(t)
	byAccount := &SignRequest{Tx: transfer(first, 1).Tx}
	if _, err := a.Sign(t.Context(), app, byAccount); !errors.Is(err, ErrAmbiguous) ||
		!strings.Contains(err.Error(), string(second.ID)) {
		t.Errorf("Sign = %v, want ErrAmbiguous with the sessions' names", err)
	}
	if _, err := a.Revoke(t.Context(), operator, first.ID); err != nil {
		t.Fatal(err)
	}
	got, err := a.Sign(t.Context(), app, byAccount)
	if err != nil || got.Session.ID != second.ID {
		t.Errorf("with one revoked: %v, want the other", err)
	}
	if _, err := a.Revoke(t.Context(), operator, second.ID); err != nil {
		t.Fatal(err)
	}
	_, err = a.Sign(t.Context(), app, byAccount)
	wantDenial(t, err, policy.ReasonSessionNotActive)
}

// 1,000 parallel requests against limits that admit 100, half by fee and half by value.
func TestLimitsHoldUnderConcurrency(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t) // fees of 1,000 at 10 each; 100 wei at 1 each
	var granted, denied atomic.Int32
	var wg sync.WaitGroup
	for nonce := range uint64(1000) {
		wg.Go(func() {
			_, err := a.Sign(t.Context(), app, transfer(sess, nonce))
			for errors.Is(err, ErrOverloaded) { // on a slow machine fewer may wait
				time.Sleep(10 * time.Millisecond)
				_, err = a.Sign(t.Context(), app, transfer(sess, nonce))
			}
			var d *policy.Denial
			switch {
			case err == nil:
				granted.Add(1)
			case errors.As(err, &d):
				denied.Add(1)
			default:
				t.Errorf("nonce %d: %v", nonce, err)
			}
		})
	}
	wg.Wait()
	if granted.Load() != 100 || denied.Load() != 900 {
		t.Errorf("%d granted, %d denied, want 100 and 900", granted.Load(), denied.Load())
	}
	for _, u := range mustUsage(t, a, sess.ID) {
		if u.Remaining != (policy.Decimal{}) {
			t.Errorf("%+v: want nothing left", u)
		}
	}
	if got := len(a.events(t)); got != 2+1000 {
		t.Errorf("%d audit records, want one for each request and two for the session", got)
	}
}

func mustUsage(t *testing.T, a *agent, id ID) []Usage {
	t.Helper()
	all, err := a.Usage(id)
	if err != nil || len(all) != 2 {
		t.Fatalf("Usage = %v, %v, want two limits", all, err)
	}
	return all
}

// What the device gives is not believed: a signature that is not the session key's over the
// digest never leaves, and its charge stays.
func TestBadSignaturesAreNotReleased(t *testing.T) {
	other, err := crypto.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, sign := range map[string]func(digest [32]byte) (*backends.Signature, error){
		"another key's": func(d [32]byte) (*backends.Signature, error) {
			raw, err := crypto.Sign(d[:], other)
			return (*backends.Signature)(raw[:64]), err
		},
		"zeros":   func([32]byte) (*backends.Signature, error) { return &backends.Signature{}, nil },
		"garbage": func(d [32]byte) (*backends.Signature, error) { return &backends.Signature{1, 40: 2}, nil },
		"error":   func([32]byte) (*backends.Signature, error) { return nil, backends.ErrUnavailable },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			a.soft.OnSign = func(_ context.Context, d [32]byte) (*backends.Signature, error) { return sign(d) }
			sess := a.active(t)
			got, err := a.Sign(t.Context(), app, transfer(sess, 1))
			if err == nil || got != nil {
				t.Fatalf("Sign = %v, %v, want no signature", got, err)
			}
			if got := a.lastEvent(t); got != string(audit.SignFailed) {
				t.Errorf("last event %s, want %s", got, audit.SignFailed)
			}
			if u := mustUsage(t, a, sess.ID); u[0].Used != policy.Decimal(*uint256.NewInt(10)) {
				t.Errorf("used %v after a failed signature, want the charge to stay", u)
			}
		})
	}
}

// The signature must wait for the disk, however fast the device is.
func TestNoSignatureBeforeItIsOnDisk(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	release := hold(a.ledger)
	signed := make(chan struct{})
	a.soft.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) { close(signed); return nil, nil }
	released := make(chan error, 1)
	go func() {
		_, err := a.Sign(context.Background(), app, transfer(sess, 1))
		if trail, _ := os.ReadFile(a.auditPath()); !bytes.Contains(trail, []byte(audit.SignGranted)) {
			t.Error("released before its record was written") // however late a wrong agent is
		}
		released <- err
	}()
	<-signed
	select {
	case err := <-released:
		t.Fatalf("released (%v) while the ledger was not written", err)
	case <-time.After(50 * time.Millisecond): // only a wrong agent is faster
	}
	release()
	if err := <-released; err != nil {
		t.Errorf("Sign = %v", err)
	}
}

func TestNothingIsSignedWithoutAuditTrail(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	a.ledger.trail.Close()
	for nonce := range uint64(2) {
		if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); !errors.Is(err, ErrHalted) {
			t.Errorf("Sign = %v, want ErrHalted", err)
		}
	}
	if !errors.Is(a.Halted(), ErrHalted) {
		t.Error("Halted does not say so")
	}
}

func TestRevokeStopsAtOnce(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var after atomic.Bool
	for w := range uint64(4) {
		wg.Go(func() {
			for n := w; ; n += 4 {
				late := after.Load()
				if _, err := a.Sign(t.Context(), app, transfer(sess, n)); err == nil && late {
					t.Error("signed after Revoke had returned")
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	if _, err := a.Revoke(t.Context(), operator, sess.ID); err != nil {
		t.Error(err)
	}
	after.Store(true)
	_, err := a.Sign(t.Context(), app, transfer(sess, 1<<40))
	wantDenial(t, err, policy.ReasonSessionNotActive)
	close(stop)
	wg.Wait()
}

func TestRestartForgetsNothing(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	for nonce := range uint64(60) {
		if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); err != nil {
			t.Fatal(err)
		}
		if nonce%20 == 0 {
			a.restart(t)
		}
	}
	before := mustUsage(t, a, sess.ID)
	a.restart(t)
	if after := mustUsage(t, a, sess.ID); after[0] != before[0] || after[1] != before[1] {
		t.Errorf("usage %+v after a restart, want %+v", after, before)
	}
	if n, err := a.Outstanding(sess.ID); err != nil || n != 60 {
		t.Errorf("%d outstanding, %v, want 60", n, err)
	}
}
