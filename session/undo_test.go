package session

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
)

// gated is a backend whose calls wait.
type gated struct {
	*soft.Backend
	generating, generate chan struct{} // closed when Generate has begun, and to let it go on; nil: it does not wait
	listing, list        chan struct{} // likewise of Keys
	made                 func()        // called when Generate is about to return; nil: nothing
}

func (g *gated) Generate(ctx context.Context, attrs backends.KeyAttributes) (backends.Key, error) {
	if g.generate != nil {
		close(g.generating)
		<-g.generate
	}
	k, err := g.Backend.Generate(ctx, attrs)
	if g.made != nil {
		g.made()
	}
	return k, err
}

func (g *gated) Keys(ctx context.Context, prefix string) ([]backends.ListedKey, error) {
	keys, err := g.Backend.Keys(ctx, prefix)
	if g.list != nil {
		close(g.listing)
		<-g.list
	}
	return keys, err
}

// hasKeys wants the keys of all sessions to be there, and no other.
func (a *agent) hasKeys(t *testing.T) {
	t.Helper()
	var want, got []string
	for _, sess := range a.List() {
		want = append(want, sess.KeyURI)
	}
	keys, err := a.soft.Keys(t.Context(), KeyLabelPrefix)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range keys {
		got = append(got, k.Key.URI())
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
}

// TestRunLeavesTheKeyOfACreationThatEnded: Run looks at a creation that was under way when it read which were, and is
// not any more, since another one, of a slow device, came first.
func TestRunLeavesTheKeyOfACreationThatEnded(t *testing.T) {
	a := newAgent(t)
	device := &gated{Backend: a.soft, generating: make(chan struct{}), generate: make(chan struct{})}
	a.cfg.Backends["soft"] = device
	created := make(chan error)
	go func() { _, err := a.Create(t.Context(), operator, a.createRequest()); created <- err }()
	<-device.generating
	under := a.intents() // as Run reads them
	if len(under) != 1 {
		t.Fatalf("intents: %v", under)
	}
	close(device.generate)
	if err := <-created; err != nil {
		t.Fatal(err)
	}
	a.undoAll(t.Context(), under, map[ID]bool{})
	a.hasKeys(t)
	if len(a.List()) != 1 {
		t.Errorf("sessions: %v", a.List())
	}
}

// TestRunLeavesTheKeyOfACreationThatIsBeingWritten: its caller is gone, but it becomes durable.
func TestRunLeavesTheKeyOfACreationThatIsBeingWritten(t *testing.T) {
	a := newAgent(t)
	ctx, cancel := context.WithCancel(t.Context())
	var slow func() // ends the disk's slowness
	a.cfg.Backends["soft"] = &gated{Backend: a.soft, made: func() {
		slow = hold(a.ledger)
		time.AfterFunc(50*time.Millisecond, cancel)
	}}
	if _, err := a.Create(ctx, operator, a.createRequest()); !errors.Is(err, context.Canceled) {
		t.Fatalf("Create = %v, want Canceled", err)
	}
	under := a.intents()
	if len(under) != 1 {
		t.Fatalf("intents: %v", under)
	}
	undone := make(chan struct{})
	go func() { defer close(undone); a.undoAll(t.Context(), under, map[ID]bool{}) }()
	select {
	case <-undone:
	case <-time.After(time.Minute):
		t.Error("the upkeep waits for the disk: it changes what is being written")
	}
	slow()
	<-undone
	a.restart(t) // by now all is written
	a.hasKeys(t)
	if len(a.List()) != 1 {
		t.Errorf("sessions: %v", a.List())
	}
}

// TestImportAndUndoExclude: a key that Run is about to destroy is not imported, and one that is imported not destroyed.
func TestImportAndUndoExclude(t *testing.T) {
	a := newAgent(t)
	id := newID()
	if err := a.putIntent(t.Context(), id, intent{Backend: "soft"}); err != nil {
		t.Fatal(err)
	}
	destroyed := a.lost(t, string(id))
	end, ok := a.claim(id)
	if !ok {
		t.Fatal("nobody has it, and it can't be claimed")
	}
	if _, ok := a.claim(id); ok {
		t.Error("two have claimed it")
	}
	a.sweep(t.Context(), map[ID]bool{})
	if left := a.intents(); len(left) != 1 {
		t.Errorf("while it is claimed, Run leaves intents %v, want it", left)
	}
	end()
	imported := newID()
	if err := a.putIntent(t.Context(), imported, intent{Backend: "soft"}); err != nil {
		t.Fatal(err)
	}
	spec := a.lost(t, string(imported))
	if got, err := a.importing(t, spec); err != nil || got.ID != imported {
		t.Fatalf("importing = %v, %v", got, err)
	}
	device := &gated{Backend: a.soft, listing: make(chan struct{}), list: make(chan struct{})}
	a.cfg.Backends["soft"] = device
	swept := make(chan struct{})
	go func() { defer close(swept); a.sweep(t.Context(), map[ID]bool{}) }()
	select {
	case <-device.listing: // Run is about to destroy the key that is not imported
	case <-swept:
		t.Fatal("Run asks the device for no key")
	}
	a.cfg.Backends["soft"] = a.soft
	if got, err := a.importing(t, destroyed); !errors.Is(err, backends.ErrBusy) {
		t.Errorf("importing a key that is being destroyed = %v, %v, want ErrBusy", got, err)
	}
	close(device.list)
	<-swept
	if left := a.intents(); len(left) > 0 {
		t.Errorf("after Run, intents %v are left", left)
	}
	if _, err := a.importing(t, destroyed); !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("importing a key that was destroyed = %v, want ErrKeyNotFound", err)
	}
	a.hasKeys(t)
	if n := len(a.List()); n != 1 {
		t.Errorf("%d sessions, want the one that was imported", n)
	}
}

