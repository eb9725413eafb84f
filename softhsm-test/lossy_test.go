//go:build lossy

package softhsmtest

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keyward/keyward/internal/lossyfs"
	"github.com/keyward/keyward/internal/testbin"
	"github.com/keyward/keyward/socket/api"
)

var (
	cuts     = flag.Int("cuts", 100, "of TestPowerCutOfTheAgent")
	lossSeed = flag.Uint64("cuts.seed", uint64(time.Now().UnixNano()), "of what the power cuts lose, and when")
)

// machine is an agent whose state is on a disk that can lose its power.
type machine struct {
	*Agent
	disk     *lossyfs.FS
	state    string
	rng      *rand.Rand
	received map[string]bool // digests of signatures that arrived
	session  string
	nonces   [6]uint64 // each worker has its own range
	signed   [6]int    // signatures that each received
}

func newMachine(t *testing.T, rng *rand.Rand) *machine {
	t.Helper()
	dir := tempDir(t)
	m := &machine{Agent: initAgent(t, testbin.Plain, dir), rng: rng, received: map[string]bool{}}
	m.state = filepath.Join(m.Dir, "state")
	backing := filepath.Join(dir, "backing")
	m.must(os.MkdirAll(m.state, 0o700))
	m.must(os.Mkdir(backing, 0o700))
	disk, err := lossyfs.Mount(backing, m.state)
	m.must(err)
	m.disk = disk
	t.Cleanup(func() {
		m.finish()
		if err := m.disk.Unmount(); err != nil {
			t.Error(err)
		}
	})
	for w := range m.nonces {
		m.nonces[w] = uint64(w) << 32
	}
	return m
}

// cut cuts the power, and says how much of what was not synced is on the disk nevertheless. The process ends with it.
func (m *machine) cut() (kept int) {
	kept = []int{0, 0, 50, 90, 100}[m.rng.IntN(5)]
	m.disk.Cut(kept, m.rng)
	m.Kill()
	return kept
}

// restore starts the machine again.
func (m *machine) restore() {
	m.t.Helper()
	m.must(m.disk.Restore(m.state))
	m.Start()
}

// TestPowerCutOfTheAgent: the power of a machine is cut at random moments, under load and while the operator acts, and
// its disk loses what was not synced. After each start every signature that was received is charged and in the audit
// trail, and what the operator was answered holds.
func TestPowerCutOfTheAgent(t *testing.T) {
	t.Logf("seed %d", *lossSeed)
	rng := rand.New(rand.NewPCG(*lossSeed, 1))
	m := newMachine(t, rng)
	m.Start()
	m.session = m.ActiveSession(strings.Replace(transferSpec(1_000_000_000), `"maxValuePerUse": "1"`,
		`"maxValuePerUse": "2"`, 1), userAccount).ID
	began, told := time.Now(), time.Now()
	for n := range *cuts {
		var load sync.WaitGroup
		m.startLoad(t, &load)
		time.Sleep(time.Duration(30+rng.IntN(250)) * time.Millisecond) // the moment is the test's input
		holds := m.operate(n)
		kept := m.cut()
		load.Wait()
		m.restore()
		when := fmt.Sprintf("seed %d, cut %d, %d%% of what was not synced kept", *lossSeed, n, kept)
		m.checkNothingLost(when, m.session, m.received)
		holds(when)
		if t.Failed() {
			t.Fatalf("the agent's log ends with:\n%s", lastLines(m.log.String(), 30))
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			t.Logf("[%4.0f s] %d cuts, %d signatures received", time.Since(began).Seconds(), n+1, len(m.received))
		}
	}
	t.Logf("%d power cuts under load, %d signatures received, each with its charge and its record; by worker %v", *cuts,
		len(m.received), m.signed)
	if slices.Min(m.signed[:]) < *cuts/2 {
		t.Errorf("a worker received fewer signatures than half the power cuts: %v", m.signed)
	}
}

// startLoad has clients sign until the power is cut.
func (m *machine) startLoad(t *testing.T, load *sync.WaitGroup) {
	var mu sync.Mutex
	for w := range m.nonces {
		load.Go(func() {
			digests := m.signUntilKilled(t, m.session, &m.nonces[w])
			mu.Lock()
			defer mu.Unlock()
			m.signed[w] += len(digests)
			for _, digest := range digests {
				m.received[digest] = true
			}
		})
	}
}

// operate does what an operator does, each time something else, and returns what has to hold after the power cut that
// follows.
func (m *machine) operate(n int) (holds func(when string)) {
	status := func(id, want string) func(string) {
		return func(when string) {
			if got := m.sessionStatus(id); got != want {
				m.t.Errorf("%s: session %s is %q, and was %q before", when, id, got, want)
			}
		}
	}
	switch n % 5 {
	case 1:
		return status(m.ActiveSession(transferSpec(10), userAccount).ID, "active")
	case 2:
		id := m.ActiveSession(transferSpec(10), userAccount).ID
		m.Keyward("session", "revoke", id)
		return status(id, "revoked")
	case 3:
		m.Keyward("lock")
		return func(when string) {
			if state := m.status().State; state != api.StateLocked {
				m.t.Errorf("%s: the agent is %s, and was locked before", when, state)
			}
			m.Keyward("unlock")
		}
	case 4:
		m.Keyward("lock")
		m.Keyward("unlock")
		return func(when string) {
			if state := m.status().State; state != api.StateReady {
				m.t.Errorf("%s: the agent is %s, and was unlocked before", when, state)
			}
		}
	}
	return func(string) {}
}

func (m *machine) sessionStatus(id string) string {
	m.t.Helper()
	for _, sess := range m.sessions() {
		if sess.ID == id {
			return sess.Status
		}
	}
	return "unknown"
}

// TestPowerCutOfTheFirstStart: the power is cut while an agent makes its state. It starts afterwards.
func TestPowerCutOfTheFirstStart(t *testing.T) {
	t.Logf("seed %d", *lossSeed)
	rng := rand.New(rand.NewPCG(*lossSeed, 2))
	for n := range max(1, *cuts/10) {
		m := newMachine(t, rng)
		m.launch()
		time.Sleep(time.Duration(rng.IntN(400)) * time.Millisecond) // the moment is the test's input
		kept := m.cut()
		m.restore()
		if state := m.status().State; state != api.StateReady {
			t.Fatalf("seed %d, cut %d, %d%% kept: the agent is %s", *lossSeed, n, kept, state)
		}
		m.Stop()
	}
}
