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
	Hash [32]byte // SHA-256 of its line without the newline and without personal members, see [Record]
	Size int64    // of the newest segment up to and with its newline, in bytes
	// Sealed is how many records are in older segments: the newest one begins with the record after them.
	Sealed uint64
}

// Seal appends the line that follows h to b, newline included, and returns the head after it:
//
//	{"seq":N,"prev":"<hex SHA-256 of the line before>",<rec's fields>}
//
// The prev of record 1 is 64 zeros. Personal members follow the others; their hash is hashed in their place, see
// [Record]. After an error b is as it was.
func (h Head) Seal(b []byte, rec *Record) (lines []byte, next Head, err error) {
	start := len(b)
	lines = h.open(b)
	if lines, err = appendFields(lines, rec); err != nil {
		return b, h, err
	}
	if rec.hasPersonal() {
		if lines, next.Hash, err = seal(lines, start, rec); err != nil {
			return b, h, err
		}
		lines = append(lines, '}', '\n')
	} else {
		lines = append(lines, '}')
		next.Hash = sha256.Sum256(lines[start:])
		lines = append(lines, '\n')
	}
	next.Seq, next.Size, next.Sealed = h.Seq+1, h.Size+int64(len(lines)-start), h.Sealed
	return lines, next, nil
}

// SealWhole is Seal for a line that is hashed as it is, with the personal members, which then can't be erased: the line
// of a database that writes the verdict and the hash itself, see [Record.Halves].
func (h Head) SealWhole(b []byte, rec *Record) (lines []byte, next Head, err error) {
	start := len(b)
	lines = h.open(b)
	if lines, err = appendWhole(lines, rec); err != nil {
		return b, h, err
	}
	lines = append(lines, '}')
	return append(lines, '\n'), h.after(lines[start:]), nil
}

// open begins the line that follows h.
func (h Head) open(b []byte) []byte {
	b = append(b, `{"seq":`...)
	b = strconv.AppendUint(b, h.Seq+1, 10)
	b = append(b, `,"prev":"`...)
	b = hex.AppendEncode(b, h.Hash[:])
	return append(b, `",`...)
}

// after is the head after line, which has no newline here.
func (h Head) after(line []byte) Head {
	return Head{Seq: h.Seq + 1, Hash: sha256.Sum256(chained(line)), Size: h.Size + int64(len(line)) + 1, Sealed: h.Sealed}
}

// follows checks that line (without its newline) is the record after h, and returns the head after it.
func (h Head) follows(line []byte) (Head, error) {
	want := append([]byte(`{"seq":`), strconv.FormatUint(h.Seq+1, 10)...)
	rest, ok := bytes.CutPrefix(line, append(want, ','))
	if !ok {
		return Head{}, fmt.Errorf("record %d was expected here, found %s: records were removed, inserted or put in "+
			"another order", h.Seq+1, seqOf(line))
	}
	prev := append([]byte(`"prev":"`), hex.EncodeToString(h.Hash[:])...)
	if !bytes.HasPrefix(rest, append(prev, `",`...)) {
		return Head{}, fmt.Errorf("record %d does not continue record %d: record %d was edited or inserted, or the link "+
			"in record %d was",
			h.Seq+1, h.Seq, h.Seq, h.Seq+1)
	}
	if !json.Valid(line) {
		return Head{}, fmt.Errorf("record %d is not valid JSON", h.Seq+1)
	}
	if !personalFits(line) {
		return Head{}, fmt.Errorf("record %d has other personal values than were written to it", h.Seq+1)
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

// Halves returns what a line has of rec before its verdict and after it, for a database that writes the verdict itself.
// rec's own verdict is in neither.
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
