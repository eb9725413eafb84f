package session

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// Since says what becomes of the time between an old ledger and now.
type Since string

const (
	// SinceTrail takes the trail for complete: what its later records say that was signed is counted, and sessions that
	// they end have ended.
	SinceTrail Since = "trail"
	// SinceSpent counts the limits of all sessions that could sign as used up.
	SinceSpent Since = "spent"
	// SinceNothing is the operator's word that nothing was signed and no session has ended. It is refused if the trail
	// shows otherwise.
	SinceNothing Since = "nothing"
)

// Forward is what [RollForward] did. It is the detail of the record that says so.
type Forward struct {
	Since   Since    `json:"since"`
	From    uint64   `json:"from"`              // last record that the ledger knew
	To      uint64   `json:"to"`                // last record of the trail
	Grants  int      `json:"grants"`            // in between
	Ended   []ID     `json:"ended,omitempty"`   // sessions that the trail says have ended since
	Spent   []ID     `json:"spent,omitempty"`   // whose limits count as used up
	Unknown []ID     `json:"unknown,omitempty"` // sessions of the trail that the ledger does not have
	Changed []ID     `json:"changed,omitempty"` // whose clients were changed since: set them again
	Backup  string   `json:"backup,omitempty"`  // the time of the backup that was restored, RFC 3339
	Aside   string   `json:"aside,omitempty"`   // directory with what was there before
	Damage  string   `json:"damage,omitempty"`  // that was repaired
	Lost    []string `json:"lost,omitempty"`    // what could not be saved, in words
}

// ErrSince: the operator's word is missing, or the trail contradicts it.
var ErrSince = errors.New("it is not known what was signed since")

// RollForward brings the ledger in ledgerDir, of an agent that does not run, up to the trail at auditPath, which may
// have later records. The ledger then counts at least what was signed since, as since says. "" is enough if the trail
// has no record of a grant or of a session's change after the ledger's last one.
//
// It is one commit: after an error nothing has changed. The error wraps [ErrSince] if since does not do,
// audit.ErrDamaged if the trail does not continue the ledger.
func RollForward(ledgerDir, auditPath string, since Since, now time.Time) (*Forward, error) {
	lock, err := lockStore(vfs.Default, ledgerDir)
	if err != nil {
		return nil, err
	}
	st, err := openPebble(vfs.Default, ledgerDir, lock, false)
	if err != nil {
		return nil, errors.Join(damaged(ledgerDir, err), lock.Close())
	}
	f, err := st.rollForward(auditPath, since, now)
	return f, errors.Join(err, st.close())
}

func (s *embedded) rollForward(auditPath string, since Since, now time.Time) (*Forward, error) {
	if version, err := s.version(); err != nil || version != storeVersion {
		return nil, errors.Join(fmt.Errorf("%w: version %q, this one reads %q", ErrOtherVersion, version, storeVersion), err)
	}
	k, err := s.load()
	if err != nil {
		return nil, err
	}
	r := &forwarding{Forward: Forward{Since: since, From: k.head.Seq}, store: s, now: now, sessions: map[ID]*forwarded{}}
	for _, sess := range k.sessions {
		r.sessions[sess.ID] = &forwarded{brief: sess}
	}
	head, err := audit.ReadAfter(auditPath, k.head, r.read)
	if err != nil {
		return nil, err
	}
	r.To = head.Seq
	if err := r.judge(); err != nil {
		return nil, err
	}
	b := &batch{first: head.Seq + 1, head: head, synced: true}
	for _, id := range slices.Sorted(maps.Keys(r.sessions)) {
		changes, err := r.changes(id, r.sessions[id])
		if err != nil {
			return nil, err
		}
		b.changes = append(b.changes, changes...)
	}
	return &r.Forward, s.commit(b)
}

// forwarding reads the records that a ledger does not know.
type forwarding struct {
	Forward
	store    *embedded
	now      time.Time
	sessions map[ID]*forwarded
}

