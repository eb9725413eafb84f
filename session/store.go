package session

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holiman/uint256"
	bolt "go.etcd.io/bbolt"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/policy"
)

// The ledger file's buckets. Integers in keys are big-endian, so that keys sort by them.
var (
	metaBucket        = []byte("meta")        // "version", "head"
	journalBucket     = []byte("journal")     // number of a batch's first record → its audit lines, until the trail is synced
	sessionsBucket    = []byte("sessions")    // ID → Session, JSON
	creatingBucket    = []byte("creating")    // ID → intent, JSON: a key that may exist without its session
	usageBucket       = []byte("usage")       // ID ‖ tracker's text → what was counted, 32 bytes
	liabilitiesBucket = []byte("liabilities") // ID ‖ nonce (8 bytes) → liability, JSON
	signedBucket      = []byte("signed")      // ID ‖ nonce ‖ digest → 1: that digest was granted
	chainBucket       = []byte("chain")       // ID → settled, JSON: what the chain was last seen to say
)

// The file's version. Version 1 had no chain bucket and counted every liability for ever; it
// is made a version 2 when it is opened. A reader of version 1 must not open a version 2:
// it would take off what Settle has taken off already.
const (
	storeVersion    = "2"
	storeVersionOld = "1"
)

var errOtherVersion = errors.New("the ledger was written by another version of keyward")

// initStore makes the buckets of a fresh file, or checks the version of an old one.
func initStore(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	switch v := string(meta.Get([]byte("version"))); v {
	case storeVersion:
		return nil
	case "", storeVersionOld:
	default:
		return fmt.Errorf("%w: version %q, this one reads %q", errOtherVersion, v, storeVersion)
	}
	for _, name := range [][]byte{journalBucket, sessionsBucket, creatingBucket, usageBucket, liabilitiesBucket, signedBucket, chainBucket} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return meta.Put([]byte("version"), []byte(storeVersion))
}

type storedHead struct {
	Seq  uint64 `json:"seq"`
	Hash string `json:"hash"`
	Size int64  `json:"size"`
}

func getHead(tx *bolt.Tx) (audit.Head, error) {
	v := tx.Bucket(metaBucket).Get([]byte("head"))
	if v == nil {
		return audit.Head{}, nil
	}
	var h storedHead
	if err := json.Unmarshal(v, &h); err != nil {
		return audit.Head{}, fmt.Errorf("reading audit head: %w", err)
	}
	hash, err := hex.DecodeString(h.Hash)
	if err != nil || len(hash) != 32 {
		return audit.Head{}, fmt.Errorf("reading audit head: hash %q is not 32 bytes of hex", h.Hash)
	}
	return audit.Head{Seq: h.Seq, Hash: [32]byte(hash), Size: h.Size}, nil
}

func putHead(tx *bolt.Tx, h audit.Head) error {
	v, err := json.Marshal(storedHead{Seq: h.Seq, Hash: hex.EncodeToString(h.Hash[:]), Size: h.Size})
	if err != nil {
		return err
	}
	return tx.Bucket(metaBucket).Put([]byte("head"), v)
}

// getJournal returns the lines that may not be on disk in the trail, in order.
func getJournal(tx *bolt.Tx) []byte {
	var lines []byte
	_ = tx.Bucket(journalBucket).ForEach(func(_, v []byte) error { // the callback never fails
		lines = append(lines, v...)
		return nil
	})
	return lines
}

// trimJournal drops the batches that start before record seq.
func trimJournal(tx *bolt.Tx, seq uint64) error {
	c := tx.Bucket(journalBucket).Cursor()
	for k, _ := c.First(); k != nil && binary.BigEndian.Uint64(k) < seq; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

func putJSON(tx *bolt.Tx, bucket, key []byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put(key, b)
}

func getSessions(tx *bolt.Tx) ([]*Session, error) {
	var all []*Session
	err := tx.Bucket(sessionsBucket).ForEach(func(k, v []byte) error {
		s := new(Session)
		if err := json.Unmarshal(v, s); err != nil {
			return fmt.Errorf("reading session %s: %w", k, err)
		}
		all = append(all, s)
		return nil
	})
	return all, err
}

// liability is what the signatures for one nonce of a session can cost at most: only
// one of them can land, so of each tracker the largest amount.
type liability struct {
	Charges map[policy.Tracker]*policy.Decimal `json:"charges"`
}

func liabilityKey(id ID, nonce uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(id), nonce)
}

func signedKey(id ID, nonce uint64, digest policy.Hash) []byte {
	return append(liabilityKey(id, nonce), digest[:]...)
}

func getLiability(tx *bolt.Tx, id ID, nonce uint64) (l liability, found bool, err error) {
	v := tx.Bucket(liabilitiesBucket).Get(liabilityKey(id, nonce))
	if v == nil {
		return l, false, nil
	}
	l, err = parseLiability(id, nonce, v)
	return l, err == nil, err
}

// forLiabilities calls do with the liabilities of a session from nonce first on, lowest first,
// until it returns false.
func forLiabilities(tx *bolt.Tx, id ID, first uint64, do func(nonce uint64, v []byte) bool) {
	c := tx.Bucket(liabilitiesBucket).Cursor()
	for k, v := c.Seek(liabilityKey(id, first)); k != nil && bytes.HasPrefix(k, []byte(id)); k, v = c.Next() {
		if len(k) == len(id)+8 && !do(binary.BigEndian.Uint64(k[len(id):]), v) {
			return
		}
	}
}

func parseLiability(id ID, nonce uint64, v []byte) (l liability, err error) {
	if err := json.Unmarshal(v, &l); err != nil {
		return l, fmt.Errorf("reading liability for nonce %d of session %s: %w", nonce, id, err)
	}
	return l, nil
}

// countLiabilities counts those from nonce first on.
func countLiabilities(tx *bolt.Tx, id ID, first uint64) (n int) {
	forLiabilities(tx, id, first, func(uint64, []byte) bool { n++; return true })
	return n
}

// getSettled returns what the chain was last seen to say about each session.
func getSettled(tx *bolt.Tx) (map[ID]*settled, error) {
	all := map[ID]*settled{}
	err := tx.Bucket(chainBucket).ForEach(func(k, v []byte) error {
		s := new(settled)
		if err := json.Unmarshal(v, s); err != nil {
			return fmt.Errorf("reading what the chain said of session %s: %w", k, err)
		}
		all[ID(k)] = s
		return nil
	})
	return all, err
}

func usageKey(id ID, t policy.Tracker) []byte {
	text, err := t.MarshalText()
	if err != nil {
		panic(err) // a tracker made by Check always has a text form
	}
	return append([]byte(id), text...)
}

func getUsage(tx *bolt.Tx, id ID, t policy.Tracker) (used uint256.Int, found bool, err error) {
	v := tx.Bucket(usageBucket).Get(usageKey(id, t))
	if v == nil {
		return used, false, nil
	}
	if len(v) != 32 {
		return used, false, fmt.Errorf("reading usage of session %s: %d bytes, want 32", id, len(v))
	}
	return *used.SetBytes32(v), true, nil
}

func putUsage(tx *bolt.Tx, id ID, t policy.Tracker, used uint256.Int) error {
	v := used.Bytes32()
	return tx.Bucket(usageBucket).Put(usageKey(id, t), v[:])
}
