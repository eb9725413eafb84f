package socket

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keyward/keyward/audit"
)

// busyOutput is how many bytes of answers may wait on a connection before no further request
// is read from it.
const busyOutput = 256 << 10

// client is who asks, and what it holds.
type client struct {
	peer   audit.Peer
	socket *endpoint
	// refuse, if not nil, answers every request.
	refuse error
	// last: the connection is one too many and gets one answer.
	last  bool
	calls atomic.Int64 // in flight on this connection
	// push sends a notification, without waiting for the client to take it; nil: there is no way to, as over HTTP.
	push   func(line []byte)
	notify atomic.Bool // the client wants notifications
	cut    func()      // ends the connection; a write that is under way fails
	left   func() bool // the client has closed its end, and can read no answer
}

// conn is one connection. One goroutine reads it; every call has its own, and
// whichever of them has an answer first writes it, and those that others leave meanwhile.
type conn struct {
	client
	server *Server
	nc     *net.UnixConn
	since  time.Time
	scan   scanner
	ended  sync.Once
	atEnd  func()
	answer sync.WaitGroup // calls whose answer is not written

	document int           // of the stream, that is coming
	begun    time.Time     // when it began, and the time that the reader waited since
	timed    bool          // a read has a deadline
	owed     atomic.Int64  // processor time, in ns, to wait for before the next read
	held     atomic.Int64  // bytes of answers that are counted against the client
	gone     chan struct{} // closed when the connection is given up or has ended
	leave    sync.Once     // closes gone

	mu      sync.Mutex
	out     []output  // answers that nobody writes yet
	pending int       // bytes of answers in out and being written
	writing bool      // somebody writes
	dead    bool      // writing failed: the client gets no more
	drained sync.Cond // pending has fallen, or dead
}

func newConn(s *Server, e *endpoint, nc *net.UnixConn, peer audit.Peer) *conn {
	c := &conn{client: client{peer: peer, socket: e, cut: func() { nc.Close() }, left: func() bool { return hungUp(nc) }},
		server: s, nc: nc, since: time.Now(), gone: make(chan struct{})}
	c.drained.L = &c.mu
	limits := &s.Now().limits
	c.scan = scanner{
		max:      limits.MaxMessage,
		maxDepth: limits.MaxDepth,
		reserve:  func(n int) bool { return e.quota.take(peer, bytesInFlight, n) },
		release:  func(n int) { e.quota.give(peer, bytesInFlight, n) },
	}
	return c
}

// serve answers what comes until the client has closed its side and has all its answers. An
// HTTP connection it hands over to the HTTP server.
func (c *conn) serve() {
	if !c.socket.work.known(c.peer) {
		c.owe(costOfConn)
		c.settle()
	}
	first, err := c.readFirst()
	if err == nil && first[0] >= 'A' && first[0] <= 'Z' {
		c.server.web.serve(&httpConn{UnixConn: c.nc, conn: c, unread: first})
		return
	}
	defer c.end()
	c.push = c.sendAside
	if err == nil {
		err = c.readMessages()
	}
	if errors.Is(err, io.EOF) {
		c.finishInput()
	}
	c.scan.Release()
	c.answer.Wait()
}

// readFirst waits for the first bytes of the connection and returns a copy of them.
func (c *conn) readFirst() ([]byte, error) {
	if _, bad := c.scan.Next(); bad != nil { // makes room
		return nil, errors.New(bad.msg)
	}
	n, err := c.nc.Read(c.scan.Room())
	if err != nil {
		return nil, err
	}
	first := bytes.Clone(c.scan.Room()[:n])
	c.scan.Filled(n)
	return first, nil
}

// readMessages handles messages until reading fails, with io.EOF at the orderly end.
func (c *conn) readMessages() error {
	for {
		doc, bad := c.scan.Next()
		switch {
		case bad != nil:
			c.sendBad(bad)
		case doc != nil:
			c.handle(doc)
		default:
			if err := c.readMore(); err != nil {
				return err
			}
			continue
		}
		if c.last {
			return nil
		}
	}
}

// readMore reads once. The client has its time for a message: after that the message is answered with an error, and
// the rest of it is passed over.
func (c *conn) readMore() error {
	c.awaitOutput()
	c.begun = c.begun.Add(c.settle())
	if err := c.setPatience(); err != nil {
		return err
	}
	n, err := c.nc.Read(c.scan.Room())
	if errors.Is(err, os.ErrDeadlineExceeded) && c.timed {
		c.sendBad(c.scan.Expire(time.Since(c.begun)))
		return nil
	}
	if err != nil {
		return err
	}
	if size, _ := c.scan.Unfinished(); size == 0 && !c.scan.passesOver() { // a new message begins
		limits := &c.server.Now().limits
		c.scan.max, c.scan.maxDepth = limits.MaxMessage, limits.MaxDepth
	}
	c.scan.Filled(n)
	c.oweRead(n)
	return nil
}

