package session

import (
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
)

const storeVersion = "1"

var errOtherVersion = errors.New("the ledger was written by another version of keyward")

// initStore makes the buckets of a fresh file, or checks the version of an old one.
func initStore(tx *bolt.Tx) error {
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if v := meta.Get([]byte("version")); v != nil {
		if string(v) != storeVersion {
			return fmt.Errorf("%w: version %q, this one reads %q", errOtherVersion, v, storeVersion)
		}
		return nil
	}
	for _, name := range [][]byte{journalBucket, sessionsBucket, creatingBucket, usageBucket, liabilitiesBucket, signedBucket} {
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
	if err := json.Unmarshal(v, &l); err != nil {
		return l, false, fmt.Errorf("reading liability for nonce %d of session %s: %w", nonce, id, err)
	}
	return l, true, nil
}

func countLiabilities(tx *bolt.Tx, id ID) (n int) {
	c := tx.Bucket(liabilitiesBucket).Cursor()
	for k, _ := c.Seek([]byte(id)); k != nil && string(k[:len(id)]) == string(id); k, _ = c.Next() {
		n++
	}
	return n
}

func usageKey(id ID, t policy.Tracker) []byte {
	text, err := t.MarshalText()
	if err != nil {
		panic(err) // a tracker made by Check always has a text form
	}
	return append([]byte(id), text...)
}

func getUsage(tx *bolt.Tx, id ID, t policy.Tracker) (uint256.Int, error) {
	v := tx.Bucket(usageBucket).Get(usageKey(id, t))
	if v == nil {
		return uint256.Int{}, nil
	}
	if len(v) != 32 {
		return uint256.Int{}, fmt.Errorf("reading usage of session %s: %d bytes, want 32", id, len(v))
	}
	return *new(uint256.Int).SetBytes32(v), nil
}

func putUsage(tx *bolt.Tx, id ID, t policy.Tracker, used uint256.Int) error {
	v := used.Bytes32()
	return tx.Bucket(usageBucket).Put(usageKey(id, t), v[:])
}
