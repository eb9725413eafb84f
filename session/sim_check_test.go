package session

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// simTrail is what the audit trail says.
type simTrail struct {
	records uint64
	granted map[policy.Hash]bool
	events  map[string]map[audit.Event]bool // by session
}

// simSegment is one file of the trail.
type simSegment struct {
	data    []byte
	records []simRecord
}

type simRecord struct {
	Seq             uint64
	Prev            string
	Event           audit.Event
	Session, Digest string

	hash [32]byte
}

// trail reads all segments, and checks the chain of records by itself. What has not changed since the last time it does
// not parse again.
func (w *simWorld) trail() (*simTrail, error) {
	names, err := w.disk.List("state")
	if err != nil {
		return nil, err
	}
	t := &simTrail{granted: map[policy.Hash]bool{}, events: map[string]map[audit.Event]bool{}}
	prev := [32]byte{}
	for _, name := range names { // sealed segments sort before the newest: '-' is before '.'
		if !strings.HasPrefix(name, "audit") {
			continue
		}
		f, err := w.disk.Open("state/" + name)
		if err != nil {
			return nil, err
		}
		data, err := io.ReadAll(f)
		if err != nil {
			return nil, err
		}
		if old := w.read[name]; old == nil || !bytes.Equal(old.data, data) {
			if w.read[name], err = parseSimSegment(data); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		for i := range w.read[name].records {
			if err := t.add(&w.read[name].records[i], &prev); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return t, nil
}

// chainedPart is what of a line the chain has: the personal members and their salt come after their hash, and can be
// erased.
func chainedPart(line []byte) []byte {
	const personal = `,"personal":"`
	at := bytes.LastIndex(line, []byte(personal))
	if at < 0 {
		return line
	}
	return append(bytes.Clone(line[:at+len(personal)+2*sha256.Size+1]), '}')
}

func parseSimSegment(data []byte) (*simSegment, error) {
	s := &simSegment{data: data}
	for line := range bytes.Lines(data) {
		var rec simRecord
		body, whole := bytes.CutSuffix(line, []byte{'\n'})
		if err := json.Unmarshal(body, &rec); err != nil || !whole {
			return nil, fmt.Errorf("%q is no whole record: %w", line, err)
		}
		rec.hash = sha256.Sum256(chainedPart(body))
		s.records = append(s.records, rec)
	}
	return s, nil
}

func (t *simTrail) add(rec *simRecord, prev *[32]byte) error {
	if t.records++; rec.Seq != t.records || rec.Prev != hex.EncodeToString(prev[:]) {
		return fmt.Errorf("record %d says that it is %d after %s, want after %x", t.records, rec.Seq, rec.Prev, prev)
	}
	*prev = rec.hash
	if t.events[rec.Session] == nil {
		t.events[rec.Session] = map[audit.Event]bool{}
	}
	t.events[rec.Session][rec.Event] = true
	if rec.Event == audit.SignGranted || rec.Event == audit.SignReverted {
		digest, err := hex.DecodeString(strings.TrimPrefix(rec.Digest, "0x"))
		if err != nil {
			return err
		}
		if t.granted[policy.Hash(digest)] = true; rec.Event == audit.SignReverted {
			delete(t.granted, policy.Hash(digest))
		}
	}
	return nil
}

// check holds what an agent has found when it started to what was answered before.
func (w *simWorld) check() {
	a, m := w.agent, w.model
	trail, err := w.trail()
	if err != nil {
		m.fail("the trail: %w", err)
		return
	}
	if head := a.AuditHead(); head.Seq != trail.records {
		m.fail("the trail has %d records, the ledger knows of %d", trail.records, head.Seq)
	}
	m.mu.Lock()
	locked := m.locked
	m.mu.Unlock()
	if locked == "yes" && !a.Locked() || locked == "no" && a.Locked() {
		m.fail("locked: %v after the start; before it: %s", a.Locked(), locked)
	}
	granted := map[ID][]*simTx{}
	for digest := range trail.granted {
		x := m.txs[digest]
		if x == nil {
			m.fail("the trail has a grant for %s, which nobody has asked for", digest)
			return
		}
		granted[x.sess.ID] = append(granted[x.sess.ID], x)
	}
	for _, s := range m.sessions {
		w.checkSession(s, trail)
		w.checkCosts(s, granted[s.ID])
	}
}

func (w *simWorld) checkSession(s *simSession, trail *simTrail) {
	m := w.model
	got, err := w.agent.Get(s.ID)
	if err != nil || got.Hash != s.Hash {
		m.fail("session %s was created, and is not there: %w", s.ID, err)
		return
	}
	if s.reached.Ended() && got.Status != s.reached || s.reached == Active && got.Status == Pending {
		m.fail("session %s is %s, it was %s", s.ID, got.Status, s.reached)
	}
	if got.Status != s.reached && !s.tried[got.Status] && got.Status != Expired {
		m.fail("session %s is %s, which nobody has asked for", s.ID, got.Status)
	}
	for event, status := range map[audit.Event]Status{audit.SessionRevoked: Revoked, audit.SessionClosed: Closed,
		audit.SessionExpired: Expired} {
		if trail.events[string(s.ID)][event] != (got.Status == status) {
			m.fail("session %s is %s, but the trail has %s: %v", s.ID, got.Status, event, trail.events[string(s.ID)][event])
		}
	}
	for _, txs := range s.released {
		for _, x := range txs {
			if !trail.granted[x.digest] {
				m.fail("session %s: a signature for nonce %d was released, and has no record", s.ID, x.tx.Nonce)
			}
		}
	}
}

var errSimOther = errors.New("it has other costs")

// checkCosts compares what the ledger has counted of a session with what the trail says was granted.
func (w *simWorld) checkCosts(s *simSession, granted []*simTx) {
	l, m := w.agent.Sessions.ledger, w.model
	if got, err := w.agent.Get(s.ID); err != nil || !got.KeyDestroyedAt.IsZero() { // its costs are forgotten
		return
	}
	byNonce := map[uint64][]*simTx{}
	for _, x := range granted {
		byNonce[x.tx.Nonce] = append(byNonce[x.tx.Nonce], x)
		_, _, known, err := l.store.nonce(s.ID, x.tx.Nonce, x.digest)
		if err != nil || !known {
			m.fail("session %s: the trail has a grant of nonce %d, and the ledger has no charge: %w", s.ID, x.tx.Nonce, err)
		}
	}
	last, _ := l.settledOf(s.ID)
	total := uint64(0)
	if last != nil {
		fee := uint256.Int(last.Used[feeTracker])
		total = fee.Uint64()
	}
	nonces := 0
	err := l.store.liabilities(s.ID, 0, math.MaxUint64, func(nonce uint64, c costs) error {
		nonces++
		fee, want := c.of(feeTracker), costliest(byNonce[nonce]).fee
		if fee.Uint64() != want {
			return fmt.Errorf("nonce %d: %w: a fee of %d, want %d", nonce, errSimOther, fee.Uint64(), want)
		}
		if nonce >= last.nonce() {
			total += want
		}
		return nil
	})
	if err != nil || nonces != len(byNonce) {
		m.fail("session %s: the ledger has costs for %d nonces, the trail grants for %d: %w", s.ID, nonces, len(byNonce), err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	used, err := l.totalLocked(l.books[s.ID], feeTracker)
	if err != nil || used.Lt(uint256.NewInt(total)) || used.Uint64() != total && !s.late {
		m.fail("session %s: the ledger has counted fees of %s (%w), the chain and the trail say %d", s.ID, used.Dec(), err,
			total)
	}
}
