package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/keyward/keyward/socket/api"
)

// lostError is a connection that ended before the answer.
type lostError struct {
	cause error
	sent  bool // the request, or part of it, may have arrived
}

func (e *lostError) Error() string { return "connection to the agent ended: " + e.cause.Error() }
func (e *lostError) Unwrap() error { return e.cause }

// reply is a JSON-RPC answer, or a notification.
type reply struct {
	ID     json.RawMessage `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *api.Error      `json:"error"`
	Method string          `json:"method"` // "": an answer
	Params json.RawMessage `json:"params"`
}

// link is one connection. A goroutine reads answers until the connection ends.
type link struct {
	nc    net.Conn
	read  chan struct{} // closed when the agent's last answer was read
	write chan struct{} // holds one element while somebody writes
	waits waits

	first chan struct{} // holds one element while the first request is made
	asked bool          // for notifications; of who has first

	mu      sync.Mutex
	last    uint64                // id of the newest request
	waiting map[string]chan reply // by id; nil once the connection has ended
	asking  string                // id of the request for notifications; "": none was made
	cause   error                 // why it has ended: the first thing that was found
	refused bool                  // cause is what any request would have been told
}

// lastWords is how long an agent that takes no more requests is listened to: it said why before it hung up.
const lastWords = time.Second

func newLink(nc net.Conn) *link {
	l := &link{
		nc: nc, read: make(chan struct{}), write: make(chan struct{}, 1), first: make(chan struct{}, 1),
		waiting: make(map[string]chan reply),
	}
	go l.receive()
	return l
}

// receive hands answers to those who wait for them. When it can't, the connection is over.
func (l *link) receive() {
	defer close(l.read)
	dec := json.NewDecoder(l.nc)
	for {
		var r reply
		if err := dec.Decode(&r); err != nil {
			l.end(err)
			return
		}
		if r.Method == waitingMethod {
			l.take(r.Params)
			continue
		}
		l.mu.Lock()
		answer := l.waiting[string(r.ID)]
		delete(l.waiting, string(r.ID))
		asking := l.asking
		l.mu.Unlock()
		switch {
		case asking != "" && string(r.ID) == asking && r.Error != nil && r.Error.Code != api.CodeNoMethod:
			l.refuse(r.Error)
			return
		case answer != nil:
			answer <- r
		case r.Error != nil && string(r.ID) == "null":
			l.end(r.Error) // about something that the agent could not read: nobody knows what
			return
		}
	}
}

// refuse ends it with what any request would be told: the connection may take no other.
func (l *link) refuse(answer *api.Error) {
	l.mu.Lock()
	l.refused = l.cause == nil
	l.mu.Unlock()
	l.end(answer)
}

// end fails everybody who waits.
func (l *link) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cause == nil { // before Close, which others find out as well
		l.cause = cause
	}
	l.nc.Close()
	for _, answer := range l.waiting {
		close(answer)
	}
	l.waiting = nil
}

// dead reports whether the connection has ended.
func (l *link) dead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting == nil
}

// call sends a request and waits for its answer.
func (l *link) call(ctx context.Context, method string, params json.RawMessage) (*reply, error) {
	id, answer, err := l.expect()
	if err != nil {
		return nil, err
	}
	defer l.forget(id)
	if err := l.send(ctx, id, method, params); err != nil {
		return nil, err
	}
	select {
	case r, ok := <-answer:
		if !ok {
			return nil, l.lost(true)
		}
		return &r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// expect gives a request its id.
func (l *link) expect() (id string, answer chan reply, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.waiting == nil {
		return "", nil, l.lostLocked(false)
	}
	l.last++
	id = strconv.FormatUint(l.last, 10)
	answer = make(chan reply, 1)
	l.waiting[id] = answer
	return id, answer, nil
}

// expects reports whether a request waits for its answer.
func (l *link) expects(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting[id] != nil
}

// forget stops waiting for an answer.
func (l *link) forget(id string) {
	l.mu.Lock()
	delete(l.waiting, id)
	l.mu.Unlock()
	l.waits.set(id, "")
}

// send writes one request, as long as ctx lets it. Cut off in the middle it makes the connection useless, so
// every failure ends that.
func (l *link) send(ctx context.Context, id, method string, params json.RawMessage) error {
	name, err := json.Marshal(method)
	if err != nil {
		return err
	}
	request := fmt.Appendf(nil, `{"jsonrpc":"2.0","id":%s,"method":%s,"params":%s}`+"\n", id, name, params)
	defer clear(request)
	if err := take(ctx, l.write); err != nil {
		return err
	}
	defer func() { <-l.write }()
	if err := ctx.Err(); err != nil { // nothing was sent, and others use the connection
		return err
	}
	deadline, _ := ctx.Deadline() // the zero time is none
	if err := l.nc.SetWriteDeadline(deadline); err != nil {
		l.end(err)
		return l.lost(false)
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(cut)
		_ = l.nc.SetWriteDeadline(time.Unix(1, 0))
	})
	defer func() {
		if !stop() {
			<-cut // or it would cut the next request
		}
	}()
	n, err := l.nc.Write(request)
	if err == nil {
		return nil
	}
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		<-ctx.Done()     // which alone sets a deadline, if a moment later
		return ctx.Err() // nothing was sent, and others use the connection
	}
	if ctx.Err() == nil {
		_ = l.nc.SetReadDeadline(time.Now().Add(lastWords))
		select {
		case <-l.read:
		case <-ctx.Done():
		}
	}
	l.end(err)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return l.lost(n > 0)
}

// take takes what only one may have, unless ctx is done first.
func take(ctx context.Context, one chan struct{}) error {
	select {
	case one <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lost is the error of a call whose connection has ended.
func (l *link) lost(sent bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostLocked(sent)
}

// lostLocked is lost while l.mu is held.
func (l *link) lostLocked(sent bool) error {
	// What the agent said of a request that it could not read is no answer to one that it never got.
	if reply := new(api.Error); (sent || l.refused) && errors.As(l.cause, &reply) {
		return reply
	}
	return &lostError{cause: l.cause, sent: sent}
}
