package session

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/backends/soft"
	"github.com/keyward/keyward/policy"
)

// limited is a backend that works on n signatures at a time.
type limited struct {
	*soft.Backend
	n int
}

func (l limited) Concurrency() int { return l.n }

// fullQueue is a queue whose slots are taken.
func fullQueue(slots int) *queue {
	q := newQueue(limited{&soft.Backend{}, slots})
	q.busy = slots
	return q
}

// put has n requests wait, and returns them with the error of the last.
func (q *queue) put(n int, uid uint32, conn any) (tickets []*ticket, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for range n {
		t, err := q.queueLocked(uid, conn)
		if err != nil {
			return tickets, err
		}
		tickets = append(tickets, t)
	}
	return tickets, nil
}

// next frees a slot, which the next request gets, and says whose it is.
func (q *queue) next() string {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting == 0 {
		return ""
	}
	u := q.users.Front().Value.(*userQueue)
	c := u.conns.Front().Value.(*connQueue)
	first := c.tickets.Front().Value.(*ticket)
	q.busy--
	q.serveLocked()
	if first.self != nil || len(first.done) != 1 {
		return "another one"
	}
	return fmt.Sprintf("%d%v", u.uid, c.conn)
}

// Users take turns, and the connections of each user; a thousand requests on one do not change when the others are
// served.
func TestQueueTakesTurns(t *testing.T) {
	q := fullQueue(64)
	for _, w := range []struct {
		n    int
		uid  uint32
		conn string
	}{{1000, 1, "a"}, {3, 1, "b"}, {2, 2, "c"}, {1, 3, "d"}} {
		if _, err := q.put(w.n, w.uid, w.conn); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for range 12 {
		got = append(got, q.next())
	}
	if got, want := strings.Join(got, " "), "1a 2c 3d 1b 2c 1a 1b 1a 1b 1a 1a 1a"; got != want {
		t.Errorf("served %s, want %s", got, want)
	}
}

// Past the bound, the newest request of the connection that has the most waiting makes room for one of a connection
// that has less than its share, and any other is turned away.
func TestQueueIsBounded(t *testing.T) {
	q := fullQueue(1) // 64 may wait
	heavy, err := q.put(64, 1, "a")
	if err != nil {
		t.Fatal(err)
	}
	turnedAway := func(what string, uid uint32, conn string) {
		t.Helper()
		if _, err := q.put(1, uid, conn); !errors.Is(err, ErrOverloaded) {
			t.Errorf("%s: %v, want ErrOverloaded", what, err)
		}
	}
	displaces := func(what string, uid uint32, conn string, newest *ticket) {
		t.Helper()
		if _, err := q.put(1, uid, conn); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		select {
		case err := <-newest.done:
			if !errors.Is(err, ErrOverloaded) || newest.self != nil {
				t.Errorf("%s: the displaced one gets %v", what, err)
			}
		default:
			t.Errorf("%s displaces another one", what)
		}
		if q.waiting != 64 {
			t.Errorf("%s: %d wait, want 64", what, q.waiting)
		}
	}
	turnedAway("one more of the same connection", 1, "a")
	displaces("another connection of the user", 1, "b", heavy[63])
	displaces("another user", 2, "c", heavy[62])
	for i := range 31 { // until both users have 32
		displaces("another user", 2, "c", heavy[61-i])
	}
	turnedAway("as many as the other user has", 2, "c")
	turnedAway("the heavy one", 1, "a")
	displaces("a connection with less than its share of its user's", 1, "b", heavy[30])
	if got := q.byUID[1].Value.(*userQueue).waiting; got != 32 {
		t.Errorf("user 1 has %d waiting, want 32", got)
	}
}

// How many may wait follows from what a signature takes.
func TestQueueBoundByTime(t *testing.T) {
	for _, tt := range []struct {
		slots int
		mean  time.Duration
		want  int
	}{
		{4, 0, 256}, {4, time.Millisecond, 256}, {4, 100 * time.Millisecond, 200}, {4, time.Second, 20}, {4, time.Minute, 4},
		{64, time.Microsecond, 4096},
	} {
		q := fullQueue(tt.slots)
		q.mean = tt.mean
		if got := q.bound(); got != tt.want {
			t.Errorf("%d slots, %v a signature: %d may wait, want %d", tt.slots, tt.mean, got, tt.want)
		}
	}
	q := newQueue(limited{&soft.Backend{}, 1})
	for range 100 {
		leave, waited, err := q.enter(t.Context(), 1, nil)
		if err != nil || waited {
			t.Fatalf("enter: %v, waited: %v", err, waited)
		}
		time.Sleep(100 * time.Microsecond)
		leave()
	}
	if q.mean < 50*time.Microsecond {
		t.Errorf("a signature is taken for %v, want 100 µs at least", q.mean)
	}
}

// A request that is given up while it waits takes no slot, and none is lost whatever happens at the same time.
func TestQueueLosesNoSlot(t *testing.T) {
	q := newQueue(limited{&soft.Backend{}, 3})
	var inside, most, entered, overloaded, gaveUp atomic.Int64
	var wg sync.WaitGroup
	for caller := range 400 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(caller), 1))
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(rng.IntN(3000))*time.Microsecond)
				leave, _, err := q.enter(ctx, uint32(caller%3), caller%20)
				switch {
				case errors.Is(err, ErrOverloaded):
					overloaded.Add(1)
				case err != nil:
					gaveUp.Add(1)
				default:
					entered.Add(1)
					most.Store(max(most.Load(), inside.Add(1)))
					time.Sleep(100 * time.Microsecond)
					inside.Add(-1)
					leave()
					leave() // counts once
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if q.busy != 0 || q.waiting != 0 || q.users.Len() != 0 || len(q.byUID) != 0 {
		t.Errorf("afterwards %d slots are taken, %d requests wait, of %d users", q.busy, q.waiting, q.users.Len())
	}
	if most.Load() > 3 {
		t.Errorf("%d requests were with the device, 3 may", most.Load())
	}
	if entered.Load() == 0 || overloaded.Load() == 0 || gaveUp.Load() == 0 {
		t.Errorf("%d entered, %d overloaded, %d gave up: want some of each", entered.Load(), overloaded.Load(), gaveUp.Load())
	}
}

