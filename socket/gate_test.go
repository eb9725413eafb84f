package socket

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/socket/api"
)

// TestGateWaitsForAll: a closed gate is empty when the last call has left, not the first, whoever waits and however
// often.
func TestGateWaitsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gate
		for range 3 {
			if !g.Enter() {
				t.Fatal("the zero gate is closed")
			}
		}
		closed := make(chan error, 2)
		for range cap(closed) {
			go func() { closed <- g.Close(t.Context()) }()
		}
		for range 2 {
			synctest.Wait()
			g.Leave()
			synctest.Wait()
			if len(closed) > 0 {
				t.Fatalf("Close = %v with calls inside", <-closed)
			}
		}
		if g.Enter() {
			t.Error("a call entered a gate that is being closed")
		}
		g.Leave()
		for range cap(closed) {
			if err := <-closed; err != nil {
				t.Errorf("Close = %v", err)
			}
		}
	})
}

// TestGateThatIsNotEmpty: a wait that was cut short is no success, and leaves the gate closed.
func TestGateThatIsNotEmpty(t *testing.T) {
	var g gate
	g.Enter()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := g.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Close = %v with a call inside, want Canceled", err)
	}
	if !g.Closed() || g.Enter() {
		t.Error("the gate is open")
	}
	g.Leave()
	if err := g.Close(t.Context()); err != nil {
		t.Errorf("Close of the empty gate = %v", err)
	}
	g.Open()
	if !g.Enter() {
		t.Error("the gate is closed")
	}
}

// staysIn is a backend that does not log out.
type staysIn struct{ *soft.Backend }

func (staysIn) Unlock(context.Context, []byte) error { return nil }
func (staysIn) Lock(context.Context) error           { return errors.New("C_Logout: device error") }

// TestLockNamesADeviceThatStaysLoggedIn: the agent is locked, and the answer is an error that names the backend.
func TestLockNamesADeviceThatStaysLoggedIn(t *testing.T) {
	a := startAgent(t)
	a.Backends["memory"] = Backend{Backend: staysIn{a.device}, Type: "soft"}
	sess := a.session("agw", testSpec)
	_, err := a.operator.Lock(t.Context(), api.Lock{})
	if err == nil || !strings.Contains(err.Error(), `backend "memory"`) || !strings.Contains(err.Error(), "C_Logout") {
		t.Errorf("Lock = %v, want an error that names the backend and says why", err)
	}
	if got := a.ask("eth_signTypedData_v4", sess.Signer, typedData(nil)); got != "-32000 lockedByOperator" {
		t.Errorf("after that: %s, want lockedByOperator", got)
	}
}

var _ backends.Unlocker = staysIn{}
