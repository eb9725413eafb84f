package session

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
)

func TestLifecycle(t *testing.T) {
	moves := map[string]func(*agent, ID) error{
		"activate": func(a *agent, id ID) error { _, err := a.Activate(context.Background(), operator, id); return err },
		"revoke":   func(a *agent, id ID) error { _, err := a.Revoke(context.Background(), operator, id); return err },
		"close":    func(a *agent, id ID) error { _, err := a.CloseSession(context.Background(), operator, id); return err },
	}
	for _, tc := range []struct {
		moves string
		want  Status
		ok    bool // of the last move
	}{
		{"", Pending, true},
		{"activate", Active, true},
		{"activate activate", Active, true},
		{"activate revoke revoke", Revoked, true},
		{"close close", Closed, true},
		{"activate revoke", Revoked, true},
		{"activate close", Closed, true},
		{"revoke", Revoked, true},
		{"revoke activate", Revoked, false},
		{"activate revoke activate", Revoked, false},
		{"activate revoke close", Revoked, false},
		{"activate close revoke", Closed, false},
	} {
		t.Run(tc.moves, func(t *testing.T) {
			a := newAgent(t)
			sess, err := a.Create(t.Context(), operator, a.createRequest())
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range strings.Fields(tc.moves) {
				err = moves[m](a, sess.ID)
			}
			if (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("last move = %v, want ok %v", err, tc.ok)
			}
			for range 2 { // the same after a restart
				if got, err := a.Get(sess.ID); err != nil || got.Status != tc.want {
					t.Errorf("status %v, %v, want %s", got, err, tc.want)
				}
				a.restart(t)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	a := newAgent(t)
	for _, tc := range []struct {
		name string
		edit func(*CreateRequest)
		want string
	}{
		{"no client", func(r *CreateRequest) { r.Clients = nil }, "no client"},
		{"no account", func(r *CreateRequest) { r.Account = policy.Address{} }, "no account"},
		{"no validator", func(r *CreateRequest) { r.Validator = policy.Address{} }, "no validator"},
		{"unknown kind", func(r *CreateRequest) { r.Kind = "x" }, `kind "x"`},
		{"unknown backend", func(r *CreateRequest) { r.Backend = "x" }, `no backend "x"`},
		{"signer given", func(r *CreateRequest) { r.Spec.Signer = account }, "names a signer"},
		{"expired", func(r *CreateRequest) { r.Spec.ExpiresAt = *uint256.NewInt(1) }, "is past"},
		{"within the margin", func(r *CreateRequest) { r.Spec.ExpiresAt = *uint256.NewInt(uint64(a.clock().Unix()) + 59) },
			"nearer than the margin"},
		{"milliseconds", func(r *CreateRequest) { r.Spec.ExpiresAt = *uint256.NewInt(1_798_761_600_123) },
			"expiresAt: 1798761600123 seconds are in the year 58970; if it is in milliseconds, write 1798761600 ("},
		{"10^11", func(r *CreateRequest) { r.Spec.ExpiresAt = *uint256.NewInt(1e11) }, "write 100000000 ("},
		{"10^14 - 1", func(r *CreateRequest) { r.Spec.ExpiresAt = *uint256.NewInt(1e14 - 1) }, "write 99999999999 ("},
		{"unlimited fee", func(r *CreateRequest) { r.Spec.FeeLimit = policy.UsageLimit{} },
			"Unlimited fee allowance is not safe"},
		{"eoa with account", func(r *CreateRequest) { r.Kind = EOA }, "leave the account out"},
		{"chain 0", func(r *CreateRequest) { r.ChainID = 0 }, "chain id 0"},
	} {
		req := a.createRequest()
		tc.edit(req)
		if _, err := a.Create(t.Context(), operator, req); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: Create = %v, want %q", tc.name, err, tc.want)
		}
	}
	if keys, err := a.soft.Keys(t.Context(), ""); err != nil || len(keys) != 0 {
		t.Errorf("%d keys, %v, were made for refused sessions", len(keys), err)
	}
}

// "Never" is written as 2^48-1 or 2^256-1, in no unit.
func TestCreateWithoutEnd(t *testing.T) {
	a := newAgent(t)
	for _, expiresAt := range []*uint256.Int{uint256.NewInt(1e11 - 1), uint256.NewInt(1e14), uint256.NewInt(1<<48 - 1),
		new(uint256.Int).SetAllOne()} {
		req := a.createRequest()
		req.Spec.ExpiresAt = *expiresAt
		sess, err := a.Create(t.Context(), operator, req)
		if err != nil || sess.Spec.ExpiresAt != *expiresAt {
			t.Errorf("expiresAt %s: %v", expiresAt.Dec(), err)
		}
	}
}

func TestEverySessionHasAFreshKey(t *testing.T) {
	a := newAgent(t)
	seen := map[policy.Address]bool{}
	for range 5 {
		sess := a.active(t)
		if seen[sess.Signer()] {
			t.Errorf("signer %s was used before", sess.Signer())
		}
		seen[sess.Signer()] = true
		if sess.Hash != sess.Spec.Hash() {
			t.Error("session hash is not that of the completed spec")
		}
	}
}

func TestEOASessionIsItsOwnAccountAndActive(t *testing.T) {
	a := newAgent(t)
	req := a.createRequest()
	req.Kind, req.Account, req.Validator = EOA, policy.Address{}, policy.Address{}
	sess, err := a.Create(t.Context(), operator, req)
	if err != nil {
		t.Fatal(err)
	}
	if sess.Account != sess.Signer() || sess.Status != Active {
		t.Errorf("account %s, status %s, want the signer %s, active", sess.Account, sess.Status, sess.Signer())
	}
}

func TestExpiryAndDestruction(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	status := func() Status { s, _ := a.Get(sess.ID); return s.Status }
	destroyed := func() bool { s, _ := a.Get(sess.ID); return !s.KeyDestroyedAt.IsZero() }

	a.pass(24*time.Hour - 61*time.Second)
	if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
		t.Errorf("61 s before the end: Sign = %v", err)
	}
	a.pass(time.Second)
	if _, err := a.Sign(t.Context(), app, transfer(sess, 2)); err != nil {
		t.Errorf("60 s before the end: Sign = %v, want a signature: the margin is inclusive", err)
	}
	a.pass(time.Second)
	_, err := a.Sign(t.Context(), app, transfer(sess, 3))
	wantDenial(t, err, policy.ReasonSessionExpired)

	a.runUntil(t, func() bool { return status() == Expired })
	if destroyed() {
		t.Error("the key was destroyed before the grace period")
	}
	a.pass(time.Hour)
	a.runUntil(t, func() bool { return destroyed() && a.lastEvent(t) == string(audit.KeyDestroyed) })
	if _, err := a.soft.Key(t.Context(), sess.KeyURI); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("key after the grace period: %v, want ErrKeyNotFound", err)
	}
	a.pass(-48 * time.Hour) // a clock that is set back revives nothing
	_, err = a.Sign(t.Context(), app, transfer(sess, 4))
	wantDenial(t, err, policy.ReasonSessionNotActive)
}

// TestFailedCreationIsUndoneAtOnce: Run is woken when it may look, not before, when it would look a minute later.
func TestFailedCreationIsUndoneAtOnce(t *testing.T) {
	for name, create := range map[string]func(a *agent) error{
		"Create":   func(a *agent) error { _, err := a.Create(t.Context(), operator, a.createRequest()); return err },
		"SelfTest": func(a *agent) error { _, err := a.SelfTest(t.Context(), operator, "soft"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			failed, ended := make(chan struct{}), make(chan error)
			a.cfg.Backends["soft"] = &failing{Backend: a.soft, generate: func() error {
				a.keysMu.Lock() // what comes next waits for us
				close(failed)
				return backends.ErrUnavailable
			}}
			go func() { ended <- create(a) }()
			<-failed
			select {
			case <-a.nudge:
				t.Error("Run is woken while it has to leave that creation alone")
			case <-time.After(50 * time.Millisecond):
			}
			a.keysMu.Unlock()
			<-ended
			select {
			case <-a.nudge:
			default:
				t.Error("Run is not woken")
			}
			if intents := a.intents(); len(intents) != 1 {
				t.Errorf("intents %v, want the one that Run looks after", intents)
			}
		})
	}
}

// failing is a backend that makes no key.
type failing struct {
	*soft.Backend
	generate func() error
}

func (f *failing) Generate(context.Context, backends.KeyAttributes) (backends.Key, error) {
	return nil, f.generate()
}

// A creation that was cut short between the key and its session leaves no key behind.
func TestCreationCutShortLeavesNoKey(t *testing.T) {
	a := newAgent(t)
	id := newID()
	if err := a.putIntent(t.Context(), id, intent{Backend: "soft"}); err != nil {
		t.Fatal(err)
	}
	key, err := a.soft.Generate(t.Context(), backends.KeyAttributes{Label: KeyLabelPrefix + string(id)})
	if err != nil {
		t.Fatal(err)
	}
	other := a.active(t)
	a.restart(t)
	a.runUntil(t, func() bool { return len(a.intents()) == 0 })
	if trail := string(read(t, a.auditPath())); !strings.Contains(trail, `"keyUri":"`+key.URI()+`"`) {
		t.Errorf("no record names the destroyed key %s:\n%s", key.URI(), trail)
	}
	keys, err := a.soft.Keys(t.Context(), KeyLabelPrefix)
	if err != nil || len(keys) != 1 || keys[0].Key.URI() != other.KeyURI {
		t.Errorf("keys left: %v, %v, want only that of session %s", keys, err, other.ID)
	}
}

func TestOpenRefusesDamagedState(t *testing.T) {
	for _, tc := range []struct {
		name   string
		damage func(t *testing.T, a *agent)
		want   error
	}{
		{"all missing", func(t *testing.T, a *agent) {
			for _, path := range []string{a.ledgerPath(), a.ledgerPath() + ".db", a.auditPath()} {
				removeAll(t, path)
			}
		}, ErrDamaged},
		{"all missing, an empty directory left", func(t *testing.T, a *agent) {
			for _, path := range []string{a.ledgerPath(), a.ledgerPath() + ".db", a.auditPath()} {
				removeAll(t, path)
			}
			if err := os.Mkdir(a.ledgerPath(), 0o700); err != nil {
				t.Fatal(err)
			}
		}, ErrDamaged},
		{"ledger missing", func(t *testing.T, a *agent) { removeAll(t, a.ledgerPath()) }, ErrDamaged},
		{"ledger and its old file's mark missing", func(t *testing.T, a *agent) {
			removeAll(t, a.ledgerPath())
			removeAll(t, a.ledgerPath()+".db")
		}, ErrDamaged},
		{"ledger cut", func(t *testing.T, a *agent) { truncate(t, a.ledgerLog(t), 0.7) }, audit.ErrAhead},
		{"ledger cut at its start", func(t *testing.T, a *agent) { truncate(t, a.ledgerLog(t), 0.001) }, ErrDamaged},
		{"ledger empty", func(t *testing.T, a *agent) { truncate(t, a.ledgerLog(t), 0) }, ErrDamaged},
		{"ledger's log missing", func(t *testing.T, a *agent) { removeAll(t, a.ledgerLog(t)) }, ErrDamaged},
		{"ledger scribbled over", func(t *testing.T, a *agent) { scribble(t, a.ledgerPath()) }, ErrDamaged},
		{"trail missing", func(t *testing.T, a *agent) { removeAll(t, a.auditPath()) }, audit.ErrDamaged},
		{"trail cut", func(t *testing.T, a *agent) { truncate(t, a.auditPath(), 0.9) }, audit.ErrDamaged},
		{"trail empty", func(t *testing.T, a *agent) { truncate(t, a.auditPath(), 0) }, audit.ErrDamaged},
		{"ledger an old copy", func(t *testing.T, a *agent) {
			old := t.TempDir()
			copyDir(t, old, a.ledgerPath())
			a.start(t)
			sess := a.active(t)
			if _, err := a.Sign(t.Context(), app, transfer(sess, 1)); err != nil {
				t.Fatal(err)
			}
			a.Close()
			removeAll(t, a.ledgerPath())
			copyDir(t, a.ledgerPath(), old)
		}, audit.ErrAhead},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a := newAgent(t)
			sess := a.active(t)
			for i := range uint64(3) {
				if _, err := a.Sign(t.Context(), app, transfer(sess, i)); err != nil {
					t.Fatal(err)
				}
			}
			if err := a.Close(); err != nil {
				t.Fatal(err)
			}
			tc.damage(t, a)
			err := a.open()
			if !errors.Is(err, tc.want) {
				t.Fatalf("Open = %v, want %v", err, tc.want)
			}
			if !strings.Contains(err.Error(), "back") && !strings.Contains(err.Error(), "restore") &&
				!strings.Contains(err.Error(), "audit verify") {
				t.Errorf("Open = %v: does not say how to repair it", err)
			}
		})
	}
}

func TestOpenRefusesASecondAgent(t *testing.T) {
	a := newAgent(t)
	if err := (&agent{soft: a.soft, dir: a.dir}).open(); !errors.Is(err, ErrInUse) {
		t.Errorf("second Open = %v, want ErrInUse", err)
	}
}

// Asking again for what is so already changes nothing, and is no error: the first answer may have been lost.
func TestOperatorRepeats(t *testing.T) {
	a := newAgent(t)
	for _, step := range []struct {
		to   Status
		move func(context.Context, audit.Peer, ID) (*Session, error)
	}{{Active, a.Activate}, {Revoked, a.Revoke}, {Closed, a.CloseSession}} {
		sess, err := a.Create(t.Context(), operator, a.createRequest())
		if err != nil {
			t.Fatal(err)
		}
		first, err := step.move(t.Context(), operator, sess.ID)
		if err != nil {
			t.Fatal(err)
		}
		a.pass(time.Minute)
		second, err := step.move(t.Context(), operator, sess.ID)
		if err != nil || second.Status != step.to || second.EndedAt != first.EndedAt ||
			second.ActivatedAt != first.ActivatedAt {
			t.Errorf("%s again: %+v, %v; want it as the first time, %+v", step.to, second, err, first)
		}
	}
}
