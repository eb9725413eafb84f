package session

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// The first byte of a key says what it is of. An ID follows with its length before it; integers in keys are
// big-endian, so that keys sort by them.
const (
	metaKey      = 'm' // ‖ "version" or "head"
	journalKey   = 'j' // ‖ number of a batch's first record → its audit lines, until the trail is synced
	sessionKey   = 'i' // ‖ ID → Session
	specKey      = 'p' // ‖ ID → its spec, ABI-encoded; never changes
	intentKey    = 'k' // ‖ ID → intent: a key that may exist without its session
	usageKey     = 'u' // ‖ ID ‖ tracker → what was counted
	liabilityKey = 'l' // ‖ ID ‖ nonce → costs
	signedKey    = 's' // ‖ ID ‖ nonce ‖ digest → costs of that digest
	chainKey     = 'c' // ‖ ID → settled
	tallyKind    = 't' // ‖ a counter's key, with its length before it → tally
)

var (
	versionKey = []byte{metaKey, 'v'}
	headKey    = []byte{metaKey, 'h'}
)

// embedded is the store in a directory of this machine. A commit is one synced write of Pebble's log.
type embedded struct {
	db     *pebble.DB
	lock   *pebble.Lock
	failed bool // a commit has failed: what is on disk is not known until the next start

	unsigned unsigned
}

var _ store = (*embedded)(nil)

const lockTimeout = 2 * time.Second // for an agent that is just stopping

// lockStore locks dir. ErrInUse if another process has it.
func lockStore(fsys vfs.FS, dir string) (*pebble.Lock, error) {
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		lock, err := pebble.LockDirectory(dir, fsys)
		switch {
		case err == nil:
			return lock, nil
		case errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist):
			return nil, err
		case time.Since(start) > lockTimeout:
			return nil, fmt.Errorf("%w: %s is locked", ErrInUse, dir)
		}
	}
}

// openPebble opens the store in dir, which lock has locked, and makes it if there is none.
func openPebble(fsys vfs.FS, dir string, lock *pebble.Lock, readOnly bool) (*embedded, error) {
	opts := &pebble.Options{
		FS: fsys, Lock: lock, Logger: storeLog{}, ReadOnly: readOnly, FormatMajorVersion: pebble.FormatNewest,
	}
	for i := range opts.Levels {
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10) // nearly every nonce and digest that is looked for is new
	}
	db, err := pebble.Open(dir, opts)
	if err != nil {
		return nil, err
	}
	return &embedded{db: db, lock: lock}, nil
}

// gaveUpOpening makes an error of Pebble's panic over what it could not write. It is for a defer.
func gaveUpOpening(err *error) {
	switch r := recover().(type) {
	case nil:
	case runtime.Error:
		panic(r)
	default:
		*err = fmt.Errorf("opening the ledger: %v", r)
	}
}

// broken is what Pebble can't go on after.
type broken string

func (b broken) Error() string { return string(b) }

// storeLog is Pebble's logger. It panics where Pebble can't go on: in a commit that is the commit's error, elsewhere
// it ends the process, and nothing is signed on a ledger whose state is not known.
type storeLog struct{}

func (storeLog) Infof(string, ...any) {}
func (storeLog) Errorf(format string, args ...any) {
	slog.Error("ledger: " + fmt.Sprintf(format, args...))
}
func (storeLog) Fatalf(format string, args ...any) { giveUp(broken(fmt.Sprintf(format, args...))) }

// giveUp panics. The simulation has it end one goroutine, for one of Pebble's own.
var giveUp = func(why broken) { panic(why) }

// get calls read with the value of key; found is false if there is none.
func (s *embedded) get(key []byte, read func(d *decoder)) (found bool, err error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading the ledger: %w", err)
	}
	defer closer.Close()
	d := &decoder{b: v}
	read(d)
	return true, d.end("the ledger's entry %q", key)
}

// scan calls do with the entries from <= key < to, in order, until it returns an error.
func (s *embedded) scan(from, to []byte, do func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: from, UpperBound: to})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if err := do(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return it.Error()
}

// scanIDs is scan of one kind of key that consists of an ID.
func (s *embedded) scanIDs(kind byte, do func(id ID, d *decoder)) error {
	return s.scan([]byte{kind}, []byte{kind + 1}, func(key, value []byte) error {
		k, d := decoder{b: key[1:]}, decoder{b: value}
		do(ID(k.text()), &d)
		return d.end("the ledger's entry %q", key)
	})
}

