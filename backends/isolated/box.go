package isolated

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// outbox is what a conn has to write. Its zero value is ready. The first call with something to write writes it; what
// others have by then is written together, by one system call.
type outbox struct {
	mu   sync.Mutex // never held across a write
	buf  []byte     // frames that nobody writes yet
	busy bool       // somebody writes, and will look at buf again

	queued uint64 // bytes of all frames so far
	handed uint64 // of these, the bytes that were given to a write and may have reached the other side
}

const (
	writeTimeout = 5 * time.Second // of one write: a side that reads nothing is stopped
	maxUnread    = 4 * maxFrame    // bytes: likewise
)

// send writes f soon, and wipes its body. end is for [outbox.whole].
func (c *conn) send(f *frame) (end uint64, err error) {
	defer clear(f.body)
	if err := c.reason(); err != nil {
		return 0, err
	}
	waiting, first, end, err := c.out.put(f)
	if err != nil {
		return 0, err
	}
	if waiting > cmp.Or(c.unread, maxUnread) {
		c.fail(fmt.Errorf("writing: %d bytes are not read by the other side", waiting))
	}
	if first {
		c.writeNow()
	}
	return end, nil
}

// put adds f to what is to be written. If the caller is the first, it has to write.
func (o *outbox) put(f *frame) (waiting int, first bool, end uint64, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if need := len(o.buf) + 4 + frameHeader + len(f.body); need > cap(o.buf) {
		old := o.buf
		o.buf = append(make([]byte, 0, max(2*need, 4096)), old...)
		clear(old)
	}
	buf, err := appendFrame(o.buf, f)
	if err != nil {
		return len(o.buf), false, 0, err
	}
	o.queued += uint64(len(buf) - len(o.buf))
	o.buf, first, o.busy = buf, !o.busy, true
	return len(buf), first, o.queued, nil
}

// whole reports whether all of the frame that ends at end may have reached the other side.
func (o *outbox) whole(end uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return end <= o.handed
}

// unwritten takes n bytes back that were given to a write, which did not write them.
func (o *outbox) unwritten(n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handed -= uint64(n)
}

// writeNow writes what the socket takes without waiting. A goroutine writes the rest, and what comes meanwhile.
func (c *conn) writeNow() {
	b := c.out.take()
	n, err := writeSome(c.nc, b)
	clear(b[:n])
	if err == nil && n == len(b) && c.out.end(b) {
		return
	}
	go c.writeAll(b[n:])
}

// writeAll writes b and then the outbox, until that is empty.
func (c *conn) writeAll(b []byte) {
	for {
		_ = c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)) // fails only if Write does
		n, err := c.nc.Write(b)
		clear(b)
		if err != nil {
			c.out.unwritten(len(b) - n)
			c.fail(fmt.Errorf("writing: %w", err))
			c.out.discard()
			return
		}
		if c.out.end(b) {
			return
		}
		b = c.out.take()
	}
}

// take returns what is to be written.
func (o *outbox) take() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.buf
	o.buf = nil
	o.handed += uint64(len(b))
	return b
}

// end reports whether there is nothing more to write. If so, the next send writes. written is wiped, and used again.
func (o *outbox) end(written []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.busy = len(o.buf) > 0
	if !o.busy && o.buf == nil && cap(written) <= inboxSize {
		o.buf = written[:0]
	}
	return !o.busy
}

// discard wipes what can't be written any more. It stays busy, so that nobody writes.
func (o *outbox) discard() {
	o.mu.Lock()
	defer o.mu.Unlock()
	clear(o.buf)
	o.buf = nil
}

// writeSome is one write(2) that does not wait. It wrote nothing if the socket has no room; what is wrong with
// the socket shows with the next write.
func writeSome(w io.Writer, b []byte) (n int, err error) {
	s, ok := w.(syscall.Conn)
	if !ok {
		return 0, nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return 0, err
	}
	err = raw.Write(func(fd uintptr) bool {
		n, _ = syscall.Write(int(fd), b)
		return true
	})
	return max(n, 0), err
}

// inbox reads frames, many with one read(2). A byte that was handed out is wiped: it may be of a PIN.
type inbox struct {
	from       io.Reader
	buf        []byte
	start, end int // of what was not handed out
}

const inboxSize = 32 << 10

// next reads one frame. The body is the caller's, to be wiped if it is a PIN.
func (in *inbox) next() (*frame, error) {
	head, err := in.peek(4 + frameHeader)
	if err != nil {
		return nil, err
	}
	f, n, err := parseHead(head)
	if err != nil {
		return nil, err
	}
	in.drop(4 + frameHeader)
	f.body = make([]byte, n)
	got := copy(f.body, in.buf[in.start:in.end])
	in.drop(got)
	if _, err := io.ReadFull(in.from, f.body[got:]); err != nil {
		return nil, fmt.Errorf("%w: cut short: %w", errMalformed, err)
	}
	return f, nil
}

// peek returns the next n bytes, which stay.
func (in *inbox) peek(n int) ([]byte, error) {
	if in.buf == nil {
		in.buf = make([]byte, inboxSize)
	}
	if len(in.buf)-in.start < n {
		copy(in.buf, in.buf[in.start:in.end])
		clear(in.buf[max(in.start, in.end-in.start):in.end])
		in.start, in.end = 0, in.end-in.start
	}
	if have := in.end - in.start; have < n {
		got, err := io.ReadAtLeast(in.from, in.buf[in.end:], n-have)
		in.end += got
		if err != nil {
			return nil, err
		}
	}
	return in.buf[in.start : in.start+n], nil
}

// drop wipes n bytes, which are handed out.
func (in *inbox) drop(n int) {
	clear(in.buf[in.start : in.start+n])
	in.start += n
	if in.start == in.end {
		in.start, in.end = 0, 0
	}
}

// parseHead decodes what is before a frame's body, of n bytes.
func parseHead(head []byte) (f *frame, n int, err error) {
	size := binary.BigEndian.Uint32(head[:4])
	if size < frameHeader || size > maxFrame {
		return nil, 0, fmt.Errorf("%w: length %d", errMalformed, size)
	}
	f = &frame{
		kind: kind(head[4]), op: op(head[5]),
		id:   binary.BigEndian.Uint64(head[6:]),
		left: time.Duration(binary.BigEndian.Uint64(head[14:])),
	}
	return f, int(size) - frameHeader, f.check()
}
