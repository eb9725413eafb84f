package audit

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

// Follower reads the records of a trail after a known one, also those that are appended meanwhile. Each is checked to
// continue the one before. It is not safe for concurrent use.
type Follower struct {
	Head  Head // of the last record that Next returned: its number and hash
	r     *Reader
	lines *bufio.Reader
	part  []byte // the beginning of a line that is being written
}

// Follow begins to read the trail at path after the record with the number and hash of after; a zero Head is before
// record 1. The error wraps [ErrDamaged] if that record is not in the trail, unless it is the last of those that were
// archived.
func Follow(path string, after Head) (*Follower, error) {
	begin, err := startOf(path)
	if err != nil {
		return nil, err
	}
	at := Head{Seq: after.Seq, Hash: after.Hash}
	if begin.Seq == after.Seq { // the trail begins there
		r, err := OpenSegments(path)
		if err == nil && begin.Seq > 0 && begin.Hash != after.Hash {
			err = errors.Join(fmt.Errorf("%w: record %d is not the one that is known", ErrDamaged, after.Seq), r.Close())
		}
		if err != nil {
			return nil, err
		}
		return &Follower{Head: at, r: r, lines: bufio.NewReaderSize(r, 1<<16)}, nil
	}
	if begin.Seq > after.Seq {
		return nil, fmt.Errorf("%w: records %d to %d are not in the trail any more", ErrDamaged, after.Seq+1, begin.Seq)
	}
	r, err := openAt(path, after.Seq)
	if err != nil {
		return nil, err
	}
	f := &Follower{Head: at, r: r, lines: bufio.NewReaderSize(r, 1<<16)}
	line, err := f.lines.ReadBytes('\n')
	if err != nil || sha256.Sum256(chained(line[:len(line)-1])) != after.Hash {
		return nil, errors.Join(fmt.Errorf("%w: record %d is not the one that is known", ErrDamaged, after.Seq), r.Close())
	}
	return f, nil
}

// Next returns the next record without its newline. The error is io.EOF if there is none yet; a later call may find
// one.
func (f *Follower) Next() ([]byte, error) {
	part, err := f.lines.ReadBytes('\n')
	f.part = append(f.part, part...)
	if err != nil {
		return nil, err
	}
	line := f.part[:len(f.part)-1]
	next, err := f.Head.follows(line)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	f.Head, f.part = next, nil
	return line, nil
}

// cut reports whether the trail ends in the middle of a record.
func (f *Follower) cut() bool { return len(f.part) > 0 }

// Close closes the trail.
func (f *Follower) Close() error { return f.r.Close() }

// ReadAfter calls do with each record of the trail at path after head, without its newline, and returns the head of the
// last one. The error is as [Follow]'s and [Follower.Next]'s, or do's.
func ReadAfter(path string, head Head, do func(line []byte) error) (end Head, err error) {
	f, err := Follow(path, head)
	if err != nil {
		return end, err
	}
	defer f.Close()
	for {
		line, err := f.Next()
		if err == io.EOF && !f.cut() {
			return placed(path, f.Head)
		}
		if err == io.EOF {
			return f.Head, fmt.Errorf("%w: record %d is cut short", ErrDamaged, f.Head.Seq+1)
		}
		if err == nil {
			err = do(line)
		}
		if err != nil {
			return f.Head, err
		}
	}
}
