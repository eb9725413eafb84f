package session

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/chain/chaintest"
	"github.com/keyward/keyward/policy"
)

// sameKey is a device that returns one key for every session.
type sameKey struct {
	*soft.Backend
	key backends.Key
}

func (b *sameKey) Generate(ctx context.Context, attrs backends.KeyAttributes) (key backends.Key, err error) {
	if b.key == nil {
		b.key, err = b.Backend.Generate(ctx, attrs)
	}
	return b.key, err
}

// No two sessions get one key, whatever the device does.
func TestCreateRefusesAKeyThatIsInUse(t *testing.T) {
	a := newAgent(t)
	a.cfg.Backends["soft"] = &sameKey{Backend: a.soft}
	first := a.active(t)
	if got, err := a.Create(t.Context(), operator, a.createRequest()); err == nil ||
		!strings.Contains(err.Error(), string(first.ID)) {
		t.Errorf("Create = %v, %v, want an error with the first session's name", got, err)
	}
	if n := len(a.List()); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}

// The trail alone says what each session may do.
func TestCreateRecordsTheSession(t *testing.T) {
	a := newAgent(t)
	sess, err := a.Create(t.Context(), operator, a.createRequest())
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(a.auditPath())
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		var rec struct {
			Event  audit.Event
			Detail Session
		}
		if err := json.Unmarshal(line, &rec); err != nil {
			t.Fatal(err)
		}
		if rec.Event != audit.SessionCreated {
			continue
		}
		if d := &rec.Detail; d.ID != sess.ID || d.Spec == nil || d.Spec.Hash() != sess.Hash || len(d.Clients) != 1 {
			t.Errorf("the record's detail is %+v, want all of the session", d)
		}
		return
	}
	t.Error("no record of the session")
}

// lost is a spec whose key is in the device and whose session is not here.
func (a *agent) lost(t *testing.T, id string) *policy.Spec {
	t.Helper()
	key, err := a.soft.Generate(t.Context(), backends.KeyAttributes{Label: KeyLabelPrefix + id})
	if err != nil {
		t.Fatal(err)
	}
	spec := a.testSpec()
	spec.Signer = policy.Address(crypto.PubkeyToAddress(*key.Public()))
	return spec
}

// importing is Import of what was read from the chain.
func (a *agent) importing(t *testing.T, spec *policy.Spec) (*Session, error) {
	t.Helper()
	req := &ImportRequest{ChainID: 11124, Account: account, Hash: spec.Hash(), Clients: []Client{{ID: app.UID}}}
	return a.importSession(t.Context(), operator, req, spec, &ChainView{}, vectorValidator)
}

func TestImportRefuses(t *testing.T) {
	a := newAgent(t)
	unlimited := a.lost(t, "1111111111111111")
	unlimited.FeeLimit = policy.UsageLimit{}
	if got, err := a.importing(t, unlimited); err == nil {
		t.Errorf("a spec that no session may have: imported %v", got)
	}
	ending := a.lost(t, "2222222222222222")
	ending.ExpiresAt = *uint256.NewInt(uint64(a.clock().Unix()) + 59) // the margin is a minute
	if got, err := a.importing(t, ending); !errors.Is(err, ErrInvalid) {
		t.Errorf("within the margin of its end: %v, %v, want ErrInvalid", got, err)
	}
	claimed := a.lost(t, "3333333333333333")
	end, _ := a.claim("3333333333333333")
	if got, err := a.importing(t, claimed); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("while its key is being destroyed: %v, %v, want ErrBusy", got, err)
	}
	end()
	if got, err := a.importing(t, claimed); err != nil || got.ID != "3333333333333333" || got.Status != Active {
		t.Errorf("after that: %v, %v", got, err)
	}
}

// What its owner has closed is not active here either.
func TestImportOfAClosedSession(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	spec := o.lost(t, "4444444444444444")
	o.node.CreateSession(o.account, spec)
	o.node.Revoke(o.account, spec.Hash())
	o.onTime()
	req := &ImportRequest{ChainID: chaintest.ChainID, Account: o.account, Hash: spec.Hash(),
		Clients: []Client{{ID: app.UID}}}
	if got, err := o.watcher.Import(t.Context(), operator, req); err == nil || len(o.List()) > 0 {
		t.Errorf("imported %v", got)
	}
}

// An eoa session's limits are the agent's alone: the chain settles none of them.
func TestWatcherLeavesEOASessionsAlone(t *testing.T) {
	o := startOnNode(t, WatchConfig{})
	agw := o.create()
	req := o.createRequest()
	req.Kind, req.Account, req.Validator, req.ChainID = EOA, policy.Address{}, policy.Address{}, chaintest.ChainID
	eoa, err := o.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	for _, sess := range o.watcher.sessionsOn(o.watcher.chains[chaintest.ChainID]) {
		if sess.ID == eoa.ID {
			t.Error("the watcher reads an eoa session")
		}
		if sess.ID == agw.ID {
			agw = nil
		}
	}
	if agw != nil {
		t.Error("the watcher does not read the agw session")
	}
}

// One limit that was used from elsewhere is enough for the alarm.
func TestAlarmOverOneLimit(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	w := NewWatcher(a.Sessions, WatchConfig{}, nil)
	if err := w.external(t.Context(), sess, &Settlement{External: amounts{feeTracker: policy.Decimal(*uint256.NewInt(1))}}); err != nil {
		t.Fatal(err)
	}
	if got := a.lastEvent(t); got != string(audit.SessionExternal) {
		t.Errorf("last event %s, want %s", got, audit.SessionExternal)
	}
}

// A pending session that has passed its end here stays pending until it expires, also if the chain has it active.
func TestFollowAfterTheEnd(t *testing.T) {
	a := newAgent(t)
	sess, err := a.Create(t.Context(), operator, a.createRequest())
	if err != nil {
		t.Fatal(err)
	}
	a.pass(25 * time.Hour)
	w := NewWatcher(a.Sessions, WatchConfig{}, nil)
	if err := w.follow(t.Context(), sess, Seen{Status: chain.Active}); err != nil {
		t.Fatal(err)
	}
	if got, err := a.Get(sess.ID); err != nil || got.Status != Pending {
		t.Errorf("it is %v, %v, want pending", got, err)
	}
}
