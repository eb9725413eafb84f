package socket

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyward/keyward/backends"
)

// A client that has a thousand requests waiting for the device holds up no other connection, also of the same user:
// what comes on another one is served next, not last.
func TestOtherConnectionIsServedSoon(t *testing.T) {
	const crowd = 1000
	a := startAgent(t)
	var signed atomic.Int64
	device := make(chan struct{})
	a.device.OnSign = func(ctx context.Context, _ [32]byte) (*backends.Signature, error) {
		select {
		case <-device:
			signed.Add(1)
		case <-ctx.Done():
		}
		return nil, ctx.Err()
	}
	sess := a.active()
	crowded, other := dial(t, a.appPath), dial(t, a.appPath)
	request := func(id, nonce int) string {
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":"session_signTransaction","params":[{"session":%q,"from":%q,"to":%q,"data":"0x40c10f19%0128x","nonce":%d,"gas":"20000","maxFeePerGas":"1"}]}`,
			id, sess.ID, testAccount, testGame, 0, nonce)
	}
	for n := range crowd {
		crowded.send(request(n, n))
	}
	a.inFlight(crowd)
	other.send(request(7, crowd))
	a.inFlight(crowd + 1)
	answered := make(chan string)
	go func() { answered <- other.line() }()
	for released := 0; ; released++ {
		select {
		case line := <-answered:
			if code(t, line) != 0 {
				t.Errorf("answer %.200s", line)
			}
			// 64 were with the device before it came; its turn is the next or the one after that.
			if n := signed.Load(); n > crowd/2 {
				t.Errorf("answered after %d of %d signatures", n, crowd)
			}
			close(device)
			for range crowd {
				// What comes to the queue when the device has proved to be slow may be turned away.
				if line := crowded.line(); code(t, line) != 0 && code(t, line) != -32005 {
					t.Fatalf("answer to the crowd %.200s", line)
				}
			}
			return
		case device <- struct{}{}:
			if released > 60 { // from here on one at a time, as its answer may be on its way
				time.Sleep(time.Millisecond)
			}
		}
	}
}

// inFlight returns once n calls are in flight.
func (a *agent) inFlight(n int) {
	a.t.Helper()
	for a.agent.quota.inUse(callsInFlight) != n {
		time.Sleep(time.Millisecond)
	}
}
