package session

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/holiman/uint256"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/chain"
	"github.com/keyward/keyward/internal/durable"
	"github.com/keyward/keyward/policy"
)

// Versions of the ledger. Version 1 was a bbolt file that counted every liability for ever, version 2 the same file
// with what the chain says. Version 3 is the directory. Its file of version 2 stays beside it with the ending .old; at
// the file's old place is a file of the same kind that holds only a version, so that an older keyward refuses it and
// says why.
const (
	storeVersion = "3"
	storeCopied  = "copied" // all of the old file is in the directory, and the old file perhaps still at its place

	markVersion = "3: it is a directory since, see the operator's guide"
)

// oldLedger is the file of version 1 or 2, or the mark at its place.
type oldLedger struct {
	path string   // "" on a file system that never had one
	db   *bolt.DB // nil: there is no such file, or only the mark
	is   string   // "", "live" or "marked"
}

// openOld opens and locks what is at the old file's place.
func openOld(fsys vfs.FS, dir string) (*oldLedger, error) {
	if fsys != vfs.Default && fsys != vfs.FS(durable.OS) {
		return &oldLedger{}, nil
	}
	o := &oldLedger{path: dir + ".db"}
	if fi, err := os.Stat(o.path); errors.Is(err, fs.ErrNotExist) || err == nil && fi.Size() == 0 {
		return o, nil
	}
	version, err := checkOld(o.path)
	if err != nil {
		return nil, err
	}
	switch version {
	case markVersion:
		o.is = "marked"
		return o, nil
	case "", "1", "2":
	default:
		return nil, fmt.Errorf("%w: version %q, this one reads %q", ErrOtherVersion, version, storeVersion)
	}
	o.is = "live"
	o.db, err = bolt.Open(o.path, 0o600, &bolt.Options{Timeout: lockTimeout})
	if err != nil {
		return nil, oldError(o.path, err)
	}
	return o, nil
}

func (o *oldLedger) live() bool { return o.is == "live" }

func (o *oldLedger) close() {
	if o.db != nil {
		o.db.Close()
	}
}

func oldError(path string, err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("%w: %s is locked", ErrInUse, path)
	}
	return damaged(path, err)
}

// checkOld refuses a file that was cut short or whose pages are not consistent, and returns its version. bbolt
// itself would only crash on it, at the first access beyond its end.
func checkOld(path string) (version string, err error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true, PreLoadFreelist: false})
	if err != nil {
		return "", oldError(path, err)
	}
	defer db.Close()
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // a page beyond the end
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Errorf("reading it: %v", r))
		}
	}()
	err = db.View(func(tx *bolt.Tx) error {
		fi, err := os.Stat(path)
		if err != nil {
			return err
		}
		if fi.Size() < tx.Size() {
			return fmt.Errorf("it has %d bytes, %d are missing", fi.Size(), tx.Size()-fi.Size())
		}
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			version = string(meta.Get([]byte("version")))
		}
		return tx.ForEach(func(_ []byte, b *bolt.Bucket) error { // every page that is in use
			return b.ForEach(func(_, _ []byte) error { return nil })
		})
	})
	if err != nil {
		return "", damaged(path, err)
	}
	return version, nil
}

// takeOver copies the old file into s, puts it aside and leaves the mark at its place. A crash between two steps leaves
// either the old file at its place, from which everything is copied again, or all of it in s.
func (s *embedded) takeOver(old *oldLedger) error {
	if err := s.copyOld(old.db); err != nil {
		return fmt.Errorf("taking over %s: %w", old.path, err)
	}
	if err := old.putAside(); err != nil {
		return err
	}
	if err := old.mark(); err != nil {
		return err
	}
	return s.setVersion(storeVersion)
}

// putAside gives the old file its second name.
func (o *oldLedger) putAside() error {
	aside := o.path + ".old"
	if err := os.Remove(aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(o.path, aside); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(aside))
}

// mark puts the mark at the old file's place, unless it is there.
func (o *oldLedger) mark() error {
	if o.path == "" || o.is == "marked" {
		return nil
	}
	made := o.path + ".new"
	if err := os.Remove(made); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	db, err := bolt.Open(made, 0o600, nil)
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists([]byte("meta"))
		if err != nil {
			return err
		}
		return meta.Put([]byte("version"), []byte(markVersion))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Rename(made, o.path); err != nil {
		return err
	}
	o.is = "marked"
	return durable.SyncDir(filepath.Dir(o.path))
}

func (s *embedded) setVersion(version string) error {
	return s.db.Set(versionKey, appendText(nil, version), pebble.Sync)
}

var copyBytes = 1 << 20 // of one batch; tests make it small

