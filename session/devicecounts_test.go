package session

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/internal/syncbuf"
)

// counting is a backend whose device counts signatures. All of its keys have one counter: the tests have one key.
type counting struct {
	*soft.Backend
	n    atomic.Uint64
	dead atomic.Bool // the counter can't be read
}

func (c *counting) Counts() bool { return true }

func (c *counting) Concurrency() int { return 2 }

func (c *counting) Signatures(context.Context, string) (uint64, bool, error) {
	if c.dead.Load() {
		return 0, false, backends.ErrUnavailable
	}
	return c.n.Load(), true, nil
}

// countedAgent is an agent on such a device, with an active session.
type countedAgent struct {
	agent
	device *counting
	log    syncbuf.Buffer
	sess   *Session
	nonce  uint64
	fails  atomic.Pointer[error] // of the next signatures; nil: none
}

func newCountedAgent(t *testing.T) *countedAgent {
	t.Helper()
	a := &countedAgent{device: &counting{Backend: &soft.Backend{}}}
	a.dir, a.now = t.TempDir(), newAgent(t).now
	a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
		var err error
		if p := a.fails.Load(); p != nil {
			err = *p
		}
		if !errors.Is(err, backends.ErrNotSigned) {
			a.device.n.Add(1)
		}
		return nil, err
	}
	a.begin(t)
	t.Cleanup(func() { a.Close() })
	a.sess = a.active(t)
	a.compare(t, 0)
	return a
}

