package audit

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/bits"
	"os"

	"golang.org/x/mod/sumdb/tlog"
)

// Gone is the detail of a record that says that all records up to number Records are not in the trail any more:
// [TrailArchived] and [TrailRepaired]. By it the rest of the trail can still be verified: the first record that is left
// continues the one with this number and hash, and this record is part of the chain that leads to the ledger's head.
type Gone struct {
	Records uint64 `json:"records"`
	Hash    string `json:"hash"` // of the last one's line, SHA-256, 0x-hex
	// Tree is the roots of the complete subtrees of the first Records lines, the largest first, in base64: with them
	// the roots of later trees can be computed. nil: they are not known.
	Tree  []tlog.Hash `json:"tree,omitempty"`
	To    string      `json:"to,omitempty"`    // directory that they are in now; "": they were deleted
	Files []GoneFile  `json:"files,omitempty"` // there
	Why   string      `json:"why,omitempty"`   // of a repair: the damage
}

// GoneFile is a segment that was moved.
type GoneFile struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"` // of the segment, not compressed; 0x-hex
}

// goneIn returns what the record on line says is gone; ok is false if it says nothing of the kind.
func goneIn(line []byte) (g Gone, ok bool) {
	if !bytes.Contains(line, []byte(`"event":"trail.`)) {
		return g, false
	}
	var rec struct {
		Event  Event           `json:"event"`
		Detail json.RawMessage `json:"detail"`
	}
	if json.Unmarshal(line, &rec) != nil || rec.Event != TrailArchived && rec.Event != TrailRepaired {
		return g, false
	}
	return g, json.Unmarshal(rec.Detail, &g) == nil
}

// start is where a trail begins. A trail from which nothing was moved begins before record 1, and needs no record that
// says so.
type start struct {
	Head       // before the first record that is there
	said *Gone // by a record of the trail; nil: not found yet
}

// startOf finds where the trail at path begins: by the number and the link of its first record.
func startOf(path string) (*start, error) {
	r, err := OpenSegments(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	line, err := bufio.NewReaderSize(r, 1<<16).ReadBytes('\n')
	if err == io.EOF {
		return &start{}, nil
	}
	if err != nil {
		return nil, err
	}
	return &start{Head: before(line)}, nil
}

// Beginning is the head before the first record of the trail at path: of the last record that was archived. It is the
// zero Head of a trail that begins with record 1. The error is fs.ErrNotExist if there is no trail.
func Beginning(path string) (Head, error) {
	s, err := startOf(path)
	if err != nil {
		return Head{}, err
	}
	return s.Head, nil
}

// before is the head before the record on line, as that says; zero for a line that is no record: [verify] finds what is
// wrong.
func before(line []byte) (h Head) {
	var rec struct {
		Seq  uint64 `json:"seq"`
		Prev string `json:"prev"`
	}
	if json.Unmarshal(line, &rec) != nil || rec.Seq <= 1 {
		return h
	}
	h.Seq, h.Sealed = rec.Seq-1, rec.Seq-1
	if prev, err := hex.DecodeString(rec.Prev); err == nil && len(prev) == len(h.Hash) {
		h.Hash = [32]byte(prev)
	}
	return h
}

// look takes note if the record on line says that what is before the start is gone.
func (s *start) look(line []byte) {
	if s.Seq == 0 {
		return
	}
	if g, ok := goneIn(line); ok && g.Records == s.Seq && g.Hash == hashText(s.Hash) {
		s.said = &g
	}
}

// explained is nil if nothing is missing before the start, or a record says so.
func (s *start) explained() error {
	if s.Seq == 0 || s.said != nil {
		return nil
	}
	return fmt.Errorf("record 1 was expected here, found record %d: records 1 to %d are missing, and no record says "+
		"that they were archived", s.Seq+1, s.Seq)
}

func hashText(h [32]byte) string { return fmt.Sprintf("0x%x", h) }

// placed fills in where the trail's last record is.
func placed(path string, h Head) (Head, error) {
	first, err := firstRecord(path)
	if err != nil {
		return h, err
	}
	h.Sealed = h.Seq
	if first > 0 {
		h.Sealed = first - 1
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		h.Size = 0
		return h, nil
	}
	if err != nil {
		return h, err
	}
	h.Size = fi.Size()
	return h, nil
}

// subtrees are the places, as in [tlog.StoredHashIndex], of the roots of the complete subtrees of the first n leaves,
// the largest first.
func subtrees(n int64) (indexes []int64) {
	for at := int64(0); at < n; {
		level := bits.Len64(uint64(n-at)) - 1
		indexes = append(indexes, tlog.StoredHashIndex(level, at>>level))
		at += 1 << level
	}
	return indexes
}
