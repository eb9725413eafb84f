//go:build soak || lossy

package softhsmtest

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/bench"
	"github.com/keyward/keyward/socket/api"
)

// make soak sets it to ten minutes.
var soakFor = flag.Duration("soak", 24*time.Second, "how long TestSoak lasts")

const (
	soakLimit     = 200 // wei that the session with a small limit may transfer
	honestRate    = 40  // requests a second
	maxSlowdown   = 3   // of the honest client's p99, beside strangers and faults
	slowdownFloor = 100 * time.Millisecond
	// A short run has too few requests for a p99, on a machine that does other things: it shows only that nobody is shut
	// out.
	shortRun, shortFloor = 5 * time.Minute, 10 * time.Second
)

// soak is one run of TestSoak.
type soak struct {
	t      *testing.T
	a      *Agent
	began  time.Time
	steady *Faults // injects nothing, and counts
	faulty *Faults
	apps   []*app
	honest *app
	greedy *app // its client is a user who asks for what the session does not allow

	quiet, noisy, killed bench.Load // the honest client's: by itself, beside the others, and across restarts
	base                 *gauges    // of the last process, once it is warm
	kills, stops, broken int        // broken: faults of the device
	strangers            strangerCounts

	operator sync.Mutex // guards what is below
	unlocks  int
}

// TestSoak: an agent with three tokens and honest clients lives among faults of a device, kills, restarts and
// strangers. At the end every signature that was asked for has arrived, is charged once and is in the audit trail; no
// limit is passed; the agent holds no more goroutines, descriptors, PKCS#11 sessions and memory than before; and the
// honest client was served nearly as fast as alone.
//
// Quiet and noisy times take turns. In the first half of the noisy ones the agent is killed or stopped; in the second
// half one process lives on, so that growth shows.
func TestSoak(t *testing.T) {
	s := startSoak(t)
	a := s.a
	rounds := max(4, int(*soakFor/(20*time.Second)))
	quiet := *soakFor / time.Duration(4*rounds)
	stopTelling := s.tellAlong()
	defer stopTelling()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what failed, by the agent's log:\n%s", failures(a.log.String()))
		}
	})
	s.quiet.Add(s.sign(quiet))
	for round := range rounds {
		restarts := round < rounds/2
		s.noise(3*quiet, restarts)
		s.settle()
		s.quiet.Add(s.sign(quiet))
		now := s.gauges()
		if !restarts && s.base == nil {
			s.base = now
		}
		s.t.Logf("%s round %d of %d: %v", s.clock(), round+1, rounds, now)
	}
	stopTelling()
	s.checkSums()
	s.checkGrowth(s.gauges())
	s.checkLatency()
	s.strangers.check(t)
	s.checkLog()
}

// checkLog compares the log with what is bounded: 30 lines a second for refusals, with or without a session, one for
// each other kind of trouble that clients make, and what a fault of the device causes, such as the stacks of a process
// that crashed.
func (s *soak) checkLog() {
	s.t.Helper()
	size, most := len(s.a.log.String()), 1<<20+int(time.Since(s.began)/time.Second)*8<<10+s.broken*4<<10
	s.t.Logf("the agent's log has %d KB", size>>10)
	if size > most {
		s.t.Errorf("the agent's log has %d KB, want %d KB at most", size>>10, most>>10)
	}
}

// failures are the lines of a log that say why a request failed, and of crashes.
func failures(log string) string {
	var b strings.Builder
	for line := range strings.Lines(log) {
		if strings.Contains(line, "level=ERROR") || strings.HasPrefix(line, "panic:") ||
			strings.HasPrefix(line, "keyward: error") {
			b.WriteString(line)
		}
	}
	return lastLines(b.String(), 200)
}

// startSoak starts the agent, with a socket that every user may connect to.
func startSoak(t *testing.T) *soak {
	dir := tempDir(t)
	a := NewPlainAgent(t, dir)
	a.must(os.Chmod(dir, 0o755))
	a.must(os.Chmod(a.Dir, 0o755))
	a.Stop()
	s := &soak{t: t, a: a, began: time.Now()}
	var control [2]string
	s.steady, control[0] = a.addModule("steady")
	s.faulty, control[1] = a.addModule("faulty", `timeout = "2s"`)
	a.mayWrite(control[:]...)
	a.configureIn("agent", `socket_mode = "0666"`)
	a.configureIn("metrics", `listen = ["metrics.sock"]`)
	a.Start()
	s.honest = s.newApp("steady", 1<<40)
	for range 3 {
		s.apps = append(s.apps, s.newApp("faulty", 1<<40))
	}
	limited := s.newApp("softhsm", soakLimit)
	s.apps = append(s.apps, limited, limited) // two workers
	s.greedy = s.newApp("softhsm", 1<<40, "--client", fmt.Sprintf("uid:%d", greedyUID))
	return s
}