// begin starts an agent on the state.
func (a *countedAgent) begin(t *testing.T) {
	t.Helper()
	s, err := Open(Config{
		LedgerPath: a.ledgerPath(), AuditPath: a.auditPath(), CountsPath: filepath.Join(a.dir, "counts"), Now: a.clock,
		Backends: map[string]backends.Backend{"soft": a.device}, Logger: slog.New(slog.NewTextHandler(&a.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	a.Sessions, a.Signer = s, &Signer{Sessions: s}
	a.note(t, audit.AgentStarted)
}

func (a *countedAgent) note(t *testing.T, event audit.Event) {
	t.Helper()
	if err := a.Record(t.Context(), audit.Record{Event: event}); err != nil {
		t.Fatal(err)
	}
}

// again ends the agent and starts another; crashed: without a word in the trail.
func (a *countedAgent) again(t *testing.T, crashed bool, between func()) {
	t.Helper()
	if !crashed {
		a.note(t, audit.AgentStopped)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	between()
	a.begin(t)
}

// sign asks for n signatures, each of a transaction of its own.
func (a *countedAgent) sign(t *testing.T, n int, want error) {
	t.Helper()
	if want != nil {
		a.fails.Store(&want)
		defer a.fails.Store(nil)
	}
	for range n {
		a.nonce++
		if _, err := a.Sign(t.Context(), app, transfer(a.sess, a.nonce%5)); !errors.Is(err, want) {
			t.Fatalf("Sign = %v, want %v", err, want)
		}
	}
}

// compare has the device asked, and wants so many signatures to be known that the agent did not ask for.
func (a *countedAgent) compare(t *testing.T, foreign uint64) {
	t.Helper()
	a.compareCounts(t.Context(), map[ID]bool{})
	if got := a.DeviceCounts()["soft"].Foreign; got != foreign {
		t.Fatalf("%d signatures that the agent did not ask for, want %d\n%s", got, foreign, a.log.String())
	}
}

var errDoubt = errors.New("no answer")

// A signature that the agent did not ask for raises the alarm, once, in the log and the trail, and stays known over
// restarts.
func TestDeviceCountsForeignSignatures(t *testing.T) {
	a := newCountedAgent(t)
	a.sign(t, 3, nil)
	a.compare(t, 0)
	a.device.n.Add(2)
	a.sign(t, 1, nil)
	a.compare(t, 2)
	if got := a.lastEvent(t); got != string(audit.DeviceExternal) {
		t.Errorf("last event %s, want %s", got, audit.DeviceExternal)
	}
	if text := a.log.String(); strings.Count(text, "ALARM") != 1 || !strings.Contains(text, string(a.sess.ID)) {
		t.Errorf("log %q, want one alarm with the session", text)
	}
	a.sign(t, 2, nil)
	a.compare(t, 2)
	a.again(t, false, func() {})
	a.compare(t, 2)
	a.again(t, false, func() { a.device.n.Add(1) }) // while no agent runs
	a.compare(t, 3)
}

// What the agent's own calls may have led to is no alarm, whatever became of them; and what they can't have led to
// hides nothing.
func TestDeviceCountsOwnFailures(t *testing.T) {
	a := newCountedAgent(t)
	a.sign(t, 3, errDoubt) // made, and lost
	a.compare(t, 0)
	a.sign(t, 4, certainly)
	a.device.n.Add(1)
	a.compare(t, 1)
	for range 20 {
		req := transfer(a.sess, 9)
		req.Tx.Value.SetUint64(1 << 40)
		if _, err := a.Sign(t.Context(), app, req); err == nil {
			t.Fatal("signed what the policy forbids")
		}
	}
	a.device.n.Add(1)
	a.compare(t, 2)
	a.device.dead.Store(true)
	a.compare(t, 2)
	a.sign(t, 2, nil)
	a.device.dead.Store(false)
	a.compare(t, 2)
}

// Calls under way while the device is asked are no alarm, and a doubt ends with the next reading.
func TestDeviceCountsCallsUnderWay(t *testing.T) {
	a := newCountedAgent(t)
	counted, goOn := make(chan struct{}), make(chan struct{})
	for _, first := range []bool{true, false} { // the device counts before, or after it is asked
		a.device.OnSign = func(context.Context, [32]byte) (*backends.Signature, error) {
			if first {
				a.device.n.Add(1)
			}
			counted <- struct{}{}
			<-goOn
			if !first {
				a.device.n.Add(1)
			}
			return nil, nil
		}
		done := make(chan error)
		a.nonce++
		go func() {
			_, err := a.Sign(t.Context(), app, transfer(a.sess, a.nonce))
			done <- err
		}()
		<-counted
		a.compare(t, 0)
		goOn <- struct{}{}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		a.compare(t, 0)
	}
	a.device.n.Add(1)
	a.compare(t, 1)
}

// After a clean stop every signature has its record. After a crash some may have none; that doubt is bounded, and over
// with the first reading.
func TestDeviceCountsAfterRestarts(t *testing.T) {
	a := newCountedAgent(t)
	a.sign(t, 3, nil)
	a.sign(t, 2, errDoubt)
	a.again(t, false, func() {})
	a.compare(t, 0)
	a.again(t, true, func() { a.device.n.Add(4) }) // twice what the device works on at a time
	a.compare(t, 0)
	a.device.n.Add(1)
	a.compare(t, 1)
	a.again(t, true, func() { a.device.n.Add(5) })
	a.compare(t, 2)
	a.again(t, true, func() {})
	a.again(t, false, func() { a.device.n.Add(5) }) // one of the two was a crash
	a.compare(t, 3)
}

// A state that is a backup's, a file that is gone or damaged, and a trail that is another one begin with a first
// reading, which the trail has.
func TestDeviceCountsOfAnotherState(t *testing.T) {
	for name, change := range map[string]func(a *countedAgent, file string) error{
		"file gone": func(_ *countedAgent, file string) error { return os.Remove(file) },
		"file damaged": func(_ *countedAgent, file string) error {
			return os.WriteFile(file, []byte(`{"readings": {"x"`), 0o600)
		},
		"another trail": func(_ *countedAgent, file string) error {
			data, err := os.ReadFile(file)
			if err == nil {
				i := bytes.Index(data, []byte(`"hash":"`)) + len(`"hash":"`)
				data[i] ^= 1
				err = os.WriteFile(file, data, 0o600)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newCountedAgent(t)
			a.again(t, false, func() {
				a.device.n.Add(7)
				if err := change(a, filepath.Join(a.dir, "counts")); err != nil {
					t.Fatal(err)
				}
			})
			a.compare(t, 0)
			if got := a.lastEvent(t); got != string(audit.DeviceCounted) {
				t.Errorf("last event %s, want %s", got, audit.DeviceCounted)
			}
			a.device.n.Add(1)
			a.compare(t, 1)
		})
	}
	a := newCountedAgent(t)
	a.note(t, audit.StateRestored)
	a.again(t, false, func() { a.device.n.Add(7) })
	a.compare(t, 0)
}

// A counter that went back is an alarm of its own.
func TestDeviceCountsWentBack(t *testing.T) {
	a := newCountedAgent(t)
	a.sign(t, 3, nil)
	a.compare(t, 0)
	a.device.n.Store(1)
	a.compare(t, 0)
	if got := a.DeviceCounts()["soft"].WentBack; got != 1 || !strings.Contains(a.log.String(), "went back") {
		t.Errorf("%d keys whose counter went back, want 1; log %s", got, a.log.String())
	}
	a.sign(t, 1, nil)
	a.again(t, false, func() {})
	a.compare(t, 0)
	if got := a.DeviceCounts()["soft"].WentBack; got != 1 {
		t.Errorf("after a restart %d keys whose counter went back, want 1", got)
	}
}

// Whatever happens to the agent's own signatures, there is no alarm; and in the end each foreign signature is counted,
// less what was in doubt.
func TestDeviceCountsProperty(t *testing.T) {
	for seed := range uint64(6) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 13))
			a := newCountedAgent(t)
			foreign := uint64(0)
			for range 40 {
				switch r.IntN(8) {
				case 0, 1:
					a.sign(t, 1+r.IntN(3), nil)
				case 2:
					a.sign(t, 1, errDoubt)
				case 3:
					a.sign(t, 1, certainly)
				case 4:
					a.again(t, false, func() {})
				case 5:
					a.again(t, true, func() {})
				case 6:
					a.compare(t, foreign)
				case 7:
					a.compare(t, foreign) // after which nothing is in doubt
					n := uint64(r.IntN(3))
					a.device.n.Add(n)
					foreign += n
					a.compare(t, foreign)
				}
			}
		})
	}
}
