package shared

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/jackc/pgx/v5"

	"github.com/keyward/keyward/internal/pgtest"
	"github.com/keyward/keyward/policy"
)

// In the test of killed agents each agent is a process of its own: this test binary, which workerEnv makes one.
const (
	workerEnv   = "KEYWARD_TEST_SHARED_AGENT"
	killNonces  = 4
	killLimit   = 300
	killOps     = 12 // of each process
	killMaxCost = 100
)

// worker says what an agent's process does.
type worker struct {
	URL, Agent, Dir string
	Seed            uint64
}

// done is one call of a worker: in its log, with the time as both saw it.
type done struct {
	Begun, Ended int64 // Unix nanoseconds; 0: it has not ended
	Nonce, Cost  uint64
	Digest       string
	Outcome      string // "released", "denied" or "unknown"
}

func TestMain(m *testing.M) {
	if text := os.Getenv(workerEnv); text != "" {
		if err := work(text); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// work charges and releases, and logs each call before and after.
func work(text string) error {
	var w worker
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	conn, err := pgx.ParseConfig(w.URL)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(w.Dir, "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	var l *Ledger
	for { // the database may be down
		if l, err = Open(context.Background(), Config{Conn: conn, Agent: w.Agent, Dir: w.Dir, MACKey: macKey}); err == nil {
			break
		}
		if !errors.Is(err, ErrUnreachable) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
	rng := rand.New(rand.NewPCG(w.Seed, 1))
	for i := range uint64(killOps) {
		d := done{Nonce: rng.Uint64N(killNonces), Cost: 1 + rng.Uint64N(killMaxCost)}
		g := grant(d.Nonce, w.Seed*1000+i, charge(lifetime, d.Cost, killLimit))
		d.Digest, d.Begun, d.Outcome = g.Digest.String(), time.Now().UnixNano(), "unknown"
		if err := note(log, d); err != nil {
			return err
		}
		res, err := reserve(l, "s", g)
		var leave func()
		if err == nil {
			leave, err = l.Release(res, func() {})
		}
		d.Ended = time.Now().UnixNano()
		switch {
		case err == nil:
			d.Outcome = "released"
		case reason(err) == policy.ReasonLifetimeExceeded:
			d.Outcome = "denied"
		}
		if err := note(log, d); err != nil {
			return err
		}
		if leave != nil {
			leave()
		}
		if d.Outcome == "unknown" {
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
	}
	return l.Close()
}

// note writes one line in one write(2): what is in the file has left a process that is killed afterwards.
func note(f *os.File, d done) error {
	line, err := json.Marshal(d)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	return err
}

// start starts an agent's process.
func (w worker) start(t *testing.T) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(w)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), workerEnv+"="+string(text))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("agent %s: %s", w.Agent, stderr.Bytes())
		}
	})
	return cmd
}

// calls reads a worker's log: the last line of each digest counts.
func (w worker) calls(t *testing.T) (all []done) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.Dir, "calls"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	at := map[string]int{}
	for lines.Scan() {
		var d done
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			t.Fatal(err)
		}
		if i, ok := at[d.Digest]; ok {
			all[i] = d
			continue
		}
		at[d.Digest] = len(all)
		all = append(all, d)
	}
	return all
}

// TestKilledAgents runs three agents on one session. One is killed and started again, one is stopped for a while, the
// database crashes. No limit is passed, nothing is released that was not charged, and the calls have an order in which
// each answer is right.
func TestKilledAgents(t *testing.T) {
	t.Parallel()
	server := pgtest.Start(t)
	r := newRig(t, []*pgtest.Server{server}, "first", "a", "b", "c")
	first := r.agent(t, "first")
	aSession(t, first, "s")
	first.Close()
	var workers []worker
	var running []*exec.Cmd
	for i, name := range []string{"a", "b", "c"} {
		w := worker{URL: server.URL(r.role(name), r.database), Agent: name, Dir: t.TempDir(), Seed: uint64(i + 1)}
		workers, running = append(workers, w), append(running, w.start(t))
	}
	eventually(t, "all agents have released something", func() bool {
		return len(workers[0].calls(t)) > 3 && len(workers[1].calls(t)) > 1 && len(workers[2].calls(t)) > 1
	})
	running[0].Process.Kill() // kill -9
	running[0].Wait()
	running[1].Process.Signal(syscall.SIGSTOP)
	workers[0].Seed = 4
	running[0] = workers[0].start(t)
	time.Sleep(200 * time.Millisecond)
	server.Stop("immediate")
	server.Start()
	running[1].Process.Signal(syscall.SIGCONT)
	for i, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Fatalf("agent %s: %v", workers[i].Agent, err)
		}
	}
	r.owner = connect(t, server.URL("postgres", r.database))
	r.checkHistory(t, workers)
}

func (r *rig) checkHistory(t *testing.T, workers []worker) {
	t.Helper()
	var history []porcupine.Operation
	most := map[uint64]uint64{}
	released, unknown := 0, 0
	for client, w := range workers {
		for _, d := range w.calls(t) {
			op := porcupine.Operation{ClientId: client, Input: d, Call: d.Begun, Output: d.Outcome, Return: d.Ended}
			if d.Outcome == "unknown" { // it may take effect until the end
				unknown++
				op.Return = 1 << 62
				op.ClientId = 100 + unknown
			}
			history = append(history, op)
			if d.Outcome != "released" {
				continue
			}
			released++
			most[d.Nonce] = max(most[d.Nonce], d.Cost)
			var n int
			digest := d.Digest[2:]
			if err := r.owner.QueryRow(t.Context(), "SELECT count(*) FROM keyward.signed WHERE digest = $1",
				digest).Scan(&n); err != nil || n != 1 {
				t.Errorf("digest %s was released and charged %d times, %v", digest, n, err)
			}
		}
	}
	var spent uint64
	for _, cost := range most {
		spent += cost
	}
	var total, owed uint64
	err := r.owner.QueryRow(t.Context(), `SELECT (SELECT used FROM keyward.usage),
		(SELECT sum(value::numeric) FROM keyward.liability, jsonb_each_text(costs))`).Scan(&total, &owed)
	if err != nil || spent > killLimit || total > killLimit || total != owed || spent > total {
		t.Errorf("%d spent, %d counted, %d owed, the limit is %d; %v", spent, total, owed, killLimit, err)
	}
	if res := porcupine.CheckOperationsTimeout(killModel.ToModel(), history, time.Minute); res == porcupine.Illegal {
		t.Errorf("no order of the calls explains their answers: %+v", history)
	} else {
		t.Logf("%d calls, %d released, %d not known; the order of the calls: %s", len(history), released, unknown, res)
	}
	if released == 0 {
		t.Error("nothing was released: the test shows nothing")
	}
}

// killModel is one limit: a nonce costs the most of what was signed for it. A call that has no answer may have been
// charged or not.
var killModel = porcupine.NondeterministicModel{
	Init: func() []any { return []any{[killNonces]uint64{}} },
	Step: func(state, input, output any) []any {
		costs, call := state.([killNonces]uint64), input.(done)
		next := costs
		next[call.Nonce] = max(costs[call.Nonce], call.Cost)
		var sum uint64
		for _, c := range next {
			sum += c
		}
		// The chain's check adds the whole cost, also of a cheaper replacement.
		fits := sum-next[call.Nonce]+call.Cost <= killLimit
		switch output.(string) {
		case "released":
			if fits {
				return []any{next}
			}
			return nil
		case "denied":
			if fits {
				return nil
			}
			return []any{costs}
		}
		if fits {
			return []any{costs, next}
		}
		return []any{costs}
	},
}