// forwarded is a session of the ledger, and what the later records say of it.
type forwarded struct {
	brief  *Session
	grants []grantRecord
	status Status // its last; "": as in the ledger
	at     time.Time
}

// grantRecord is what a record of a grant says that is counted.
type grantRecord struct {
	nonce   uint64
	digest  policy.Hash
	charges costs
}

// laterRecord is what is read of a record.
type laterRecord struct {
	Seq         uint64          `json:"seq"`
	Time        time.Time       `json:"time"`
	Event       audit.Event     `json:"event"`
	Session     ID              `json:"session"`
	Digest      string          `json:"digest"`
	Transaction json.RawMessage `json:"transaction"`
	Verdict     json.RawMessage `json:"verdict"`
}

var endings = map[audit.Event]Status{audit.SessionExpired: Expired, audit.SessionRevoked: Revoked,
	audit.SessionClosed: Closed}

// read takes note of one record.
func (r *forwarding) read(line []byte) error {
	var rec laterRecord
	if err := json.Unmarshal(line, &rec); err != nil {
		return fmt.Errorf("a record that this version does not know: %w", err)
	}
	f := r.sessions[rec.Session]
	ended, ends := endings[rec.Event]
	switch {
	case rec.Session == "":
	case f == nil:
		r.Unknown = addID(r.Unknown, rec.Session)
	case rec.Event == audit.SignGranted:
		return r.grant(f, &rec)
	case ends && f.status == "" || ends && f.status == Active:
		f.status, f.at = ended, rec.Time
	case rec.Event == audit.SessionActive && f.status == "":
		f.status, f.at = Active, rec.Time
	case rec.Event == audit.SessionClients, rec.Event == audit.SessionSucceeded:
		r.Changed = addID(r.Changed, rec.Session)
	}
	return nil
}

func addID(ids []ID, id ID) []ID {
	if slices.Contains(ids, id) {
		return ids
	}
	return append(ids, id)
}

func (r *forwarding) grant(f *forwarded, rec *laterRecord) error {
	r.Grants++
	if len(rec.Transaction) == 0 && r.Since != SinceTrail { // erased, and not needed
		return nil
	}
	if len(rec.Transaction) == 0 {
		return fmt.Errorf("%w: the transaction of record %d was erased, so what it counts for is not known; use %q", ErrSince,
			rec.Seq, SinceSpent)
	}
	var tx struct {
		Nonce json.RawMessage `json:"nonce"`
	}
	var verdict struct {
		Charges []policy.Charge `json:"charges"`
	}
	g := grantRecord{}
	for _, err := range []error{
		json.Unmarshal(rec.Transaction, &tx),
		json.Unmarshal([]byte(strings.Trim(string(tx.Nonce), `"`)), &g.nonce),
		json.Unmarshal(rec.Verdict, &verdict),
		g.digest.UnmarshalText([]byte(rec.Digest)),
	} {
		if err != nil {
			return fmt.Errorf("record %d is a grant that this version can't read: %w", rec.Seq, err)
		}
	}
	for _, c := range verdict.Charges {
		g.charges = g.charges.with(c.Tracker, addCapped(g.charges.of(c.Tracker), uint256.Int(c.Amount)))
	}
	f.grants = append(f.grants, g)
	return nil
}

// judge decides whether the operator's word is enough.
func (r *forwarding) judge() error {
	known := r.Grants == 0 && len(r.Unknown) == 0 && len(r.Changed) == 0
	for _, f := range r.sessions {
		known = known && !f.status.Ended()
	}
	switch r.Since {
	case SinceTrail, SinceSpent:
		return nil
	case SinceNothing:
		if !known {
			return fmt.Errorf("%w: the trail has %d grants and other changes of sessions in records %d to %d, so it was not "+
				"nothing", ErrSince, r.Grants, r.From+1, r.To)
		}
		return nil
	case "":
		if known {
			r.Since = SinceTrail
			return nil
		}
		return fmt.Errorf("%w: the ledger knows records up to %d, and the trail has %d grants and other changes of "+
			"sessions up to record %d",
			ErrSince, r.From, r.Grants, r.To)
	}
	return fmt.Errorf("%w: %q is none of trail, spent and nothing", ErrSince, r.Since)
}