func keyOf(kind byte, id ID) []byte { return appendText([]byte{kind}, string(id)) }

func nonceKey(kind byte, id ID, nonce uint64) []byte {
	return binary.BigEndian.AppendUint64(keyOf(kind, id), nonce)
}

func (s *embedded) version() (version string, err error) {
	_, err = s.get(versionKey, func(d *decoder) { version = d.text() })
	return version, err
}

func (s *embedded) load() (*kept, error) {
	k := &kept{chain: map[ID]*settled{}, intents: map[ID]intent{}}
	shared := map[string]string{}
	for _, err := range []error{
		s.scanIDs(sessionKey, func(_ ID, d *decoder) { k.sessions = append(k.sessions, d.session(shared, true)) }),
		s.scanIDs(chainKey, func(id ID, d *decoder) { k.chain[id] = d.settled() }),
		s.scanIDs(intentKey, func(id ID, d *decoder) { k.intents[id] = intent{d.text()} }),
		s.scan([]byte{journalKey}, []byte{journalKey + 1}, func(_, lines []byte) error {
			k.journal = append(k.journal, lines...)
			return nil
		}),
	} {
		if err != nil {
			return nil, err
		}
	}
	_, err := s.get(headKey, func(d *decoder) { k.head = d.head() })
	return k, err
}

func (s *embedded) session(id ID) (sess *Session, err error) {
	_, err = s.get(keyOf(sessionKey, id), func(d *decoder) { sess = d.session(map[string]string{}, false) })
	if err != nil || sess == nil {
		return nil, cmp.Or(err, errEncoding)
	}
	_, err = s.get(keyOf(specKey, id), func(d *decoder) {
		sess.Spec, err = policy.DecodeABI(d.take(uint64(len(d.b))))
		d.failed = err != nil || sess.Spec.Signer != sess.signer
	})
	if err == nil && sess.Spec == nil {
		err = errors.New("it has no spec")
	}
	return sess, err
}

func (s *embedded) usage(id ID, t policy.Tracker) (used uint256.Int, found bool, err error) {
	found, err = s.get(appendTracker(keyOf(usageKey, id), t), func(d *decoder) { used = d.amount() })
	return used, found, err
}

func (s *embedded) nonce(id ID, nonce uint64, digest policy.Hash) (c costs, signed, known bool, err error) {
	never, err := s.unsigned.has(id, nonce, func() (uint64, bool, error) { return s.highest(id) })
	if err != nil || never {
		return nil, false, false, err
	}
	signed, err = s.get(nonceKey(liabilityKey, id, nonce), func(d *decoder) { c = d.costs() })
	if err != nil || !signed {
		return nil, false, false, err
	}
	known, err = s.get(append(nonceKey(signedKey, id, nonce), digest[:]...), func(d *decoder) { d.costs() })
	return c, signed, known, err
}

func (s *embedded) tally(key string) (t tally, err error) {
	_, err = s.get(keyOf(tallyKind, ID(key)), func(d *decoder) { t = d.tally() })
	return t, err
}

// highest returns the highest nonce of a session that has a liability, and whether there is one.
func (s *embedded) highest(id ID) (nonce uint64, any bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: keyOf(liabilityKey, id),
		UpperBound: append(nonceKey(liabilityKey, id, math.MaxUint64), 0)})
	if err != nil {
		return 0, false, err
	}
	if it.Last() {
		nonce, any = binary.BigEndian.Uint64(it.Key()[len(it.Key())-8:]), true
	}
	return nonce, any, errors.Join(it.Error(), it.Close())
}

func (s *embedded) digests(id ID, nonce uint64, do func(digest policy.Hash, c costs) error) error {
	from := nonceKey(signedKey, id, nonce)
	to := slices.Concat(from, bytes.Repeat([]byte{0xff}, len(policy.Hash{})+1))
	return s.scan(from, to, func(key, value []byte) error {
		d := decoder{b: value}
		c := d.costs()
		if err := d.end("the ledger's entry %q", key); err != nil {
			return err
		}
		return do(policy.Hash(key[len(from):]), c)
	})
}

func (s *embedded) liabilities(id ID, from, to uint64, do func(nonce uint64, c costs) error) error {
	return s.scan(nonceKey(liabilityKey, id, from), nonceKey(liabilityKey, id, to), func(key, value []byte) error {
		d := decoder{b: value}
		c := d.costs()
		if err := d.end("the ledger's entry %q", key); err != nil {
			return err
		}
		return do(binary.BigEndian.Uint64(key[len(key)-8:]), c)
	})
}

