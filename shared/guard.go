package shared

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/internal/durable"
)

// mark is what an agent has acknowledged, on its own disk before the signature leaves. A database that does not contain
// it has lost commits.
type mark struct {
	writes  uint64     // counts the marks
	batch   uint64     // the last that was answered
	version uint64     // of the store: the last change that the agent obeys
	head    audit.Head // of the last record
	synced  uint64     // the last record that is on disk in the trail's file
}

// guard is the file of the last two marks. Each has a slot of its own, so that a write that is cut short spoils only
// the one that was not acknowledged. Safe for concurrent use.
type guard struct {
	f    *os.File
	mu   sync.Mutex
	last mark
}

const (
	slotBytes  = 512 // of a disk's sector
	guardMagic = "keyward guard 1\n"
)

// openGuard opens the guard file at path and returns whether it was there. It locks the file: [ErrInUse] if another
// process has it.
func openGuard(path string) (g *guard, found bool, err error) {
	_, err = os.Lstat(path)
	found = err == nil
	if errors.Is(err, fs.ErrNotExist) {
		if err := durable.WriteFile(path, encodeMark(nil, mark{}), 0o600); err != nil {
			return nil, false, err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, found, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, found, errors.Join(fmt.Errorf("%w: %s", ErrInUse, path), f.Close())
	}
	g = &guard{f: f}
	if err := g.read(); err != nil {
		return nil, found, errors.Join(err, f.Close())
	}
	return g, found, nil
}

// read takes the newer of the two marks.
func (g *guard) read() error {
	slots := make([]byte, 2*slotBytes)
	n, err := g.f.ReadAt(slots, 0)
	if n == 0 {
		return fmt.Errorf("reading guard file %s: %w", g.f.Name(), err)
	}
	any := false
	for _, slot := range [][]byte{slots[:slotBytes], slots[slotBytes:]} {
		if m, ok := decodeMark(slot); ok && (!any || m.writes > g.last.writes) {
			g.last, any = m, true
		}
	}
	if !any {
		return fmt.Errorf("guard file %s holds no mark: put it back, or fence the agent and enroll it under another name",
			g.f.Name())
	}
	return nil
}

// mark is the last one.
func (g *guard) mark() mark {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.last
}

// update returns when the mark is on disk as change leaves it.
func (g *guard) update(change func(*mark)) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.last
	change(&m)
	m.writes = g.last.writes + 1
	if _, err := g.f.WriteAt(encodeMark(make([]byte, 0, slotBytes), m), int64(m.writes%2)*slotBytes); err != nil {
		return fmt.Errorf("writing guard file: %w", err)
	}
	if err := syscall.Fdatasync(int(g.f.Fd())); err != nil {
		return fmt.Errorf("syncing guard file: %w", err)
	}
	g.last = m
	return nil
}

func (g *guard) close() error { return g.f.Close() }

// encodeMark appends a slot: the magic, the fields, SHA-256 of both, zeros.
func encodeMark(b []byte, m mark) []byte {
	start := len(b)
	b = append(b, guardMagic...)
	for _, x := range []uint64{m.writes, m.batch, m.version, m.head.Seq, uint64(m.head.Size), m.head.Sealed, m.synced} {
		b = binary.BigEndian.AppendUint64(b, x)
	}
	b = append(b, m.head.Hash[:]...)
	sum := sha256.Sum256(b[start:])
	b = append(b, sum[:]...)
	return append(b, make([]byte, slotBytes-len(b)+start)...)
}

func decodeMark(slot []byte) (m mark, ok bool) {
	const fields = 7
	end := len(guardMagic) + fields*8 + 32
	sum := sha256.Sum256(slot[:end])
	if !bytes.HasPrefix(slot, []byte(guardMagic)) || !bytes.Equal(sum[:], slot[end:end+32]) {
		return m, false
	}
	b := slot[len(guardMagic):]
	var size uint64
	for i, x := range []*uint64{&m.writes, &m.batch, &m.version, &m.head.Seq, &size, &m.head.Sealed, &m.synced} {
		*x = binary.BigEndian.Uint64(b[8*i:])
	}
	m.head.Size = int64(size)
	copy(m.head.Hash[:], b[8*fields:])
	return m, true
}

// guardPath is the guard file of an agent with the directory dir.
func guardPath(dir string) string { return filepath.Join(dir, "guard") }
