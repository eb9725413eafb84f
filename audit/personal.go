package audit

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
)

// A line with personal members ends so:
//
//	…,"personal":"<hex SHA-256 of what follows, without the last brace>","salt":"<32 hex digits>",<personal members>}
//
// What is chained is the line up to the member personal, with a brace after it. So the salt and the personal members
// can be deleted: the line is then what was chained all along. The salt is random, so that the hash does not tell the
// values.
const (
	personalName = `,"personal":"`
	saltName     = `,"salt":"`
	saltBytes    = 16
	hashDigits   = 2 * sha256.Size
)

// namesPeople reports whether the detail of an event has clients and accounts.
func (e Event) namesPeople() bool {
	switch e {
	case SessionCreated, SessionImported, SessionClients, SessionSucceeded:
		return true
	}
	return false
}

func (r *Record) hasPersonal() bool {
	return r.Peer != nil || r.Transaction != nil || r.Detail != nil && r.Event.namesPeople()
}

// seal appends rec's personal members and their hash to b, whose line begins at start and has the other members, and
// returns the hash of what is chained. Both ends of the line are left open.
func seal(b []byte, start int, rec *Record) (lines []byte, hash [32]byte, err error) {
	lines = append(b, personalName...)
	at := len(lines)
	lines = append(lines, make([]byte, hashDigits)...)
	lines = append(lines, '"')
	end := len(lines)
	var salt [saltBytes]byte
	rand.Read(salt[:]) // it never fails
	lines = append(lines, saltName...)
	lines = hex.AppendEncode(lines, salt[:])
	lines = append(lines, '"')
	if lines, err = appendPersonal(lines, rec); err != nil {
		return b, hash, err
	}
	sum := sha256.Sum256(lines[end:])
	hex.Encode(lines[at:], sum[:])
	lines[end] = '}' // for a moment, so that nothing is copied
	hash = sha256.Sum256(lines[start : end+1])
	lines[end] = ','
	return lines, hash, nil
}

// personal finds the end of what is chained in a line without its newline: rest is what follows, without the line's
// last brace, and want its hash in hex. ok is false if the line has no member personal.
func personal(line []byte) (end int, want, rest []byte, ok bool) {
	at := bytes.LastIndex(line, []byte(personalName))
	if at < 0 {
		return 0, nil, nil, false
	}
	digits := at + len(personalName)
	end = digits + hashDigits + 1
	if len(line) <= end || line[end-1] != '"' || line[len(line)-1] != '}' {
		return 0, nil, nil, false
	}
	rest = line[end : len(line)-1]
	if len(rest) > 0 && !bytes.HasPrefix(rest, []byte(saltName)) {
		return 0, nil, nil, false
	}
	return end, line[digits : end-1], rest, true
}

// chained is the part of a line that is hashed.
func chained(line []byte) []byte {
	end, _, rest, ok := personal(line)
	if !ok || len(rest) == 0 {
		return line
	}
	return append(bytes.Clone(line[:end]), '}')
}

// personalFits reports whether the personal members of a line are those that its hash is of, or were erased.
func personalFits(line []byte) bool {
	_, want, rest, ok := personal(line)
	if !ok || len(rest) == 0 {
		return true
	}
	sum := sha256.Sum256(rest)
	return hex.EncodeToString(sum[:]) == string(want)
}

// Personal is what a line has beside its personal members. A reader of records embeds it.
type Personal struct {
	Hash string `json:"personal"`
	Salt string `json:"salt"`
}

// Erased reports whether the record's personal members were erased.
func (p Personal) Erased() bool { return p.Hash != "" && p.Salt == "" }
