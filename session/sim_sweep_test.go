package session

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/keyward/keyward/internal/simdisk"
)

// sweepCrashes lives a short life, and before every write, sync and change of a name looks at what a power cut with
// nothing of the unsynced, a power cut with some of it, and a kill would leave: an agent starts there, and knows all
// that was answered.
func sweepCrashes(t *testing.T, seed uint64, ops int) (points int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newSimWorld(seed)
		w.calm = true
		rng := rand.New(rand.NewPCG(seed, 13))
		w.onDisk = func(op simdisk.Op) error {
			model := w.model.clone()
			for _, crash := range []simdisk.Crash{{Power: true}, {Power: true, Kept: rng.IntN(101), RNG: rng}, {}} {
				points++
				if err := w.startsFrom(w.disk.SnapshotLocked(crash), model.clone()); err != nil {
					w.model.fail("a crash (%+v) before %v: %w", crash, op, err)
				}
			}
			return nil
		}
		if err := w.live(ops); err != nil {
			t.Error(err)
		}
	})
	return points
}

// startsFrom starts an agent on what a crash has left, and checks what it knows.
func (w *simWorld) startsFrom(disk *simdisk.Disk, model *simModel) error {
	v := &simWorld{seed: w.seed, rng: rand.New(rand.NewPCG(w.seed, 14)), disk: disk, dev: w.dev, model: model, calm: true,
		read: map[string]*simSegment{}}
	v.start()
	v.stop()
	return model.failed()
}

// A crash before each operation on the disk, the first initialisation's included.
func TestCrashAtEveryStep(t *testing.T) {
	points := 0
	for seed := *simSeed; seed < *simSeed+3; seed++ {
		points += sweepCrashes(t, seed, 40)
	}
	if points < 500 {
		t.Errorf("only %d crashes", points)
	}
	t.Logf("%d crashes", points)
}

// sweepFault lives a short life in which the n-th operation on the disk fails; with forever, so do all later ones. It
// reports whether there were so many.
func sweepFault(t *testing.T, seed uint64, ops, n int, errno error, forever bool) (reached bool) {
	t.Helper()
	w := newSimWorld(seed)
	w.calm = true
	count, what := 0, simdisk.Op{}
	w.onDisk = func(op simdisk.Op) error {
		if count++; count < n || !forever && count > n {
			return nil
		}
		if !reached {
			reached, what = true, op
		}
		return errno
	}
	gaveUp := w.survive()
	defer func() { giveUp = func(why broken) { panic(why) } }()
	defer func() { // what one of Pebble's goroutines has left behind when it ended
		if r := recover(); r != nil && (!gaveUp.Load() && !reached ||
			!strings.Contains(fmt.Sprint(r), "blocked goroutines remain")) {
			panic(r)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		w.start()
		for w.ops = 0; w.ops < ops && w.model.failed() == nil && !w.agent.dead.Load(); w.ops++ {
			w.step()
			synctest.Wait()
		}
		w.onDisk = nil
		if w.model.failed() == nil {
			w.restart()
		}
		if w.model.failed() == nil && !gaveUp.Load() {
			w.finish()
		}
		w.stop()
		if err := w.model.failed(); err != nil {
			t.Errorf("seed %d, %v at %v, forever: %v: %v\nlast operations: %s", seed, errno, what, forever, err,
				strings.Join(w.history, ", "))
		}
	})
	return reached
}

// survive has a goroutine of Pebble's that can't go on end alone, and not the test: the agent's process is dead then.
func (w *simWorld) survive() *atomic.Bool {
	gaveUp := &atomic.Bool{}
	giveUp = func(why broken) {
		if stack := string(debug.Stack()); strings.Contains(stack, ").commit(") || strings.Contains(stack, "openLedger(") {
			panic(why) // which the agent's own goroutine survives
		}
		gaveUp.Store(true)
		w.agent.left.Store(w.disk.Snapshot(simdisk.Crash{}))
		w.agent.dead.Store(true)
		runtime.Goexit()
	}
	return gaveUp
}

// EIO and ENOSPC at the n-th operation on the disk, for every n, once and from then on: nothing is released without
// charge and record, no failed sync is tried again on its file, and the next start knows all that was answered.
func TestFaultAtEveryStep(t *testing.T) {
	faults := 0
	for n := 1; n < 10_000; n++ {
		reached := false
		for i, errno := range []error{syscall.EIO, syscall.ENOSPC} {
			reached = sweepFault(t, *simSeed, 12, n, errno, i == 1) || reached
		}
		if !reached || t.Failed() {
			break
		}
		faults += 2
	}
	if faults < 100 {
		t.Errorf("only %d faults", faults)
	}
	t.Logf("%d faults", faults)
}
