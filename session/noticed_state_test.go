package session

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/policy"
)

// What is due first comes first, in whatever order the sessions are read.
func TestScheduleBeginsWithTheFirst(t *testing.T) {
	var sessions []*Session
	for n := range 50 {
		sessions = append(sessions, numbered(n+1, policy.Address{1}))
	}
	s := onlyIndex(sessions...)
	s.ledger.index.startSchedule(func(sess *Session) time.Time { return sess.CreatedAt.Add(time.Hour) })
	if got, want := s.ledger.index.nextDue(), time.Unix(1, 0).Add(time.Hour); !got.Equal(want) {
		t.Errorf("due first at %v, want %v", got, want)
	}
}

// A session gets the clients that are named, and the record has those and the ones before. It can't have none.
func TestSetClientsReplacesThem(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	if _, err := a.SetClients(t.Context(), operator, sess.ID, nil); !errors.Is(err, ErrInvalid) {
		t.Errorf("SetClients to none = %v, want ErrInvalid", err)
	}
	want := []Client{{ID: 4711}}
	got, err := a.SetClients(t.Context(), operator, sess.ID, want)
	if err != nil || !slices.Equal(got.Clients, want) {
		t.Errorf("SetClients = %v, %v, want %v", got, err, want)
	}
	a.restart(t)
	if again := a.ledger.index.get(sess.ID); !slices.Equal(again.Clients, want) {
		t.Errorf("after a restart the clients are %v, want %v", again.Clients, want)
	}
	before := fmt.Sprintf(`"before":["%s"`, sess.Clients[0])
	if trail := string(read(t, a.auditPath())); !strings.Contains(trail, before) ||
		!strings.Contains(trail, `"after":["uid:4711"]`) {
		t.Errorf("the trail lacks the clients before (%s) or after:\n%s", before, trail)
	}
}

// A file that was read is closed.
func TestReadIDMapClosesTheFile(t *testing.T) {
	for range 3 {
		if _, err := readIDMap("/proc/self/uid_map"); err != nil {
			t.Fatal(err)
		}
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasSuffix(to, "/uid_map") {
			t.Errorf("%s is open", to)
		}
	}
}

// Counts of refusals are of a bounded number of reasons, and each is in one summary only.
func TestRefusalsAreCountedOnce(t *testing.T) {
	a := newAgent(t)
	r := a.Sessions.refusals
	for n := range 2 * maxReasons {
		r.count(fmt.Sprintf("reason %d", n))
	}
	r.mu.Lock()
	reasons, rest := len(r.counts), r.counts[otherReason]
	r.mu.Unlock()
	if reasons > maxReasons+1 || rest < maxReasons-1 {
		t.Errorf("%d reasons are counted, %d times another, want at most %d and the rest", reasons, rest, maxReasons+1)
	}
	r.flush() // and Close has nothing left
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(string(read(t, a.auditPath())), `"`+string(audit.RefusalsSummary)+`"`); got != 1 {
		t.Errorf("%d summaries, want one", got)
	}
}

// What was refused is in the trail with its method and its reason.
func TestRefuseRecordsWhatWasAsked(t *testing.T) {
	a := newAgent(t)
	sess := a.active(t)
	if err := a.Refuse(t.Context(), app, sess.Signer(), "personal_sign", "messageNotAllowed",
		"no rule allows it"); err == nil {
		t.Fatal("Refuse returned no error")
	}
	trail := string(read(t, a.auditPath()))
	at := strings.Index(trail, `"`+string(audit.MessageRefused)+`"`)
	if at < 0 || !strings.Contains(trail[at:], `"method":"personal_sign"`) ||
		!strings.Contains(trail[at:], `"reason":"messageNotAllowed"`) {
		t.Errorf("the trail lacks the method or the reason:\n%s", trail)
	}
}

// A block that is seen again was first seen when it was first seen.
func TestClockRemembersWhenABlockWasFirstSeen(t *testing.T) {
	start := time.Unix(1_800_000_000, 0)
	c := &clock{bound: time.Minute}
	block := chain.Block{Number: 1, Time: uint64(start.Unix())}
	c.look(block, moment{start, 0})
	c.look(block, moment{start.Add(time.Minute), time.Minute})
	if c.firstSeen.since != 0 {
		t.Errorf("block 1 was first seen after %v, want 0", c.firstSeen.since)
	}
}

// The state of a device's queue can be read.
func TestQueues(t *testing.T) {
	a := newAgent(t)
	for range 2 {
		if q := a.Queues()["soft"]; q.Slots < 1 || q.Busy != 0 || q.Waiting != 0 {
			t.Errorf("the queue of an idle device: %+v", q)
		}
	}
}

// The details that are kept are the newest, each place of the ring in turn.
func TestDetailsKeepTheNewest(t *testing.T) {
	d := &details{}
	newest := map[*listed]bool{}
	for n := range 2 * maxWhole {
		l := &listed{}
		l.Store(&Session{})
		d.keep(l)
		if n >= maxWhole {
			newest[l] = true
		}
	}
	for i, l := range d.ring {
		if !newest[l] {
			t.Fatalf("place %d of %d still has an old one", i, len(d.ring))
		}
	}
}
