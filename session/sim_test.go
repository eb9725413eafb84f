package session

import (
	"flag"
	"testing"
	"testing/synctest"
)

var (
	simSeed = flag.Uint64("sim.seed", 1, "the first seed of TestSimulate")
	simRuns = flag.Int("sim.ops", 0, "operations of TestSimulate; 0: a short run")
)

// simLife is how many operations one world lives for.
const simLife = 1500

// The agent's core on a seeded disk, device, chain and clock: whatever its clients and its operator do, and whenever it is killed or
// loses power, no limit is passed, each released signature has its charge and its record, nothing is released after what
// forbids it was answered, and it starts again with all that it has answered.
//
// A seed that fails is run again with -sim.seed=N -sim.ops=1.
func TestSimulate(t *testing.T) {
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
