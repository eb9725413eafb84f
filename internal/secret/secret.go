// Package secret keeps PINs out of swap, core dumps, logs and the Go heap.
package secret

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Buffer holds a secret in pages of its own: locked in memory, left out of core
// dumps, with an inaccessible page on either side, and wiped by Close. It prints as
// "[secret]". Methods are safe for concurrent use.
type Buffer struct {
	mu   sync.Mutex
	mem  []byte // the whole mapping, guard pages included; nil once closed
	data []byte // at the end of the pages between the guards
}

// New returns a zeroed Buffer of size bytes. Close it after use.
func New(size int) (*Buffer, error) {
	page := unix.Getpagesize()
	inner := (size + page - 1) / page * page
	mem, err := unix.Mmap(-1, 0, inner+2*page, unix.PROT_NONE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, fmt.Errorf("allocating memory for a secret: %w", err)
	}
	pages := mem[page : page+inner]
	if err := protect(pages); err != nil {
		return nil, errors.Join(err, unix.Munmap(mem))
	}
	return &Buffer{mem: mem, data: pages[inner-size : inner : inner]}, nil
}

// protect makes pages usable, and keeps them out of swap and core dumps.
func protect(pages []byte) error {
	if len(pages) == 0 {
		return nil
	}
	if err := unix.Mprotect(pages, unix.PROT_READ|unix.PROT_WRITE); err != nil {
		return fmt.Errorf("allocating memory for a secret: %w", err)
	}
	if err := unix.Mlock(pages); err != nil {
		return fmt.Errorf("locking memory for a secret: %w (%s)", err, lockAdvice(err))
	}
	if err := excludeFromDumps(pages); err != nil {
		return fmt.Errorf("keeping a secret out of core dumps: %w", err)
	}
	return nil
}

// lockAdvice says what lets a process lock memory that mlock(2) refused to lock. EPERM means a limit of 0, or that a
// filter of system calls forbids it.
func lockAdvice(err error) string {
	var limit unix.Rlimit
	if errors.Is(err, unix.EPERM) && unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit) == nil && limit.Cur > 0 {
		return "a filter of system calls forbids it: allow @memlock in SystemCallFilter= of the systemd unit, or give the " +
			"container CAP_IPC_LOCK"
	}
	return "raise RLIMIT_MEMLOCK: ulimit -l, or LimitMEMLOCK= in the systemd unit"
}

// Take moves b into a new Buffer: b is wiped, also when Take fails.
func Take(b []byte) (*Buffer, error) {
	defer clear(b)
	s, err := New(len(b))
	if err != nil {
		return nil, err
	}
	copy(s.data, b)
	return s, nil
}

// Use calls f with the secret, or with nil once the Buffer is closed. The slice
// is valid until f returns and must not be kept; Close waits for f.
func (s *Buffer) Use(f func(secret []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f(s.data)
}

// Clone returns a copy with a life of its own.
func (s *Buffer) Clone() (*Buffer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil { // an empty PIN is another one
		return nil, errors.New("secret: copying one that was wiped")
	}
	c, err := New(len(s.data))
	if err != nil {
		return nil, err
	}
	copy(c.data, s.data)
	return c, nil
}

// Len is the secret's length in bytes.
func (s *Buffer) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.data)
}

// Equal compares two secrets, in a time that depends on their lengths alone.
// A nil or closed Buffer equals nothing. It needs no memory: a PIN that was refused must not pass for
// another one when there is none.
func (s *Buffer) Equal(o *Buffer) bool {
	if s == nil || o == nil {
		return false
	}
	if s == o {
		return true
	}
	// One order of locks, so that two comparisons can't wait for each other.
	first, second := s, o
	if uintptr(unsafe.Pointer(s)) > uintptr(unsafe.Pointer(o)) {
		first, second = o, s
	}
	first.mu.Lock()
	defer first.mu.Unlock()
	second.mu.Lock()
	defer second.mu.Unlock()
	return s.mem != nil && o.mem != nil && subtle.ConstantTimeCompare(s.data, o.data) == 1
}

// truncate shortens the secret to its first n bytes and wipes the rest.
func (s *Buffer) truncate(n int) {
	clear(s.data[n:])
	s.data = s.data[:n]
}

// Close wipes the secret and gives its memory back. Closing a nil or closed Buffer does nothing.
func (s *Buffer) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mem == nil {
		return nil
	}
	clear(s.data)
	mem := s.mem
	s.mem, s.data = nil, nil
	if err := unix.Munmap(mem); err != nil {
		return fmt.Errorf("freeing a secret: %w", err)
	}
	return nil
}

const redacted = "[secret]"

func (s *Buffer) String() string               { return redacted }
func (s *Buffer) GoString() string             { return redacted }
func (s *Buffer) Format(f fmt.State, _ rune)   { _, _ = f.Write([]byte(redacted)) }
func (s *Buffer) MarshalText() ([]byte, error) { return []byte(redacted), nil }
