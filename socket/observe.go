package socket

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Request is a request that is about to be answered, as [Config.Observe] is told of it.
type Request struct {
	Admin   bool   // it came over admin.sock
	Method  string // one of the socket's methods, or [OtherMethod]
	Signs   bool   // it asks for a signature
	UID     uint32
	Known   bool       // the user has a session, or is the operator on admin.sock
	Session session.ID // of the signature; "": there is none
	Verdict Verdict
	Reason  string        // the word that the client is answered with; "" if the verdict is OK
	Decode  time.Duration // reading the parameters of a request for a signature; 0: not that far
	Took    time.Duration // from the whole message until the answer
}

// OtherMethod stands for every method that a socket does not have.
const OtherMethod = "other"

// Verdict is what became of a request.
type Verdict string

const (
	OK        Verdict = "ok"
	Denied    Verdict = "denied"    // by the policy, a limit, the session's state, or as a stranger's
	Failed    Verdict = "failed"    // the agent could not: its lock, a device, the disk, a chain
	Malformed Verdict = "malformed" // the request was wrong
	Limited   Verdict = "limited"   // past a bound of [Limits], or too many wait for a device
)

// verdictOf classifies an answer by its code.
func verdictOf(refusal *api.Error) Verdict {
	if refusal == nil {
		return OK
	}
	switch refusal.Code {
	case api.CodeDenied, api.CodeUnauthorized:
		return Denied
	case api.CodeUnavailable:
		return Failed
	case api.CodeLimited:
		return Limited
	}
	return Malformed
}

// tell logs a request and tells Observe of it. err is why it was refused, refusal how it is answered; both are nil
// otherwise. c is nil if the request got to no method.
func (s *Server) tell(from *client, r *request, c *call, begun time.Time, err error, refusal *api.Error) {
	signs := from.socket.asksToSign(r.method)
	if signs {
		s.recent.add(time.Now(), time.Since(begun))
	}
	// what the agent could not do, logFailure tells
	refused := signs && refusal != nil && refusal.Code != api.CodeUnavailable
	debug := s.log.Enabled(s.base, slog.LevelDebug)
	if s.Observe == nil && !refused && !debug {
		return
	}
	seen := Request{
		Admin: from.socket.admin, Method: OtherMethod, Signs: signs, UID: from.peer.UID,
		Known:   from.socket.quota.known(from.peer),
		Verdict: verdictOf(refusal), Took: time.Since(begun),
	}
	number := session.RecordOf(err)
	if from.socket.methods[r.method] != nil || signs {
		seen.Method = r.method
	}
	if refusal != nil {
		seen.Reason = refusal.Details().Reason
	}
	if c != nil {
		seen.Decode = c.decoded
		if c.signed != nil {
			seen.Session, number = c.signed.Session.ID, c.signed.Record
		}
	}
	if s.Observe != nil {
		s.Observe(&seen)
	}
	switch {
	case refused:
		s.lines.log(slog.LevelInfo, "refused", &seen, from.peer.PID, number)
	case debug:
		s.lines.log(slog.LevelDebug, "request", &seen, from.peer.PID, number)
	}
}

// Lines in the log that clients cause with each request: so many a second, and so many that come together, of clients
// with a session, and half of that of all others.
const (
	linesPerSecond = 20
	linesBurst     = 200
)

// requestLog writes a line for a request, unless there are too many. A line has words of the agent's own and numbers
// only: nothing that a client wrote.
type requestLog struct {
	to      *slog.Logger
	classes [2]struct { // others, known
		limit   *rate.Limiter
		skipped atomic.Int64
	}
}

func newRequestLog(to *slog.Logger) *requestLog {
	l := &requestLog{to: to}
	for i := range l.classes {
		l.classes[i].limit = rate.NewLimiter(rate.Limit(linesPerSecond*(i+1)/2), linesBurst*(i+1)/2)
	}
	return l
}

// log writes a line, or counts it for the next one.
func (l *requestLog) log(level slog.Level, msg string, seen *Request, pid int32, record uint64) {
	class := &l.classes[0]
	if seen.Known {
		class = &l.classes[1]
	}
	if !class.limit.Allow() {
		class.skipped.Add(1)
		return
	}
	attrs := []slog.Attr{slog.String("method", seen.Method), slog.Uint64("uid", uint64(seen.UID)),
		slog.Int64("pid", int64(pid)),
		slog.String("verdict", string(seen.Verdict))}
	if seen.Reason != "" {
		attrs = append(attrs, slog.String("reason", seen.Reason))
	}
	if seen.Session != "" {
		attrs = append(attrs, slog.String("session", string(seen.Session)))
	}
	if record != 0 {
		attrs = append(attrs, slog.Uint64("record", record))
	}
	attrs = append(attrs, slog.Duration("took", seen.Took))
	if n := class.skipped.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("more_like_it_before", n))
	}
	l.to.LogAttrs(context.Background(), level, msg, attrs...)
}
