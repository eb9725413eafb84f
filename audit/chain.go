package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
)

// Head identifies the last record of a trail. The zero Head is that of an empty one.
type Head struct {
	Seq  uint64   // the record's number, from 1
	Hash [32]byte // SHA-256 of its line without the newline
	Size int64    // of the newest segment up to and with its newline, in bytes
	// Sealed is how many records are in older segments: the newest one begins with the record after them.
	Sealed uint64
}

// Seal appends the line that follows h to b, newline included, and returns the head after it:
//
//	{"seq":N,"prev":"<hex SHA-256 of the line before>",<rec's fields>}
//
// The prev of record 1 is 64 zeros. After an error b is as it was.
func (h Head) Seal(b []byte, rec *Record) (lines []byte, next Head, err error) {
	start := len(b)
	lines = append(b, `{"seq":`...)
	lines = strconv.AppendUint(lines, h.Seq+1, 10)
	lines = append(lines, `,"prev":"`...)
	lines = hex.AppendEncode(lines, h.Hash[:])
	lines = append(lines, `",`...)
	if lines, err = appendFields(lines, rec); err != nil {
		return b, h, err
	}
	lines = append(lines, '}')
	return append(lines, '\n'), h.after(lines[start:]), nil
}

// after is the head after line, which has no newline here.
func (h Head) after(line []byte) Head {
	return Head{Seq: h.Seq + 1, Hash: sha256.Sum256(line), Size: h.Size + int64(len(line)) + 1, Sealed: h.Sealed}
}

// follows checks that line (without its newline) is the record after h, and returns the head after it.
func (h Head) follows(line []byte) (Head, error) {
	want := append([]byte(`{"seq":`), strconv.FormatUint(h.Seq+1, 10)...)
	rest, ok := bytes.CutPrefix(line, append(want, ','))
	if !ok {
		return Head{}, fmt.Errorf("record %d was expected here, found %s: records were removed, inserted or put in another order", h.Seq+1, seqOf(line))
	}
	prev := append([]byte(`"prev":"`), hex.EncodeToString(h.Hash[:])...)
	if !bytes.HasPrefix(rest, append(prev, `",`...)) {
		return Head{}, fmt.Errorf("record %d does not continue record %d: record %d was edited or inserted, or the link in record %d was",
			h.Seq+1, h.Seq, h.Seq, h.Seq+1)
	}
	if !json.Valid(line) {
		return Head{}, fmt.Errorf("record %d is not valid JSON", h.Seq+1)
	}
	return h.after(line), nil
}

// seqOf describes the record that line claims to be.
func seqOf(line []byte) string {
	var rec struct {
		Seq uint64 `json:"seq"`
	}
	if json.Unmarshal(line, &rec) != nil || rec.Seq == 0 {
		return "a line that is no record"
	}
	return "record " + strconv.FormatUint(rec.Seq, 10)
}

// Follow checks that line, without its newline, is the record after h, and returns the head after it.
func (h Head) Follow(line []byte) (Head, error) { return h.follows(line) }

// Halves returns what a line has of rec before its verdict and after it, for a database that writes the verdict itself. rec's own verdict is in neither.
func (rec *Record) Halves() (before, after string, err error) {
	e := encoder{}
	e.beforeVerdict(rec)
	n := len(e.b)
	e.afterVerdict(rec)
	if e.err != nil {
		return "", "", fmt.Errorf("encoding audit record: %w", e.err)
	}
	return string(e.b[:n]), string(e.b[n:]), nil
}
