package session

import (
	"flag"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

var (
	simSeed = flag.Uint64("sim.seed", 1, "the first seed of TestSimulate, TestCrashAtEveryStep and TestFaultAtEveryStep")
	simMany = flag.Int64("sim.ops", 0, "operations of TestSimulate; 0: a short run")
)

// simLife is how many operations one world lives for.
const simLife = 1500

// The agent's core on a seeded disk, device, chain and clock: whatever its clients and its operator do, and whenever it
// is killed or loses power, no limit is passed, each released signature has its charge and its record, nothing is
// released after what forbids it was answered, and it starts again with all that it has answered.
//
// A seed that fails is run again with -sim.seed=N -sim.ops=1.
func TestSimulate(t *testing.T) {
	if *simMany > 0 {
		simulateMany(t)
		return
	}
	for seed := *simSeed; seed < *simSeed+6; seed++ {
		simulate(t, seed)
	}
}

func simulate(t *testing.T, seed uint64) *simWorld {
	w := newSimWorld(seed)
	synctest.Test(t, func(t *testing.T) {
		if err := w.live(simLife); err != nil {
			t.Errorf("%v\nrun it again: go test ./session -run '^TestSimulate$' -sim.seed=%d -sim.ops=1", err, seed)
		}
	})
	return w
}

// simFigures is what a long run has done.
type simFigures struct {
	seed, ops, released, crashes, faults, points atomic.Int64
	busy, sweeping                               atomic.Int64 // nanoseconds of all workers
}

func (f *simFigures) String() string {
	perMinute := func(n, ns int64) int64 {
		return int64(float64(n) / (float64(max(1, ns)) / float64(runtime.GOMAXPROCS(0))) * 60e9)
	}
	return fmt.Sprintf("%d operations (%d a minute), %d signatures released, %d crashes and %d faults on the way; %d "+
		"crash points (%d a minute); next seed %d",
		f.ops.Load(), perMinute(f.ops.Load(), f.busy.Load()), f.released.Load(), f.crashes.Load(), f.faults.Load(),
		f.points.Load(), perMinute(f.points.Load(), f.sweeping.Load()), f.seed.Load())
}

// simulateMany lives one life for each seed on every processor, until there were as many operations as asked for. Of
// twenty seeds one also crashes at every step.
func simulateMany(t *testing.T) {
	f := &simFigures{}
	f.seed.Store(int64(*simSeed))
	started := time.Now()
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-time.After(5 * time.Second):
				fmt.Printf("%v: %v\n", time.Since(started).Round(time.Second), f)
			case <-stop:
				return
			}
		}
	}()
	t.Run("seeds", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				for f.ops.Load() < *simMany && !t.Failed() {
					f.one(t, uint64(f.seed.Add(1)-1))
				}
			})
		}
	})
	close(stop)
	fmt.Printf("%v: %v\n", time.Since(started).Round(time.Second), f)
}

// one lives the life of one seed.
func (f *simFigures) one(t *testing.T, seed uint64) {
	begun := time.Now()
	w := simulate(t, seed)
	f.busy.Add(int64(time.Since(begun)))
	f.ops.Add(int64(w.ops))
	f.released.Add(int64(w.model.released))
	f.crashes.Add(int64(w.crashes))
	f.faults.Add(int64(w.faults))
	if seed%20 == 1 {
		begun = time.Now()
		f.points.Add(int64(sweepCrashes(t, seed, 40)))
		f.sweeping.Add(int64(time.Since(begun)))
	}
}
