package session

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
)

// A device that counts its signatures is compared with what the agent asked of it. The agent keeps, for each key, the
// device's counter at a moment when it asked for nothing, and that moment's place in the audit trail: a [reading]. What
// the device counts later has to be explained by grants after that place. More is an alarm: something else signs with
// the key.
//
// Whatever is in doubt explains a signature until the next reading: calls under way, calls that failed without
// [backends.ErrNotSigned], and after a crash those whose records may be lost, since a device signs while the record is
// written.

// countEvery is how often devices are asked. An alarm is due within a minute.
const countEvery = 20 * time.Second

// deviceCounts is what is known of devices' counters.
type deviceCounts struct {
	mu       sync.Mutex
	asked    map[ID]*asked
	readings map[ID]*reading
	saved    map[ID]reading // as in the file
}

// asked is what this process has asked of a device with a session's key.
type asked struct {
	open  uint64 // calls under way
	made  uint64 // calls that have ended and may have led to a signature
	turns uint64 // counts each begin and end of a call
}

// reading is a device's counter at a moment.
type reading struct {
	Counter  uint64 `json:"counter"`
	Record   uint64 `json:"record"`             // the trail's last then
	Hash     string `json:"hash"`               // of its line, hex
	Foreign  uint64 `json:"foreign,omitempty"`  // signatures that the agent did not ask for, since ever
	WentBack bool   `json:"wentBack,omitempty"` // the counter was once lower than before

	made     uint64 // of asked, then
	earlier  uint64 // grants of processes before this one that are after Record, and were not taken back
	crashes  uint64 // of processes after Record
	unsaved  bool
	quiet    bool // no call was under way; else calls under way then may be counted twice, and it is not saved
	restored bool // the state is a backup's since: the counter is read, and not compared
}

// deviceCall is one call for a signature; nil: the device does not count.
type deviceCall struct {
	d    *deviceCounts
	a    *asked
	made bool
}

// asks begins a call. The caller ends it once the call's records are on disk or given up.
func (s *Sessions) asks(sess *Session) *deviceCall {
	if c, ok := s.cfg.Backends[sess.Backend].(backends.Counter); !ok || !c.Counts() {
		return nil
	}
	d := s.counted
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.asked[sess.ID]
	if a == nil {
		a = new(asked)
		d.asked[sess.ID] = a
	}
	a.open++
	a.turns++
	return &deviceCall{d: d, a: a}
}

// signDigest is the function of that name, and notes whether there may be a signature.
func (c *deviceCall) signDigest(ctx context.Context, key backends.Key, sess *Session, digest policy.Hash) ([65]byte,
	error) {
	if c == nil {
		return signDigest(ctx, key, sess, digest)
	}
	c.made = true // also if it panics
	sig, err := signDigest(ctx, key, sess, digest)
	c.made = !errors.Is(err, backends.ErrNotSigned)
	return sig, err
}

func (c *deviceCall) end() {
	if c == nil {
		return
	}
	c.d.mu.Lock()
	defer c.d.mu.Unlock()
	c.a.open--
	c.a.turns++
	if c.made {
		c.a.made++
	}
}

// now is a copy of what was asked, and of the last reading; nil: there is none.
func (d *deviceCounts) now(id ID) (asked, *reading) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var a asked
	if d.asked[id] != nil {
		a = *d.asked[id]
	}
	r := d.readings[id]
	if r != nil {
		c := *r
		r = &c
	}
	return a, r
}

// CountDevices compares devices' counters with the trail until ctx is done. A device that can't be read is asked again
// the next time.
func (s *Sessions) CountDevices(ctx context.Context) {
	timer := time.NewTicker(countEvery)
	defer timer.Stop()
	failing := map[ID]bool{} // told once
	for {
		s.compareCounts(ctx, failing)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
	}
}

// compareCounts compares each key that is in a device that counts.
func (s *Sessions) compareCounts(ctx context.Context, failing map[ID]bool) {
	counters := map[string]backends.Counter{}
	for name, b := range s.cfg.Backends {
		if c, ok := b.(backends.Counter); ok && c.Counts() {
			counters[name] = c
		}
	}
	if len(counters) == 0 {
		return
	}
	live := map[ID]bool{}
	for _, sess := range s.filter(func(sess *Session) bool {
		return counters[sess.Backend] != nil &&
			sess.KeyDestroyedAt.IsZero()
	}) {
		live[sess.ID] = true
		err := s.compareCount(ctx, counters[sess.Backend], sess)
		if err != nil && !failing[sess.ID] && ctx.Err() == nil {
			s.cfg.Logger.Warn("the device's counter of signatures can't be compared, trying again", "session", sess.ID, "error",
				err)
		}
		failing[sess.ID] = err != nil
	}
	if err := s.saveCounts(live); err != nil {
		s.cfg.Logger.Error("what devices have counted can't be saved", "error", err)
	}
}