// TestImportOfAKeyThatIsDestroyedMeanwhile: Run destroys it after it was found, and before it was claimed.
func TestImportOfAKeyThatIsDestroyedMeanwhile(t *testing.T) {
	a := newAgent(t)
	id := newID()
	if err := a.putIntent(t.Context(), id, intent{Backend: "soft"}); err != nil {
		t.Fatal(err)
	}
	key, err := a.soft.Generate(t.Context(), backends.KeyAttributes{Label: KeyLabelPrefix + string(id)})
	if err != nil {
		t.Fatal(err)
	}
	device := &gated{Backend: a.soft, listing: make(chan struct{}), list: make(chan struct{})}
	a.cfg.Backends["soft"] = device
	spec := a.testSpec()
	spec.Signer = policy.Address(crypto.PubkeyToAddress(*key.Public()))
	imported := make(chan error)
	go func() {
		_, err := a.importSession(t.Context(), operator,
			&ImportRequest{Account: account, ChainID: 11124, Clients: []Client{{ID: app.UID}}}, spec, &ChainView{},
			vectorValidator)
		imported <- err
	}()
	<-device.listing // it is found
	a.cfg.Backends["soft"] = a.soft
	a.sweep(t.Context(), map[ID]bool{})
	close(device.list)
	if err := <-imported; !errors.Is(err, backends.ErrKeyNotFound) {
		t.Errorf("importing = %v, want ErrKeyNotFound", err)
	}
	a.hasKeys(t)
}

// TestRenewedTwiceAtOnce: the second renewal was asked for while the key of the first was made.
func TestRenewedTwiceAtOnce(t *testing.T) {
	a := newAgent(t)
	old := a.active(t)
	renew := func() error {
		req, err := a.renewRequest(old.ID, old.Spec.ExpiresAt)
		if err == nil {
			_, err = a.Create(t.Context(), operator, req)
		}
		return err
	}
	device := &gated{Backend: a.soft, generating: make(chan struct{}), generate: make(chan struct{})}
	a.cfg.Backends["soft"] = device
	first := make(chan error)
	go func() { first <- renew() }()
	<-device.generating
	a.cfg.Backends["soft"] = a.soft
	if err := renew(); err != nil {
		t.Fatal(err)
	}
	close(device.generate)
	if err := <-first; !errors.Is(err, ErrInvalid) {
		t.Errorf("the renewal that was overtaken = %v, want ErrInvalid", err)
	}
	a.sweep(t.Context(), map[ID]bool{})
	a.hasKeys(t)
	if n := len(a.List()); n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

// notAsked is a device that refuses before it was asked for a key, and can't list any.
type notAsked struct {
	*soft.Backend
	t *testing.T
}

func (b *notAsked) Generate(context.Context, backends.KeyAttributes) (backends.Key, error) {
	return nil, backends.NotMade(backends.ErrPINIncorrect)
}

func (b *notAsked) Keys(context.Context, string) ([]backends.ListedKey, error) {
	b.t.Error("the device is searched for a key that was never made")
	return nil, backends.ErrPINIncorrect
}

// TestNoIntentAfterNoKey: a creation of which no key is left has nothing to be cleaned up, also after the next start.
func TestNoIntentAfterNoKey(t *testing.T) {
	a := newAgent(t)
	a.cfg.Backends["soft"] = &notAsked{a.soft, t}
	if _, err := a.Create(t.Context(), operator, a.createRequest()); !errors.Is(err, backends.ErrPINIncorrect) {
		t.Fatalf("Create = %v, want ErrPINIncorrect", err)
	}
	if left := a.intents(); len(left) != 0 {
		t.Errorf("intents: %v", left)
	}
	a.sweep(t.Context(), map[ID]bool{})
	a.restart(t)
	if left := a.intents(); len(left) != 0 {
		t.Errorf("intents after a restart: %v", left)
	}
}