func (s *soak) clock() string {
	return fmt.Sprintf("[%4.0f s]", time.Since(s.began).Seconds())
}

// tellAlong prints a line every 10 seconds, until stop.
func (s *soak) tellAlong() (stop func()) {
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.t.Logf("%s %d signatures received, %v", s.clock(), s.received(), &s.strangers)
			case <-over:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(over); <-done })
}

// sign has the honest client ask at a steady rate.
func (s *soak) sign(d time.Duration) *bench.Load {
	load := bench.Open(s.t.Context(), honestRate, 4, d, func(int) error { return s.honest.signNext(s.t.Context()) })
	if load.Err != nil {
		s.t.Fatalf("the honest client: %v", load.Err)
	}
	return load
}

// noise has everybody at the agent for a while, and restarts it in the middle.
func (s *soak) noise(d time.Duration, restarts bool) {
	ctx, cancel := context.WithCancel(s.t.Context())
	defer cancel()
	var others sync.WaitGroup
	for _, app := range s.apps {
		others.Go(func() {
			for ctx.Err() == nil {
				if err := app.signNext(s.t.Context()); err != nil {
					s.t.Errorf("an app on %s: %v", app.session.Backend, err)
					return
				}
			}
		})
	}
	others.Go(func() { s.injectUntil(ctx) })
	others.Go(func() {
		if err := s.strangers.attack(ctx, s.a.Socket(), s.honest.session.ID, s.greedy.session.ID); err != nil {
			s.t.Error(err)
		}
	})
	if restarts {
		others.Go(func() {
			time.Sleep(d/4 + time.Duration(rand.Int64N(int64(d/2)))) // the moment is the test's input
			s.restart()
		})
		s.killed.Add(s.sign(d))
	} else {
		s.noisy.Add(s.sign(d))
	}
	cancel()
	others.Wait()
}

// restart ends the agent as a crash does, or each third time as an operator does, and starts it again.
func (s *soak) restart() {
	if (s.kills+s.stops)%3 == 2 {
		s.stops++
		s.a.Stop()
	} else {
		s.kills++
		s.a.Kill()
	}
	s.a.Start()
}

// settle waits until nobody but the apps is connected, and every device is ready.
func (s *soak) settle() {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		status := s.a.status()
		if status.Connections <= len(s.apps)+3 && status.InFlight <= 1 && status.State == api.StateReady {
			return
		}
		for _, b := range status.Backends {
			if b.State == api.StateLocked {
				s.unlock(b.Name)
			}
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("30 s after everybody left, %d connections and %d requests are left, and the agent is %s: %s",
				status.Connections, status.InFlight, status.State, status.Detail)
		}
	}
}

// checkLatency compares the honest client's p99 beside the others with its p99 by itself.
func (s *soak) checkLatency() {
	alone, beside := s.quiet.Quantile(99), s.noisy.Quantile(99)
	s.t.Logf("honest client: p50 %v, p99 %v by itself (%d requests); p50 %v, p99 %v beside %d faults and %v (%d "+
		"requests), which is %.1f times as long; max. %v across %d kills and %d stops (%d requests); the operator "+
		"unlocked a device %d times",
		s.quiet.Quantile(50), alone, s.quiet.Done, s.noisy.Quantile(50), beside, s.broken, &s.strangers, s.noisy.Done,
		float64(beside)/float64(alone),
		s.killed.Quantile(100).Round(time.Millisecond), s.kills, s.stops, s.killed.Done, s.unlocks)
	floor := slowdownFloor
	if *soakFor < shortRun {
		floor = shortFloor
	}
	if beside > max(maxSlowdown*alone, floor) {
		s.t.Errorf("the honest client's p99 is %v beside the others and %v by itself", beside, alone)
	}
	if s.kills+s.stops == 0 || s.broken < 10 {
		s.t.Errorf("%d kills, %d stops and %d faults: there was no load", s.kills, s.stops, s.broken)
	}
}
