package socket

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// admit takes what the message needs of the limits. What it returns gives it back.
func (s *Server) admit(from *client, msg *message) (release func(), err error) {
	n, q, peer := len(msg.requests), from.socket.quota, from.peer
	size := msg.size
	if size <= freeBuffer { // small ones are bounded by their number, and never wait for large ones
		size = 0
	}
	if from.calls.Add(int64(n)) > int64(s.Now().limits.MaxInFlightPerConn) {
		from.calls.Add(-int64(n))
		return nil, errBusy
	}
	if !q.take(peer, callsInFlight, n) {
		from.calls.Add(-int64(n))
		return nil, errBusy
	}
	if !q.take(peer, bytesInFlight, size) {
		from.calls.Add(-int64(n))
		q.give(peer, callsInFlight, n)
		return nil, errMemory
	}
	return func() {
		from.calls.Add(-int64(n))
		q.give(peer, callsInFlight, n)
		q.give(peer, bytesInFlight, size)
	}, nil
}

// refuse answers every request of a message with err.
func (s *Server) refuse(from *client, msg *message, err error) output {
	s = s.enter()
	defer s.users.Leave()
	var answers []answer
	for i := range msg.requests {
		if r := &msg.requests[i]; r.bad != nil || r.id != nil {
			refusal := s.recordNotGranted(from, r, err, replyTo(err, from.socket.admin))
			s.tell(from, r, nil, time.Now(), err, refusal)
			answers = append(answers, answerTo(r.id, nil, refusal))
		}
	}
	return newOutput(msg.batch, answers...)
}

// run makes the calls of a message, all at once, and returns the line to answer with. Calls do not
// end when the client goes away: what was signed is charged, and the same digest asked
// for again costs nothing more.
func (s *Server) run(from *client, msg *message) output {
	if !msg.batch {
		if reply := s.answer(from, &msg.requests[0]); reply != nil {
			return newOutput(false, *reply)
		}
		return newOutput(false)
	}
	replies := make([]*answer, len(msg.requests))
	var calls sync.WaitGroup
	for i := range msg.requests {
		calls.Go(func() { replies[i] = s.answer(from, &msg.requests[i]) })
	}
	calls.Wait()
	var answers []answer
	for _, r := range replies {
		if r != nil {
			answers = append(answers, *r)
		}
	}
	return newOutput(true, answers...)
}

// answer makes one call. A notification has no answer (JSON-RPC 2.0, section 4.1), so
// there is no way to hand over a signature or a refusal, and nothing is done: nil.
func (s *Server) answer(from *client, r *request) *answer {
	begun := time.Now()
	s = s.enter()
	defer s.users.Leave()
	if r.bad != nil {
		refusal := s.recordNotGranted(from, r, errMalformed, r.bad.reply())
		s.tell(from, r, nil, begun, errMalformed, refusal)
		reply := answerTo(r.bad.id, nil, refusal)
		return &reply
	}
	if r.id == nil {
		return nil
	}
	result, c, err := s.call(from, r)
	if err == nil {
		s.tell(from, r, c, begun, nil, nil)
		reply := answerTo(r.id, result, nil)
		reply.pass = c.pass
		return &reply
	}
	refusal := replyTo(err, from.socket.admin)
	if c == nil || c.pass == nil {
		refusal = s.recordNotGranted(from, r, err, refusal)
	}
	logFailure(s.often, from.peer, r.method, err, refusal)
	s.tell(from, r, c, begun, err, refusal)
	reply := answerTo(r.id, nil, refusal)
	return &reply
}

// call finds the method and calls it, if there is nothing against that. c is what was called, nil if the request did
// not get that far.
func (s *Server) call(from *client, r *request) (result json.RawMessage, c *call, err error) {
	if from.refuse != nil {
		return nil, nil, from.refuse
	}
	if !s.calls.Enter() {
		return nil, nil, errRestarting
	}
	defer s.calls.Leave()
	method, err := from.socket.find(r.method)
	if err != nil {
		return nil, nil, err
	}
	c = &call{peer: from.peer, socket: from.socket, from: from, method: method, params: r.params, begun: time.Now()}
	if err := c.checkParams(); err != nil {
		return nil, c, err
	}
	if method.signs {
		if !s.signing.Enter() {
			return nil, c, session.ErrLocked
		}
		defer s.signing.Leave()
	}
	result, err = s.do(from.tellWaiting(s.base, r.id), c)
	return result, c, err
}

// do runs the method within the time that a call has, and encodes its result.
func (s *Server) do(ctx context.Context, c *call) (result json.RawMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.RequestTimeout)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("panic in a method", "method", c.method.Name, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: panic in %s", errInternal, c.method.Name)
		}
	}()
	value, err := c.method.do(s, ctx, c)
	if err != nil {
		return nil, err
	}
	return encodeResult(value)
}

// recordNotGranted sees to it that a request for a signature that was not granted is in the audit trail. It
// returns what to answer: refusal, unless the trail can't be written.
func (s *Server) recordNotGranted(from *client, r *request, err error, refusal *api.Error) *api.Error {
	if s.Signer == nil || !from.socket.asksToSign(r.method) { // a server without one signs nothing
		return refusal
	}
	if err := s.Signer.NotGranted(s.base, from.peer, r.method, refusal.Details().Reason, err); err != nil {
		return replyTo(err, from.socket.admin)
	}
	return refusal
}

// asksToSign reports whether the method of that name asks for a signature, be there such a method here or not.
func (e *endpoint) asksToSign(name string) bool {
	if m := e.methods[name]; m != nil {
		return m.signs
	}
	return !e.admin && slices.ContainsFunc(refusedMethods, func(m refusedMethod) bool { return m.Name == name && m.signs })
}

// find returns the method of that name on this socket.
func (e *endpoint) find(name string) (*Method, error) {
	if m := e.methods[name]; m != nil {
		return m, nil
	}
	if e.admin {
		return nil, &unknownMethod{name}
	}
	for _, m := range refusedMethods {
		if m.Name == name {
			return nil, &unsupported{m.Name, m.Why}
		}
	}
	return nil, &unknownMethod{name}
}

// inOrder reports whether msg is to be done before what follows on its connection is looked at.
func (e *endpoint) inOrder(msg *message) bool {
	m := e.methods[msg.requests[0].method]
	return !msg.batch && m != nil && m.inOrder
}