// copyOld writes everything that the old file holds. It begins with an empty store and ends with its version.
func (s *embedded) copyOld(db *bolt.DB) error {
	if err := s.db.DeleteRange([]byte{0}, []byte{0xff}, pebble.NoSync); err != nil {
		return err
	}
	w := &writing{Batch: s.db.NewBatch()}
	err := db.View(func(tx *bolt.Tx) error {
		for _, old := range []struct {
			bucket string
			copy   func(tx *bolt.Tx, w *writing, k, v []byte) error
		}{
			{"sessions", copySession}, {"creating", copyIntent}, {"usage", copyUsage}, {"liabilities", copyLiability},
			{"signed", copySigned}, {"chain", copySettled}, {"journal", copyJournal}, {"meta", copyHead},
		} {
			bucket := tx.Bucket([]byte(old.bucket))
			if bucket == nil {
				continue
			}
			err := bucket.ForEach(func(k, v []byte) error {
				if err := old.copy(tx, w, k, v); err != nil {
					return fmt.Errorf("entry %q of %s: %w", k, old.bucket, err)
				}
				if w.Len() > copyBytes && w.err == nil {
					w.err = w.Commit(pebble.NoSync)
					w.Batch = s.db.NewBatch()
				}
				return w.err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.put(versionKey, appendText(nil, storeCopied))
	if w.err != nil {
		return w.err
	}
	return w.Commit(pebble.Sync) // and with it all that was written before
}

const oldIDBytes = 16

// splitID cuts the ID off a key of the old file.
func splitID(k []byte, rest int) (ID, []byte, error) {
	if len(k) < oldIDBytes || rest >= 0 && len(k) != oldIDBytes+rest {
		return "", nil, errEncoding
	}
	return ID(k[:oldIDBytes]), k[oldIDBytes:], nil
}

func copySession(_ *bolt.Tx, w *writing, _, v []byte) error {
	s := new(Session)
	if err := json.Unmarshal(v, s); err != nil {
		return err
	}
	if s.Spec == nil {
		return errEncoding
	}
	w.change(&change{id: s.ID, session: s, spec: s.Spec})
	return nil
}

func copyIntent(_ *bolt.Tx, w *writing, k, v []byte) error {
	var in struct {
		Backend string `json:"backend"`
	}
	if err := json.Unmarshal(v, &in); err != nil {
		return err
	}
	w.change(&change{id: ID(k), intent: &intent{in.Backend}})
	return nil
}

func copyUsage(_ *bolt.Tx, w *writing, k, v []byte) error {
	id, text, err := splitID(k, -1)
	var t policy.Tracker
	if err == nil {
		err = t.UnmarshalText(text)
	}
	if err != nil || len(v) != 32 {
		return errors.Join(errEncoding, err)
	}
	w.change(&change{id: id, used: costs{{t, *new(uint256.Int).SetBytes32(v)}}})
	return nil
}

func oldCosts(v []byte) (c costs, err error) {
	var l struct {
		Charges map[policy.Tracker]policy.Decimal `json:"charges"`
	}
	err = json.Unmarshal(v, &l)
	for t, amount := range l.Charges {
		c = append(c, cost{t, uint256.Int(amount)})
	}
	return c, err
}

func copyLiability(_ *bolt.Tx, w *writing, k, v []byte) error {
	id, nonce, err := splitID(k, 8)
	if err != nil {
		return err
	}
	c, err := oldCosts(v)
	if err != nil {
		return err
	}
	w.change(&change{id: id, costs: nonces{binary.BigEndian.Uint64(nonce): c}})
	return nil
}

// copySigned gives each digest what all for its nonce cost: the old file does not say which of them cost how much.
func copySigned(tx *bolt.Tx, w *writing, k, _ []byte) error {
	id, rest, err := splitID(k, 8+32)
	if err != nil {
		return err
	}
	c, err := oldCosts(tx.Bucket([]byte("liabilities")).Get(k[:oldIDBytes+8]))
	if err != nil {
		return err
	}
	w.change(&change{id: id, grant: &granted{binary.BigEndian.Uint64(rest), policy.Hash(rest[8:]), c}})
	return nil
}

func copySettled(_ *bolt.Tx, w *writing, k, v []byte) error {
	var old struct {
		Block    chain.Block `json:"block"`
		Nonce    uint64      `json:"nonce"`
		Used     amounts     `json:"used"`
		External amounts     `json:"external"`
	}
	if err := json.Unmarshal(v, &old); err != nil {
		return err
	}
	next := &settled{Block: old.Block, Nonce: old.Nonce, Used: old.Used, External: old.External}
	next.Older = pastNonce{old.Block.Time, old.Nonce}
	w.change(&change{id: ID(k), chain: next})
	return nil
}

func copyJournal(_ *bolt.Tx, w *writing, k, v []byte) error {
	w.put(append([]byte{journalKey}, k...), v)
	return nil
}

func copyHead(_ *bolt.Tx, w *writing, k, v []byte) error {
	if string(k) != "head" {
		return nil
	}
	head, err := oldHead(v)
	w.put(headKey, appendHead(nil, head))
	return err
}

func oldHead(v []byte) (head audit.Head, err error) {
	var h struct {
		Seq  uint64 `json:"seq"`
		Hash string `json:"hash"`
		Size int64  `json:"size"`
	}
	if err := json.Unmarshal(v, &h); err != nil {
		return head, err
	}
	hash, err := hex.DecodeString(h.Hash)
	if err != nil || len(hash) != 32 {
		return head, errEncoding
	}
	return audit.Head{Seq: h.Seq, Hash: [32]byte(hash), Size: h.Size}, nil
}

// readOldTrail is ReadTrail of a ledger that was not taken over yet.
func readOldTrail(dir string) (head audit.Head, journal []byte, err error) {
	path := dir + ".db"
	if _, err := os.Stat(path); err != nil {
		return head, nil, err
	}
	version, err := checkOld(path)
	if err != nil {
		return head, nil, err
	}
	if version == markVersion {
		return head, nil, fmt.Errorf("%w: %s is missing; %s", ErrDamaged, dir, repairHint)
	}
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, ReadOnly: true})
	if err != nil {
		return head, nil, oldError(path, err)
	}
	defer db.Close()
	err = db.View(func(tx *bolt.Tx) error {
		if b := tx.Bucket([]byte("journal")); b != nil {
			_ = b.ForEach(func(_, v []byte) error { journal = append(journal, v...); return nil }) // never fails
		}
		b := tx.Bucket([]byte("meta"))
		if b == nil || b.Get([]byte("head")) == nil {
			return nil
		}
		head, err = oldHead(b.Get([]byte("head")))
		return err
	})
	return head, journal, err
}
