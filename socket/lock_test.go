package socket

import (
	"context"
	"encoding/json"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// A lock outlives the agent's process, and only an unlock of the agent ends it.
func TestLockIsDurable(t *testing.T) {
	a := startAgent(t)
	path := a.lockPath()
	if session.LockedOnDisk(path) {
		t.Fatal("a fresh agent is locked")
	}
	if _, err := a.operator.Lock(t.Context(), api.Lock{Wait: true}); err != nil {
		t.Fatal(err)
	}
	if !session.LockedOnDisk(path) {
		t.Fatal("the lock is not on disk")
	}
	if err := a.operator.UnlockAgent(t.Context()); err != nil {
		t.Fatal(err)
	}
	if session.LockedOnDisk(path) || a.Signer.Locked() {
		t.Error("locked after an unlock")
	}
}

// A lock that can't be written down holds all the same, and its answer says so.
func TestLockThatIsNotDurable(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	if err := os.MkdirAll(a.lockPath()+"/x", 0o700); err != nil { // which no file can be renamed over
		t.Fatal(err)
	}
	if _, err := a.operator.Lock(t.Context(), api.Lock{}); err == nil ||
		!strings.Contains(err.Error(), "could not be made durable") {
		t.Errorf("Lock = %v, want that it is not durable", err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); got != "-32000 lockedByOperator" {
		t.Errorf("signing: %s", got)
	}
}

// While the agent is locked no key is made.
func TestLockedMakesNoKey(t *testing.T) {
	a := startAgent(t)
	if _, err := a.operator.Lock(t.Context(), api.Lock{}); err != nil {
		t.Fatal(err)
	}
	req := &api.CreateSession{Kind: "eoa", Spec: json.RawMessage(testSpec), Chain: "abstract", Clients: []string{"uid:1"}}
	if _, err := a.operator.CreateSession(t.Context(), req); err == nil ||
		!strings.Contains(err.Error(), "locked by its operator") {
		t.Errorf("CreateSession = %v, want that the agent is locked", err)
	}
	keys, err := a.device.Keys(t.Context(), "")
	if err != nil || len(keys) != 0 {
		t.Errorf("keys in the device: %v, %v", keys, err)
	}
}

// Unlocking one of several devices leaves the agent locked; unlocking all ends the lock, even if a device fails.
func TestUnlockOneOfSeveral(t *testing.T) {
	a := startAgent(t)
	good := &pinned{Backend: a.device}
	a.Backends["memory"] = Backend{Backend: good, Type: "soft"}
	a.Backends["bad"] = Backend{Backend: &refusing{a.device}, Type: "soft"}
	if _, err := a.operator.Lock(t.Context(), api.Lock{}); err != nil {
		t.Fatal(err)
	}
	if err := a.operator.Unlock(t.Context(), "memory", nil); err != nil || !a.Signer.Locked() {
		t.Errorf("Unlock of one backend = %v, locked: %v, want that the agent stays locked", err, a.Signer.Locked())
	}
	if err := a.operator.Unlock(t.Context(), "bad", nil); err == nil || !a.Signer.Locked() {
		t.Errorf("Unlock of a backend that fails = %v, locked: %v", err, a.Signer.Locked())
	}
	err := a.operator.Unlock(t.Context(), "", nil)
	if err == nil || !strings.Contains(err.Error(), "piv memory") || a.Signer.Locked() {
		t.Errorf("Unlock = %v, locked: %v, want an unlocked agent and the name of what failed", err, a.Signer.Locked())
	}
}

// A lock during an unlock wins: the agent stays locked, on disk too, and the device is logged out in the end.
func TestLockDuringAnUnlock(t *testing.T) {
	a := startAgent(t)
	device := &lockedMeanwhile{Backend: a.device, relocks: true}
	device.lock = func() {
		if err := a.Lock(); err != nil {
			t.Error(err)
		}
	}
	a.Backends["memory"] = Backend{Backend: device, Type: "soft"}
	device.lock()
	err := a.operator.Unlock(t.Context(), "", nil)
	if err == nil || !strings.Contains(err.Error(), "locked again") {
		t.Errorf("Unlock = %v, want that the agent was locked again", err)
	}
	if !a.Signer.Locked() || !session.LockedOnDisk(a.lockPath()) {
		t.Error("the unlock ended a lock that came after it")
	}
	waitFor(t, "the log-out", func() bool { return !device.loggedIn.Load() })
	device.lock, device.relocks = func() {}, false
	if err := a.operator.Unlock(t.Context(), "", nil); err != nil || a.Signer.Locked() || !device.loggedIn.Load() {
		t.Errorf("the next Unlock = %v, locked: %v, logged in: %v", err, a.Signer.Locked(), device.loggedIn.Load())
	}
}

// lockedMeanwhile calls lock while it is unlocked, and is logged in after that and after its log-out.
type lockedMeanwhile struct {
	backends.Backend
	lock     func()
	relocks  bool // lock has the device log out
	loggedIn atomic.Bool
	outs     atomic.Int32 // log-outs that have ended
}

func (d *lockedMeanwhile) Unlock(context.Context, []byte) error {
	before := d.outs.Load()
	d.lock()
	for d.relocks && d.outs.Load() == before {
		runtime.Gosched()
	}
	d.loggedIn.Store(true)
	return nil
}

func (d *lockedMeanwhile) Lock(context.Context) error {
	d.loggedIn.Store(false)
	d.outs.Add(1)
	return nil
}

// A device that works on a signature is busy; the lock does not wait for it unless asked to.
func TestLockNamesABusyDevice(t *testing.T) {
	a := startAgent(t)
	device := &slowToLock{Backend: a.device, goOn: make(chan struct{})}
	a.Backends["memory"] = Backend{Backend: device, Type: "soft"}
	locked, err := a.operator.Lock(t.Context(), api.Lock{})
	if err != nil || locked.Backends["memory"] != api.Busy {
		t.Errorf("Lock = %+v, %v, want a busy backend", locked, err)
	}
	waited := make(chan *api.Locked, 1)
	go func() {
		locked, err := a.operator.Lock(context.WithoutCancel(t.Context()), api.Lock{Wait: true})
		if err != nil {
			t.Error(err)
		}
		waited <- locked
	}()
	close(device.goOn)
	if locked := <-waited; locked.Backends["memory"] != api.LoggedOut {
		t.Errorf("Lock with wait = %+v, want loggedOut", locked)
	}
}

// slowToLock logs out when its call has ended.
type slowToLock struct {
	backends.Backend
	goOn chan struct{}
}

func (*slowToLock) Unlock(context.Context, []byte) error { return nil }
func (s *slowToLock) Lock(ctx context.Context) error {
	select {
	case <-s.goOn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
