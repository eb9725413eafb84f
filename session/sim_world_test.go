package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing/synctest"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/simdisk"
	"github.com/keyward/keyward/internal/zktx"
	"github.com/keyward/keyward/policy"
)

// simWorld is an agent on a seeded disk, device, chain and clock, with clients that come and go. One goroutine drives
// it. What it starts has come to rest, asleep or waiting for the device, before it goes on: so a seed gives one
// history.
type simWorld struct {
	seed  uint64
	rng   *rand.Rand // the driver's alone
	disk  *simdisk.Disk
	dev   *simDevice
	model *simModel
	agent *simAgent

	calm   bool                   // nothing crashes or fails but what onDisk does
	onDisk func(simdisk.Op) error // of every process, unless nil
	failed bool                   // onDisk has returned an error

	nonce   uint64 // raised with each transaction, so that no two are alike by chance
	ops     int
	crashes int
	faults  int
	history []string
	read    map[string]*simSegment // what the trail's files had, by name
}

// simAgent is one process.
type simAgent struct {
	*Sessions
	*Signer
	ctx     context.Context
	end     context.CancelFunc
	work    sync.WaitGroup // of clients, and of Run
	clients atomic.Int32
	dead    atomic.Bool                  // the crash was: what happens in this process now does not happen
	left    atomic.Pointer[simdisk.Disk] // by the crash
}

func newSimWorld(seed uint64) *simWorld {
	w := &simWorld{
		seed: seed, rng: rand.New(rand.NewPCG(seed, 12)), disk: simdisk.New(),
		dev:   &simDevice{seed: seed, keys: map[string]*simKey{}, tries: map[[32]byte]uint64{}},
		model: &simModel{txs: map[policy.Hash]*simTx{}, locked: "no"}, read: map[string]*simSegment{},
	}
	if err := w.disk.MkdirAll("state", 0o700); err != nil {
		w.model.fail("%w", err)
	}
	if err := syncDir(w.disk, ""); err != nil { // the operator made it long ago
		w.model.fail("%w", err)
	}
	return w
}

// live runs a number of operations, with crashes in between, and then lets everything end. It must be called in a
// bubble.
func (w *simWorld) live(ops int) error {
	w.start()
	for w.ops = 0; w.ops < ops && w.model.failed() == nil; w.ops++ {
		w.step()
		synctest.Wait()
		if w.model.failed() == nil && (w.agent.dead.Load() || w.agent.Halted() != nil && w.rng.IntN(10) == 0) {
			w.restart()
		}
	}
	if w.model.failed() == nil {
		w.finish()
	}
	w.stop()
	if err := w.model.failed(); err != nil {
		return fmt.Errorf("seed %d, operation %d: %w\nlast operations: %s", w.seed, w.ops, err,
			strings.Join(w.history[max(0, len(w.history)-40):], ", "))
	}
	return nil
}