// changes are what becomes of one session.
func (r *forwarding) changes(id ID, f *forwarded) (all []*change, err error) {
	totals := costs{}
	total := func(t policy.Tracker) (uint256.Int, error) {
		if totals.position(t) >= 0 {
			return totals.of(t), nil
		}
		used, _, err := r.store.usage(id, t)
		return used, err
	}
	opened := nonces{}
	for _, g := range f.grants {
		c := &change{id: id, grant: &granted{g.nonce, g.digest, g.charges}, costs: nonces{}}
		before, ok := opened[g.nonce]
		if !ok {
			before, _, _, err = r.store.nonce(id, g.nonce, g.digest)
			if err != nil {
				return nil, err
			}
		}
		for _, add := range g.charges { // what a replacement is charged is what it costs beyond the one before
			used, err := total(add.tracker)
			if err != nil {
				return nil, err
			}
			totals = totals.with(add.tracker, addCapped(used, add.amount))
			before = before.with(add.tracker, addCapped(before.of(add.tracker), add.amount))
		}
		opened[g.nonce] = before
		c.costs[g.nonce], c.used = before, totals
		all = append(all, c)
	}
	last := &change{id: id}
	if f.status != "" && f.brief.Status.mayBecome(f.status) {
		if last.session, err = r.store.session(id); err != nil {
			return nil, err
		}
		last.session.Status = f.status
		if f.status == Active {
			last.session.ActivatedAt = f.at
		} else {
			last.session.EndedAt = f.at
			r.Ended = append(r.Ended, id)
		}
	}
	if r.Since == SinceSpent && !f.brief.Status.Ended() && !f.status.Ended() {
		if err := r.spend(last, total); err != nil {
			return nil, err
		}
		r.Spent = append(r.Spent, id)
	}
	return append(all, last), nil
}

// unknownNonce is a nonce that no account reaches (EIP-2681): what it costs stays open for good.
const unknownNonce = math.MaxUint64 - 1

// spend counts each limit of a session as used up, by a signature for a nonce that never lands: so no reading of the
// chain gives it back.
func (r *forwarding) spend(c *change, total func(policy.Tracker) (uint256.Int, error)) error {
	sess, err := r.store.session(c.id)
	if err != nil {
		return err
	}
	spent, _, _, err := r.store.nonce(c.id, unknownNonce, policy.Hash{})
	if err != nil {
		return err
	}
	for _, u := range limits(sess.Spec, r.now) {
		used, err := total(u.Tracker)
		if err != nil {
			return err
		}
		c.used = append(c.used, cost{u.Tracker, addCapped(used, uint256.Int(u.Limit))})
		spent = spent.with(u.Tracker, addCapped(spent.of(u.Tracker), uint256.Int(u.Limit)))
	}
	c.costs = nonces{unknownNonce: spent}
	c.grant = &granted{nonce: unknownNonce, costs: spent}
	return nil
}

// BeginSegment has the ledger in dir, of an agent that does not run, go on in an empty segment after its last record,
// whose head is returned. The caller then moves the trail's files away.
func BeginSegment(dir string) (head audit.Head, err error) {
	lock, err := lockStore(vfs.Default, dir)
	if err != nil {
		return head, err
	}
	st, err := openPebble(vfs.Default, dir, lock, false)
	if err != nil {
		return head, errors.Join(damaged(dir, err), lock.Close())
	}
	k, err := st.load()
	if err == nil {
		head = k.head
		head.Size, head.Sealed = 0, head.Seq
		err = st.commit(&batch{first: head.Seq + 1, head: head, synced: true})
	}
	return head, errors.Join(err, st.close())
}
