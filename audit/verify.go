package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Report is what [Verify] found in order.
type Report struct {
	Head  Head   // of the last record that was read
	After uint64 // records beyond the head that was asked about
	Gone  uint64 // the first records, which were archived; a later record says so
}

// Verify reads the trail whose newest segment is at path, from its first record, and checks that each one
// continues the one before, and that the trail reaches head: so any edit, insertion,
// deletion or truncation is an error that wraps [ErrDamaged] and names the record.
//
// journal holds lines up to head that may not have reached the file yet, see [OpenTrail].
// live says that an agent may be appending: then records after head are no damage.
//
// A trail whose first records were archived begins later, and has a record that says so, see [Gone].
func Verify(path string, head Head, journal []byte, live bool) (Report, error) {
	for {
		begin, err := startOf(path)
		if errors.Is(err, fs.ErrNotExist) && head.Seq == 0 {
			return Report{}, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			return Report{}, fmt.Errorf("%w: it is missing, with records 1 to %d: %w", ErrDamaged, head.Seq, err)
		}
		if err != nil {
			return Report{}, err
		}
		rep, err := begin.verify(path, head, journal, live)
		if err == nil {
			return rep, nil
		}
		now, startErr := startOf(path)
		if startErr != nil || now.Seq <= begin.Seq { // nothing was archived meanwhile
			return rep, err
		}
	}
}

// verify is [Verify] for a trail that begins here.
func (s *start) verify(path string, head Head, journal []byte, live bool) (rep Report, err error) {
	trail, err := OpenSegments(path)
	if err != nil {
		return rep, err
	}
	defer trail.Close()
	rep, err = verify(io.MultiReader(trail, bytes.NewReader(trail.lacks(head, journal))), s.Head, head, live, s.look)
	if err == nil {
		err = s.explained()
	}
	if err != nil {
		return rep, fmt.Errorf("%w: %s: %w", ErrDamaged, trail.at(path), err)
	}
	rep.Gone = s.Seq
	return rep, nil
}

// lacks returns the part of journal that the newest segment lacks.
func (r *Reader) lacks(head Head, journal []byte) []byte {
	lacks := head.Size
	if last := r.files[len(r.files)-1]; filepath.Base(last) == filepath.Base(r.path) ||
		last == SegmentPath(r.path, head.Sealed+1) {
		fi, err := os.Stat(last)
		if err != nil {
			return nil // reading it fails too
		}
		lacks -= fi.Size()
	}
	if lacks <= 0 || lacks > int64(len(journal)) {
		return nil
	}
	return journal[int64(len(journal))-lacks:]
}

// verify reads the records after at, and calls look with each.
func verify(r io.Reader, at, head Head, live bool, look func(line []byte)) (Report, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := br.ReadBytes('\n')
		if err == io.EOF && (len(line) == 0 || live && at.Seq >= head.Seq) {
			break // a live agent may be in the middle of its next line
		}
		if err == io.EOF {
			return Report{Head: at}, fmt.Errorf("record %d is cut short", at.Seq+1)
		}
		if err != nil {
			return Report{Head: at}, err
		}
		next, err := at.follows(line[:len(line)-1])
		if err != nil {
			return Report{Head: at}, err
		}
		at = next
		look(line)
		if at.Seq == head.Seq && at.Hash != head.Hash {
			return Report{Head: at}, fmt.Errorf("record %d is not the one that the ledger knows: it was edited, or one "+
				"before it and all links since", at.Seq)
		}
	}
	if at.Seq < head.Seq {
		return Report{Head: at}, fmt.Errorf("the trail ends at record %d, records %d to %d are missing", at.Seq, at.Seq+1,
			head.Seq)
	}
	rep := Report{Head: at, After: at.Seq - head.Seq}
	if rep.After > 0 && !live {
		return rep, fmt.Errorf("records %d to %d were added after the last that the ledger knows", head.Seq+1, at.Seq)
	}
	return rep, nil
}