func (s *embedded) commit(b *batch) (err error) {
	defer func() {
		if r := recover(); r != nil {
			failed, ok := r.(broken)
			if !ok {
				panic(r)
			}
			err = failed
		}
		if err != nil {
			s.failed, err = true, fmt.Errorf("writing ledger: %w", err)
		}
	}()
	w := writing{Batch: s.db.NewBatch()}
	for _, c := range b.changes {
		w.change(c)
		for nonce := range c.costs {
			s.unsigned.sign(c.id, nonce)
		}
	}
	w.records(b)
	if w.err != nil {
		return w.err
	}
	if err := w.Commit(pebble.Sync); err != nil {
		return err
	}
	return w.Close()
}

// writing is a batch that keeps its first error.
type writing struct {
	*pebble.Batch
	err error

	keyRoom   [64]byte // to build a key and a value in: the batch copies them
	valueRoom [256]byte
}

func (w *writing) put(key, value []byte) {
	if w.err == nil {
		w.err = w.Set(key, value, nil)
	}
}

func (w *writing) remove(key []byte) {
	if w.err == nil {
		w.err = w.Delete(key, nil)
	}
}

func (w *writing) drop(from, to []byte) {
	if w.err == nil && bytes.Compare(from, to) < 0 {
		w.err = w.DeleteRange(from, to, nil)
	}
}

// of begins a key. It is valid until the next one begins.
func (w *writing) of(kind byte, id ID) []byte {
	return appendText(append(w.keyRoom[:0], kind), string(id))
}

func (w *writing) ofNonce(kind byte, id ID, nonce uint64) []byte {
	return binary.BigEndian.AppendUint64(w.of(kind, id), nonce)
}

func (w *writing) change(c *change) {
	if c.forget.nonce > 0 {
		for _, kind := range []byte{liabilityKey, signedKey} {
			w.drop(nonceKey(kind, c.id, 0), nonceKey(kind, c.id, c.forget.nonce))
		}
	}
	for _, t := range c.forget.periods {
		w.drop(appendTracker(keyOf(usageKey, c.id), limitOf(t)), appendTracker(keyOf(usageKey, c.id), t))
	}
	if c.session != nil {
		w.put(w.of(sessionKey, c.id), c.session.append(w.valueRoom[:0]))
	}
	if c.spec != nil {
		w.put(w.of(specKey, c.id), c.spec.EncodeABI())
	}
	if c.intent != nil {
		w.put(w.of(intentKey, c.id), appendText(w.valueRoom[:0], c.intent.Backend))
	}
	if c.settled {
		w.drop(keyOf(intentKey, c.id), append(keyOf(intentKey, c.id), 0))
	}
	for i := range c.used {
		w.put(appendTracker(w.of(usageKey, c.id), c.used[i].tracker), appendAmount(w.valueRoom[:0], &c.used[i].amount))
	}
	for nonce, all := range c.costs {
		w.put(w.ofNonce(liabilityKey, c.id, nonce), appendCosts(w.valueRoom[:0], all))
	}
	if g := c.grant; g != nil {
		w.put(append(w.ofNonce(signedKey, c.id, g.nonce), g.digest[:]...), appendCosts(w.valueRoom[:0], g.costs))
	}
	if r := c.revert; r != nil {
		w.remove(append(w.ofNonce(signedKey, c.id, r.nonce), r.digest[:]...))
		if r.last {
			w.remove(w.ofNonce(liabilityKey, c.id, r.nonce))
		}
	}
	for _, t := range c.tallies {
		w.put(w.of(tallyKind, ID(t.key)), t.append(w.valueRoom[:0]))
	}
	if c.chain != nil {
		w.put(w.of(chainKey, c.id), c.chain.append(w.valueRoom[:0]))
	}
}

func (w *writing) records(b *batch) {
	if b.synced {
		w.drop([]byte{journalKey}, binary.BigEndian.AppendUint64([]byte{journalKey}, b.first))
	}
	if len(b.lines) > 0 {
		w.put(binary.BigEndian.AppendUint64(append(w.keyRoom[:0], journalKey), b.first), b.lines)
	}
	if b.head != (audit.Head{}) {
		w.put(headKey, appendHead(w.valueRoom[:0], b.head))
	}
}

// close leaves the files alone after a commit that has failed: a sync that failed once may succeed without
// writing what the first one lost.
func (s *embedded) close() error {
	if s.failed {
		return nil
	}
	return errors.Join(s.db.Close(), s.lock.Close())
}
