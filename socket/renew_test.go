package socket

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/session"
)

// reconfigure swaps the agent's backend and the longest message. locks is as [Server.Renew] has it.
func (a *agent) reconfigure(device backends.Backend, maxMessage int, locks uint64) (*Server, error) {
	now := a.Now()
	next := now.Config
	next.Backends = map[string]Backend{"memory": {Backend: device, Type: "soft"}}
	next.Limits.MaxMessage = maxMessage
	next.Signer = &session.Signer{
		Sessions: now.Signer.Sessions.With(session.Config{
			Backends: map[string]backends.Backend{"memory": device}, ExpiryMargin: time.Minute, KeyGrace: time.Hour,
		}),
		Rules: now.Signer.Rules,
	}
	return a.Renew(next, locks)
}

// A request that is at its device when the configuration is replaced is finished there. One that comes then goes to the
// new device, which does not have the key. The old device is free when the first request is over, and not before.
func TestRenewKeepsRequests(t *testing.T) {
	a := startAgent(t)
	sess := a.session("agw", testSpec)
	atDevice, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		once.Do(func() { close(atDevice); <-goOn })
		return nil, nil
	}
	first := make(chan string, 1)
	go func() { first <- a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)) }()
	<-atDevice
	old, err := a.reconfigure(&soft.Backend{}, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); got != "-32000 keyNotFound" {
		t.Errorf("a request after the swap: %s, want the new device's keyNotFound", got)
	}
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := old.Drain(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Drain with a request at the device = %v, want that it waits", err)
	}
	close(goOn)
	if got := <-first; len(got) != 134 {
		t.Errorf("the request that was at the old device: %s, want its signature", got)
	}
	if err := old.Drain(t.Context()); err != nil {
		t.Errorf("Drain = %v", err)
	}
}

// A lock between the reading of a configuration and its swap wins: its devices were not logged out.
func TestRenewYieldsToALock(t *testing.T) {
	a := startAgent(t)
	locks := a.Now().Signer.LockVersion()
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	before := a.Now()
	if _, err := a.reconfigure(&soft.Backend{}, 1<<20, locks); !errors.Is(err, session.ErrLocked) || a.Now() != before {
		t.Errorf("Renew after a lock = %v, want ErrLocked and no swap", err)
	}
	// A lock after the swap reaches the new device.
	device := &pinned{Backend: &soft.Backend{}, pin: "1234"}
	if _, err := a.reconfigure(device, 1<<20, a.Now().Signer.LockVersion()); err != nil {
		t.Fatal(err)
	}
	if err := a.Lock(); err != nil {
		t.Fatal(err)
	}
	if _, round := a.lastLock(); round.over(t.Context()) != nil || !device.locked {
		t.Error("the new device is not logged out by a lock")
	}
}

// Bounds hold for what begins after the swap, on connections that are open as well.
func TestRenewChangesBounds(t *testing.T) {
	a := startAgent(t)
	long := strings.Repeat("x", 3000)
	const tooLarge = "-32600 invalidRequest"
	if got := a.ask("eth_accounts", long); got == tooLarge {
		t.Fatalf("before: %s", got)
	}
	if _, err := a.reconfigure(a.device, 2048, 0); err != nil {
		t.Fatal(err)
	}
	if got := a.ask("eth_accounts", long); got != tooLarge {
		t.Errorf("a message of more bytes than the new bound, on an old connection: %s", got)
	}
	if got := a.ask("eth_accounts"); got != "[]" {
		t.Errorf("the connection afterwards: %s", got)
	}
}