// setPatience sets until when more of the unfinished message has to come.
func (c *conn) setPatience() error {
	size, document := c.scan.Unfinished()
	if document != c.document {
		c.document, c.begun = document, time.Now()
	}
	switch {
	case c.last: // has a deadline of its own
		return nil
	case size > 0:
		c.timed = true
		return c.nc.SetReadDeadline(c.begun.Add(c.server.Now().limits.patienceFor(size)))
	case c.timed:
		c.timed = false
		return c.nc.SetReadDeadline(time.Time{})
	}
	return nil
}

// finishInput answers what the client left unfinished when it closed its side.
func (c *conn) finishInput() {
	doc, bad := c.scan.End()
	if bad != nil {
		c.sendBad(bad)
	}
	if doc != nil {
		c.handle(doc)
	}
}

// handle starts the calls of one message. Only one that is about what follows it is waited for.
func (c *conn) handle(doc []byte) {
	if len(doc) > freeBuffer { // a user in debt has no large message looked at, on any of its connections
		c.pause(c.socket.work.charge(c.peer, 0))
	}
	// The calls run on after the buffer, of which doc is a part, is used for what follows.
	msg, bad := parseMessage(bytes.Clone(doc), c.server.Now().limits.MaxBatch)
	if bad != nil {
		c.sendBad(bad)
		c.owe(costOfRequest + time.Duration(len(doc))*costOfByte)
		return
	}
	release, err := c.server.admit(&c.client, msg)
	if err != nil {
		c.send(c.server.refuse(&c.client, msg, err))
		return
	}
	answer := func() {
		out := c.server.run(&c.client, msg)
		c.oweMessage(len(msg.requests), msg.size, &out)
		release() // before writing: a client that does not read holds up itself only
		c.send(out)
	}
	if c.socket.inOrder(msg) {
		answer()
		return
	}
	c.answer.Go(answer)
}

// sendBad answers what is no request.
func (c *conn) sendBad(bad *badMessage) {
	c.send(newOutput(false, answerTo(bad.id, nil, bad.reply())))
}

// send queues out and writes the queue, unless another call does so already. A client that does not
// take its answers, by size or by time, loses the connection.
func (c *conn) send(out output) {
	if len(out.line) == 0 {
		return
	}
	fits := c.server.holdAnswer(c, len(out.line))
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		c.dropHeld()
		return
	}
	if !fits {
		c.giveUpLocked("holds too many answers that the client does not read")
		return
	}
	c.out = append(c.out, out)
	c.pending += len(out.line)
	if !c.writing {
		c.writeLocked()
	}
}

// sendAside has another goroutine write line. Where the client is behind with its answers, line
// is dropped: a notification is never what a connection is lost for.
func (c *conn) sendAside(line []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead || c.pending+len(line) > min(busyOutput, c.server.Now().limits.MaxPendingOutput) || !c.hold(len(line)) {
		return
	}
	c.out = append(c.out, output{line: line})
	c.pending += len(line)
	if c.writing {
		return
	}
	c.writing = true     // already, so that no other is started
	c.answer.Go(func() { // is not the first: the call that this is about goes on
		c.mu.Lock()
		defer c.mu.Unlock()
		c.writeLocked()
	})
}

// writeLocked writes until nothing is left, without holding c.mu meanwhile.
func (c *conn) writeLocked() {
	c.writing = true
	for len(c.out) > 0 {
		outs, size := c.out, 0
		for i := range outs {
			size += len(outs[i].line)
		}
		c.out = nil
		c.mu.Unlock()
		err := c.write(outs)
		c.mu.Lock()
		c.pending -= size
		if c.dead { // given up meanwhile, with all that it held
			break
		}
		c.drop(size)
		if err != nil {
			c.giveUpLocked(err.Error())
		}
		c.drained.Broadcast()
	}
	c.writing = false
}

// write writes all of outs within the time that a client has to take it. Of signatures it writes only those that
// may still be released.
func (c *conn) write(outs []output) error {
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.server.Now().limits.WriteTimeout)); err != nil {
		return err
	}
	lines, done := c.server.release(outs, c.socket.admin, c.cut)
	defer done()
	if len(lines) == 1 {
		_, err := c.nc.Write(lines[0])
		return err
	}
	buffers := net.Buffers(lines)
	_, err := buffers.WriteTo(c.nc)
	return err
}

// giveUp ends a connection whose client does not read.
func (c *conn) giveUp(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.giveUpLocked(why)
}

// giveUpLocked ends a connection that can't be written to. Its reader, if it still waits, finds it closed.
func (c *conn) giveUpLocked(why string) {
	if c.dead {
		return
	}
	c.dead, c.out = true, nil
	c.dropHeld()
	c.server.often.log(slog.LevelInfo, "connection ended", "uid", c.peer.UID, "pid", c.peer.PID, "why", why)
	c.leave.Do(func() { close(c.gone) })
	c.nc.Close()
	c.drained.Broadcast()
}

// awaitOutput waits until the client has taken enough of its answers to be asked for more.
func (c *conn) awaitOutput() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.pending > busyOutput && !c.dead {
		c.drained.Wait()
	}
}

// end closes the connection and gives up its place.
func (c *conn) end() {
	c.ended.Do(func() {
		c.leave.Do(func() { close(c.gone) })
		c.nc.Close()
		c.dropHeld()
		c.atEnd()
	})
}