// oneAtATime has the agent's device work on one signature at a time, and holds it up.
func (a *agent) oneAtATime(t *testing.T) (started <-chan struct{}, device chan<- struct{}) {
	t.Helper()
	begun, gate := make(chan struct{}, 1000), make(chan struct{})
	a.soft.OnSign = func(ctx context.Context, _ [32]byte) (*backends.Signature, error) {
		begun <- struct{}{}
		select {
		case <-gate:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a.Sessions.queues["soft"] = newQueue(limited{a.soft, 1})
	return begun, gate
}

// waitFor returns once n requests wait for the device.
func (a *agent) waitFor(n int) {
	for q := a.Sessions.queue("soft"); ; time.Sleep(100 * time.Microsecond) {
		q.mu.Lock()
		waiting := q.waiting
		q.mu.Unlock()
		if waiting == n {
			return
		}
	}
}

// A request that is turned away was not counted and not recorded, and its device never heard of it.
func TestOverloadIsNotCharged(t *testing.T) {
	a := newAgent(t)
	started, device := a.oneAtATime(t)
	sess := a.active(t)
	var calls sync.WaitGroup
	for nonce := range uint64(65) {
		calls.Go(func() {
			if _, err := a.Sign(t.Context(), app, transfer(sess, nonce)); err != nil {
				t.Errorf("nonce %d: %v", nonce, err)
			}
		})
	}
	<-started
	a.waitFor(64)
	// on disk after the first grant
	if err := a.Sessions.Record(t.Context(), audit.Record{Event: audit.AgentReloaded}); err != nil {
		t.Fatal(err)
	}
	records, used := len(a.events(t)), mustUsage(t, a, sess.ID)[0].Used
	if _, err := a.Sign(t.Context(), app, transfer(sess, 100)); !errors.Is(err, ErrOverloaded) {
		t.Fatalf("Sign = %v, want ErrOverloaded", err)
	}
	if got := len(a.events(t)); got != records {
		t.Errorf("%d records, want the %d from before", got, records)
	}
	if got := mustUsage(t, a, sess.ID)[0].Used; got != used || got != policy.Decimal(*uint256.NewInt(10)) {
		t.Errorf("used %v, want 10: only the one in the device is counted", got)
	}
	close(device)
	calls.Wait()
}

// A request that waited is judged by the session's state at the end of the wait. If it is denied, it is not counted.
func TestWaitingIsJudgedAgain(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*agent, *Session) error
		want   string
	}{
		"expired": {func(a *agent, _ *Session) error { a.pass(25 * time.Hour); return nil }, policy.ReasonSessionExpired},
		"revoked": {func(a *agent, sess *Session) error {
			_, err := a.Revoke(context.Background(), operator, sess.ID)
			return err
		}, policy.ReasonSessionNotActive},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgent(t)
			started, device := a.oneAtATime(t)
			sess := a.active(t)
			sign := func(nonce uint64) <-chan error {
				result := make(chan error, 1)
				go func() {
					_, err := a.Sign(t.Context(), app, transfer(sess, nonce))
					result <- err
				}()
				return result
			}
			inDevice := sign(1)
			<-started
			waits := sign(2)
			a.waitFor(1)
			if err := tt.change(a, sess); err != nil {
				t.Fatal(err)
			}
			device <- struct{}{}
			if err := <-inDevice; err != nil {
				t.Errorf("the one in the device: %v", err) // whether it is released is for Release
			}
			wantDenial(t, <-waits, tt.want)
			if n, err := a.Outstanding(sess.ID); err != nil || n != 1 {
				t.Errorf("%d liabilities, %v, want 1", n, err)
			}
		})
	}
}

// A request that never reaches the device, as the policy refuses it, does not wait for it.
func TestDenialsDoNotWait(t *testing.T) {
	a := newAgent(t)
	started, device := a.oneAtATime(t)
	sess := a.active(t)
	done := make(chan error)
	go func() {
		_, err := a.Sign(t.Context(), app, transfer(sess, 1))
		done <- err
	}()
	<-started
	req := transfer(sess, 2)
	req.Tx.To = policy.Address{1}
	_, err := a.Sign(t.Context(), app, req)
	wantDenial(t, err, policy.ReasonTransferNotAllowed)
	close(device)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
