package isolated

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"github.com/keyward/keyward/backends"
)

// conn is one side of the socket pair: it makes calls and answers those of the other side, many
// at a time. It ends at the first error, and then answers nothing.
type conn struct {
	nc     net.Conn
	handle func(ctx context.Context, f *frame) ([]byte, error) // answers a call, in a goroutine of its own
	notice func(f *frame)                                      // in the order they came; must not block
	// answered, if not nil, is called after each answer that was sent.
	answered func()
	// unread is how many bytes may wait for the other side to read them; 0 means maxUnread.
	unread int

	out  outbox
	done chan struct{} // closed at the end

	mu      sync.Mutex // never held across a read, a write or a call
	err     error      // why it ended; nil before
	ending  error      // why it takes no more calls; nil: it does
	last    uint64     // id of the newest call
	calls   map[uint64]*pending
	serving map[uint64]context.CancelFunc
	wg      sync.WaitGroup // of what handle answers
}

// pending is a call that was not answered yet.
type pending struct {
	answer chan *frame // holds one
	hung   *time.Timer // ends the conn; nil: never
}

const (
	answerTime = 20 * time.Millisecond // that a child has less for a signature than its parent
	maxServing = 4096                  // calls of the other side at a time
)

// start serves nc, which it owns from now on. The handlers must be set.
func (c *conn) start(nc net.Conn) {
	c.nc = nc
	c.done = make(chan struct{})
	c.calls, c.serving = map[uint64]*pending{}, map[uint64]context.CancelFunc{}
	go c.read()
}

// fail ends the conn, if it has not ended. err is what all calls get that are not answered.
func (c *conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.done)
	_ = c.nc.Close()
	for _, p := range c.calls {
		if p.hung != nil {
			p.hung.Stop()
		}
	}
	for _, cancel := range c.serving {
		cancel()
	}
}

// drain ends the conn with err when the calls that were made are answered, or when limit is over. Until then it takes
// no more calls.
func (c *conn) drain(err error, limit time.Duration) {
	c.mu.Lock()
	if c.ending == nil {
		c.ending = err
	}
	idle := len(c.calls) == 0
	c.mu.Unlock()
	if idle {
		c.fail(err)
		return
	}
	time.AfterFunc(limit, func() { c.fail(err) })
}

// open reports whether the conn takes calls.
func (c *conn) open() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && c.ending == nil
}

// reason is why the conn ended.
func (c *conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// call makes one call. body is wiped. Its error is a [backends.ErrNotSigned] if the other side can't have got the whole
// call, or says so. If no answer comes until grace after ctx's deadline, the other side hangs and the conn ends.
func (c *conn) call(ctx context.Context, o op, body []byte, grace time.Duration) ([]byte, error) {
	return c.callOrLate(ctx, o, body, grace, func() {})
}

// callOrLate is call, which calls late if it returned because ctx was done and a result came after all.
func (c *conn) callOrLate(ctx context.Context, o op, body []byte, grace time.Duration, late func()) ([]byte, error) {
	f := &frame{kind: kindCall, op: o, body: body}
	p := &pending{answer: make(chan *frame, 1)}
	deadline, limited := ctx.Deadline()
	if limited {
		f.left = max(time.Until(deadline), 1)
	}
	if o == opSign { // so that the child can still say that it sent nothing to the device
		f.left = max(f.left-answerTime, min(f.left, 1))
	}
	c.mu.Lock()
	if err := cmp.Or(c.err, c.ending); err != nil {
		c.mu.Unlock()
		clear(body)
		return nil, backends.NotSigned(err)
	}
	c.last++
	f.id = c.last
	c.calls[f.id] = p
	if limited {
		p.hung = time.AfterFunc(f.left+grace, func() {
			c.fail(fmt.Errorf("it did not answer within %v", (f.left + grace).Round(time.Millisecond)))
		})
	}
	c.mu.Unlock()
	end, err := c.send(f)
	if err != nil {
		c.forget(f.id) // it was never asked
		return nil, backends.NotSigned(err)
	}
	select {
	case a := <-p.answer:
		if a.kind == kindFailure {
			return nil, decodeError(a.body)
		}
		return a.body, nil
	case <-c.done:
		err := c.reason() // nothing is written after that
		if !c.out.whole(end) {
			err = backends.NotSigned(err)
		}
		return nil, err
	case <-ctx.Done():
		go c.giveUp(f.id, p, late)
		return nil, context.Cause(ctx)
	}
}

// giveUp tells the other side that nobody waits for p's answer, and wipes it when it comes. Until
// then the call is watched.
func (c *conn) giveUp(id uint64, p *pending, late func()) {
	_, _ = c.send(&frame{kind: kindCancel, id: id})
	select {
	case a := <-p.answer:
		clear(a.body)
		if a.kind == kindResult {
			late()
		}
	case <-c.done:
	}
}

// forget ends the watch over a call, and returns it; nil if there is none.
func (c *conn) forget(id uint64) *pending {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.calls[id]
	delete(c.calls, id)
	if p != nil && p.hung != nil {
		p.hung.Stop()
	}
	return p
}

// note sends a notice. It is lost if the conn has ended.
func (c *conn) note(o op, body []byte) {
	_, _ = c.send(&frame{kind: kindNotice, op: o, body: body})
}

// read takes in what the other side sends.
func (c *conn) read() {
	in := &inbox{from: c.nc}
	for {
		f, err := in.next()
		if err != nil {
			c.fail(fmt.Errorf("reading: %w", err))
			return
		}
		if err := c.take(f); err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *conn) take(f *frame) error {
	switch f.kind {
	case kindNotice:
		c.notice(f)
	case kindCall:
		return c.serve(f)
	case kindCancel:
		c.mu.Lock()
		defer c.mu.Unlock()
		if cancel := c.serving[f.id]; cancel != nil {
			cancel()
		}
	default:
		p := c.forget(f.id)
		if p == nil {
			clear(f.body)
			return fmt.Errorf("%w: an answer to call %d, which is not waiting", errMalformed, f.id)
		}
		p.answer <- f
		return c.drained()
	}
	return nil
}

// drained returns why the conn ends now, if all calls are answered and it takes no more.
func (c *conn) drained() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.calls) > 0 {
		return nil
	}
	return c.ending
}

// serve answers a call in a goroutine.
func (c *conn) serve(f *frame) error {
	left := f.left
	if left == 0 {
		left = math.MaxInt64
	}
	ctx, cancel := context.WithTimeout(context.Background(), left)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.serving[f.id] != nil || len(c.serving) == maxServing {
		cancel()
		return errors.Join(c.err, fmt.Errorf("%w: call %d, with %d under way", errMalformed, f.id, len(c.serving)))
	}
	c.serving[f.id] = cancel
	c.wg.Go(func() {
		defer cancel()
		body, err := c.handle(ctx, f)
		clear(f.body)
		a := &frame{kind: kindResult, id: f.id, body: body}
		if frameHeader+len(body) > maxFrame {
			err = fmt.Errorf("the answer has %d bytes, which is too long", len(body))
		}
		if err != nil {
			a.kind, a.body = kindFailure, marshal(newWireError(err))
		}
		c.mu.Lock()
		delete(c.serving, f.id)
		c.mu.Unlock()
		if _, err := c.send(a); err == nil && c.answered != nil {
			c.answered()
		}
	})
	return nil
}