// start opens the state, perhaps several times: it may crash while it does so.
func (w *simWorld) start() {
	for w.model.failed() == nil {
		a := &simAgent{}
		a.ctx, a.end = context.WithCancel(context.Background())
		w.agent = a
		if w.calm {
			w.disk.SetBefore(w.before)
		} else if w.rng.IntN(3) == 0 {
			w.armCrash(1 + w.rng.IntN(70))
		}
		s, err := Open(Config{
			LedgerPath: "state/ledger", AuditPath: "state/audit.jsonl", LockPath: "state/locked", FS: w.disk,
			Backends:     map[string]backends.Backend{"sim": simPort{w.dev, a}},
			ExpiryMargin: time.Minute, KeyGrace: time.Minute, Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil && w.failed { // the disk is well again at the next start
			w.failed, w.onDisk = false, nil
			a.left.Store(w.disk.Snapshot(w.crash()))
			w.disk = w.stop()
			continue
		}
		if err != nil {
			w.model.fail("starting: %w", err)
			return
		}
		s.ledger.segmentBytes.Store(60_000)
		a.Sessions, a.Signer = s, &Signer{Sessions: s}
		if a.dead.Load() {
			w.disk = w.stop()
			continue
		}
		if !w.calm {
			w.disk.SetBefore(nil)
		}
		w.check()
		a.work.Go(func() { s.Run(a.ctx) })
		if !w.calm && w.rng.IntN(2) == 0 {
			w.armCrash(1 + w.rng.IntN(400))
		}
		return
	}
}

// stop ends the process's goroutines, and returns the disk that its crash has left, or else its own.
func (w *simWorld) stop() *simdisk.Disk {
	a, old := w.agent, w.disk
	a.end()
	a.work.Wait()
	old.SetBefore(nil)
	if a.Sessions != nil {
		halted := a.Halted() != nil
		if err := a.Close(); err != nil && !halted && !a.dead.Load() {
			w.model.fail("closing: %w", err)
		}
		a.reap()
	}
	if err := old.Misuse(); err != nil {
		w.model.fail("%w", err)
	}
	if left := a.left.Load(); left != nil {
		return left
	}
	return old
}

// reap ends what a store that has failed leaves to the end of its process.
func (a *simAgent) reap() {
	defer func() { recover() }() // it can't go on, and says so
	if st, ok := a.Sessions.ledger.store.(*embedded); ok && st.failed {
		st.db.Close()
	}
}

// restart crashes the process, unless it has crashed, and starts another.
func (w *simWorld) restart() {
	if w.agent.left.Load() == nil {
		w.agent.left.Store(w.disk.Snapshot(w.crash()))
		w.agent.dead.Store(true)
	}
	w.crashes++
	w.disk = w.stop()
	w.start()
}

func (w *simWorld) crash() simdisk.Crash {
	c := simdisk.Crash{Power: w.rng.IntN(3) > 0, Kept: w.rng.IntN(101), RNG: rand.New(rand.NewPCG(w.seed, w.rng.Uint64()))}
	if w.rng.IntN(4) == 0 {
		c.Kept = 0
	}
	return c
}

// armCrash has the process crash before the n-th of its operations on the disk from now on.
func (w *simWorld) armCrash(n int) {
	a, disk, crash, at := w.agent, w.disk, w.crash(), w.disk.Ops()+n
	disk.SetBefore(func(op simdisk.Op) (int, error) {
		if op.N == at {
			a.left.Store(disk.SnapshotLocked(crash))
			a.dead.Store(true)
		}
		return 0, nil
	})
}

// armFault has one operation on the log, the trail or the lock file fail, or all of them from then on.
func (w *simWorld) armFault() {
	w.faults++
	at, forever, errno := w.disk.Ops()+1+w.rng.IntN(30), w.rng.IntN(2) == 0, syscall.EIO
	if w.rng.IntN(2) == 0 {
		errno = syscall.ENOSPC
	}
	part := w.rng.IntN(600)
	w.disk.SetBefore(func(op simdisk.Op) (int, error) {
		log := strings.HasSuffix(op.Path, ".log") && (op.Kind == simdisk.Write || op.Kind == simdisk.Sync)
		if op.N < at || !log && !strings.Contains(op.Path, "audit") && !strings.Contains(op.Path, "locked") {
			return 0, nil
		}
		if !forever {
			at = 1 << 62
		}
		return min(part, op.Size), errno
	})
}

// before is what a calm disk does before each operation.
func (w *simWorld) before(op simdisk.Op) (int, error) {
	if w.onDisk == nil {
		return 0, nil
	}
	err := w.onDisk(op)
	w.failed = w.failed || err != nil
	return op.Size / 2, err
}

// step makes one operation.
func (w *simWorld) step() {
	op := &simOps[simDeck[w.rng.IntN(len(simDeck))]]
	if w.calm && (op.name == "crash" || op.name == "fault") {
		return
	}
	w.history = append(w.history, op.name)
	op.do(w)
}

// pause lets time pass.
func (w *simWorld) pause() {
	d := time.Duration(w.rng.Int64N(int64(3 * time.Second)))
	if w.rng.IntN(200) == 0 {
		d = time.Duration(w.rng.Int64N(int64(10 * time.Minute)))
	}
	time.Sleep(d)
}

// finish lets everything end: no key is left then.
func (w *simWorld) finish() {
	if w.agent.dead.Load() || w.agent.Halted() != nil {
		w.restart()
	}
	w.disk.SetBefore(nil)
	if w.agent.Locked() {
		w.unlock()
	}
	w.restart() // with what a power cut would lose now
	w.disk.SetBefore(nil)
	time.Sleep(20 * time.Minute)
	synctest.Wait()
	if w.model.failed() == nil && w.agent.dead.Load() {
		w.model.fail("the agent crashed while nothing was to")
	}
	w.dev.mu.Lock()
	defer w.dev.mu.Unlock()
	if n := len(w.dev.keys); n > 0 {
		w.model.fail("%d keys are left in the device after every session has ended", n)
	}
}

// simSpec allows fees of simFeeLimit in all, and a value of simValueLimit in each simPeriod.
func simSpec(expires time.Time) *policy.Spec {
	return &policy.Spec{
		ExpiresAt: *uint256.NewInt(uint64(expires.Unix())),
		FeeLimit:  policy.UsageLimit{LimitType: policy.Lifetime, Limit: *uint256.NewInt(simFeeLimit)},
		TransferPolicies: []policy.TransferSpec{{
			Target: target, MaxValuePerUse: *uint256.NewInt(1000),
			ValueLimit: policy.UsageLimit{LimitType: policy.Allowance, Limit: *uint256.NewInt(simValueLimit),
				Period: *uint256.NewInt(simPeriod)},
		}},
	}
}

func simTransfer(s *simSession, nonce, fee, value uint64) *zktx.Transaction {
	return &zktx.Transaction{
		Type: zktx.TypeZKsync, ChainID: s.ChainID, Nonce: nonce, From: s.Account, To: target, Value: *uint256.NewInt(value),
		GasLimit: *uint256.NewInt(fee), MaxFeePerGas: *uint256.NewInt(1), GasPerPubdata: *uint256.NewInt(50000),
	}
}

// answered reports whether an operation's answer counts: it was given before any crash.
func (w *simWorld) answered(err error) bool {
	if w.agent.dead.Load() || err != nil && errors.Is(err, ErrHalted) {
		return false
	}
	return err == nil
}