// compareCount reads the counter of one key.
func (s *Sessions) compareCount(ctx context.Context, c backends.Counter, sess *Session) error {
	ctx, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	before, last := s.counted.now(sess.ID)
	head := s.AuditHead()
	n, counts, err := c.Signatures(ctx, sess.KeyURI)
	if err != nil || !counts {
		return err
	}
	after, _ := s.counted.now(sess.ID)
	quiet := before.open == 0 && before.turns == after.turns
	next := &reading{Counter: n, Record: head.Seq, Hash: fmt.Sprintf("%x", head.Hash), made: before.made, unsaved: true,
		quiet: quiet}
	if last != nil {
		next.Foreign, next.WentBack = last.Foreign, last.WentBack
	}
	switch {
	case last == nil:
		err = s.recordCount(ctx, sess, audit.DeviceCounted, map[string]any{"counter": n, "reason": "the first reading"})
	case last.restored:
		err = s.recordCount(ctx, sess, audit.DeviceCounted,
			map[string]any{"counter": n, "reason": "the state is not the one of the last reading"})
	case n < last.Counter:
		next.WentBack = true
		s.cfg.Logger.Error("ALARM: a device's counter of signatures went back: the card was reset, or is another one",
			"session", sess.ID, "backend", sess.Backend, "before", last.Counter, "now", n)
		err = s.recordCount(ctx, sess, audit.DeviceCounted,
			map[string]any{"counter": n, "before": last.Counter, "reason": "it went back"})
	case n > last.explained(after, s.slack(sess.Backend)):
		foreign := n - last.explained(after, s.slack(sess.Backend))
		next.Foreign += foreign
		s.cfg.Logger.Error("ALARM: a device has made signatures that this agent did not ask for: its key is used from "+
			"elsewhere",
			"session", sess.ID, "backend", sess.Backend, "signatures", foreign, "counter", n)
		err = s.recordCount(ctx, sess, audit.DeviceExternal,
			map[string]any{"counter": n, "before": last.Counter, "signatures": foreign})
	case !quiet:
		return nil // the last reading stays: it allows no more than it did
	case n == last.Counter && !last.unsaved && after.made == last.made && last.earlier == 0 && last.crashes == 0:
		return nil
	}
	if err != nil {
		return err // and the next reading finds the same
	}
	s.counted.mu.Lock()
	s.counted.readings[sess.ID] = next
	s.counted.mu.Unlock()
	return nil
}

// explained is the most that the device may have counted.
func (r *reading) explained(now asked, slack uint64) uint64 {
	return r.Counter + now.made - r.made + now.open + r.earlier + r.crashes*slack
}

// slack is how many signatures a crash may have left without a record. Those under way at the device are as many as it
// works on; as many more may wait for their records.
func (s *Sessions) slack(backend string) uint64 {
	n := backends.DefaultConcurrency
	if l, ok := s.cfg.Backends[backend].(backends.Limited); ok {
		n = l.Concurrency()
	}
	return 2 * uint64(n)
}

func (s *Sessions) recordCount(ctx context.Context, sess *Session, event audit.Event, detail any) error {
	rec := s.record(event, nil, sess)
	rec.Detail = detail
	return s.Record(ctx, *rec)
}

// DeviceCount is what a backend's device has counted beyond what the agent asked for, of keys that are still there.
type DeviceCount struct {
	Foreign  uint64 // signatures
	WentBack int    // keys whose counter was once lower than before
}

// DeviceCounts returns what devices have counted, by backend.
func (s *Sessions) DeviceCounts() map[string]DeviceCount {
	s.counted.mu.Lock()
	defer s.counted.mu.Unlock()
	all := map[string]DeviceCount{}
	for id, r := range s.counted.readings {
		sess := s.ledger.index.get(id)
		if sess == nil || !sess.KeyDestroyedAt.IsZero() {
			continue
		}
		c := all[sess.Backend]
		if c.Foreign += r.Foreign; r.WentBack {
			c.WentBack++
		}
		all[sess.Backend] = c
	}
	return all
}
