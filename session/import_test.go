package session

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

func TestImport(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	lost := o.approved()
	nonce := o.node.Nonce(o.account)
	o.land(lost, nonce, o.sign(lost, nonce))
	req := &ImportRequest{ChainID: chaintest.ChainID, Account: o.account, Hash: lost.Hash,
		Clients: []Client{{ID: app.UID}}}
	if _, err := o.watcher.Import(t.Context(), operator, req); !errors.Is(err, ErrInvalid) {
		t.Errorf("importing one that is here: %v, want ErrInvalid", err)
	}
	// The state is lost, the keys are not.
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o.dir = t.TempDir()
	o.start(t)
	o.watch(WatchConfig{StopOnExternalUse: true})
	for name, edit := range map[string]func(*ImportRequest){
		"other hash":    func(r *ImportRequest) { r.Hash[0]++ },
		"other account": func(r *ImportRequest) { r.Account[19]++ },
		"other chain":   func(r *ImportRequest) { r.ChainID++ },
		"no client":     func(r *ImportRequest) { r.Clients = nil },
		"no backend":    func(r *ImportRequest) { r.Backend = "x" },
	} {
		bad := *req
		edit(&bad)
		if got, err := o.watcher.Import(t.Context(), operator, &bad); err == nil {
			t.Errorf("%s: imported %v", name, got)
		}
	}
	got, err := o.watcher.Import(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != lost.ID || got.Signer() != lost.Signer() || got.Status != Active || got.Hash != lost.Hash ||
		got.Validator != lost.Validator {
		t.Errorf("imported %+v, want what was lost", got)
	}
	o.wantFees(got, 10, 10)
	o.restart(t)
	o.watch(WatchConfig{StopOnExternalUse: true})
	o.wantFees(got, 10, 10)
	o.land(got, nonce+1, o.sign(got, nonce+1))
	o.mustRound()
	o.wantFees(got, 20, 20)
	o.want(got, Active) // what it had used before is no external usage

	o.soft.Destroy(t.Context(), got.KeyURI)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	o.dir = t.TempDir()
	o.start(t)
	o.watch(WatchConfig{})
	if _, err := o.watcher.Import(t.Context(), operator, req); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("without the key: %v, want ErrKeyNotFound", err)
	}
}

func TestRenewMovesClients(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	old := o.approved()
	nonce := o.node.Nonce(o.account)
	later := *new(uint256.Int).AddUint64(&old.Spec.ExpiresAt, 86400)
	next, _, err := o.RenewSession(t.Context(), operator, old.ID, later, true)
	if err != nil {
		t.Fatal(err)
	}
	if next.Signer() == old.Signer() || next.Predecessor != old.ID || o.Successor(old.ID) != next.ID ||
		len(next.Clients) != len(old.Clients) {
		t.Errorf("successor %+v", next)
	}
	if _, _, err := o.RenewSession(t.Context(), operator, old.ID, later, true); !errors.Is(err, ErrInvalid) ||
		!strings.Contains(err.Error(), string(next.ID)) {
		t.Errorf("renewing it again: %v, want the successor's name", err)
	}
	byAccount := &SignRequest{Tx: transfer(old, nonce).Tx}
	byID := &SignRequest{Session: old.ID, Tx: transfer(old, nonce).Tx}
	bySigner := &SignRequest{Signer: old.Signer(), Tx: transfer(old, nonce).Tx}
	signsWith := func(want *Session, reqs ...*SignRequest) {
		t.Helper()
		for _, req := range reqs {
			if got, err := o.Sign(t.Context(), app, req); err != nil || got.Session.ID != want.ID {
				t.Errorf("Sign = %+v, %v, want session %s", got, err, want.ID)
			}
		}
	}
	signsWith(old, byAccount, byID, bySigner) // the owner has not approved it yet
	o.node.CreateSession(o.account, next.Spec)
	o.onTime()
	o.mustRound()
	o.want(next, Active)
	o.want(old, Active)
	signsWith(next, byAccount, byID)
	signsWith(old, bySigner)
	if got := o.lastEvent(t); !slices.Contains(o.events(t), string(audit.SessionSucceeded)) {
		t.Errorf("no record of the move; last event %s", got)
	}
	o.restart(t)
	o.watch(WatchConfig{})
	signsWith(next, byAccount, byID)
	o.node.Revoke(o.account, old.Hash)
	o.onTime()
	o.mustRound()
	o.want(old, Closed)
	signsWith(next, byAccount, byID)
	// A client that may not use the successor is not moved.
	if _, err := o.Sign(t.Context(), stranger, byID); !errors.Is(err, ErrUnknownSigner) {
		t.Errorf("stranger: %v", err)
	}
}

// A session that its owner has opened with an end in milliseconds is one that can be lost, too. Its
// successor gets an end in seconds, which is earlier.
func TestImportAndRenewOfMilliseconds(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	key, err := o.soft.Generate(t.Context(), backends.KeyAttributes{Label: KeyLabelPrefix + "00112233aabbccdd"})
	if err != nil {
		t.Fatal(err)
	}
	spec := o.testSpec()
	spec.Signer = policy.Address(crypto.PubkeyToAddress(*key.Public()))
	meant := *uint256.NewInt(uint64(o.clock().Unix()) + 86400)
	spec.ExpiresAt.Mul(&meant, uint256.NewInt(1000))
	o.node.CreateSession(o.account, spec)
	o.onTime()
	sess, err := o.watcher.Import(t.Context(), operator, &ImportRequest{
		ChainID: chaintest.ChainID, Account: o.account, Hash: spec.Hash(), Clients: []Client{{ID: app.UID}},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = o.RenewSession(t.Context(), operator, sess.ID, *new(uint256.Int).AddUint64(&spec.ExpiresAt, 1), true)
	if want := "if it is in milliseconds, write " + meant.Dec(); !errors.Is(err, ErrInvalid) ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("renewed in milliseconds: %v, want %q", err, want)
	}
	next, _, err := o.RenewSession(t.Context(), operator, sess.ID, meant, true)
	if err != nil || next.Spec.ExpiresAt != meant {
		t.Errorf("renewed in seconds: %v", err)
	}
}
