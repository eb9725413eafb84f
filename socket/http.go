package socket

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/keyward/keyward/socket/api"
)

// httpPatience is how long a client may take for a request's header.
const httpPatience = 10 * time.Second

// httpConn is a connection whose first bytes were read to see what it speaks.
type httpConn struct {
	*net.UnixConn
	conn   *conn
	unread []byte
}

func (c *httpConn) Read(p []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	return c.UnixConn.Read(p)
}

// Close also gives up the connection's place.
func (c *httpConn) Close() error { c.conn.end(); return nil }

// webServer speaks HTTP/1.1 on connections that the sockets hand to it.
type webServer struct {
	server *Server
	http   http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// clientKey is the context key of the [conn] of an HTTP connection.
type clientKey struct{}

func newWebServer(s *Server) *webServer {
	w := &webServer{server: s, conns: make(chan net.Conn), closed: make(chan struct{})}
	w.http = http.Server{
		Handler:           w,
		ReadHeaderTimeout: httpPatience,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c.(*httpConn).conn)
		},
	}
	return w
}

// serve hands a connection over.
func (w *webServer) serve(c *httpConn) {
	select {
	case w.conns <- c:
	case <-w.closed:
		c.Close()
	}
}

// Accept, Close and Addr make a net.Listener of the handed-over connections.
func (w *webServer) Accept() (net.Conn, error) {
	select {
	case c := <-w.conns:
		return c, nil
	case <-w.closed:
		return nil, net.ErrClosed
	}
}

func (w *webServer) Close() error   { w.once.Do(func() { close(w.closed) }); return nil }
func (w *webServer) Addr() net.Addr { return &net.UnixAddr{Net: "unix"} }

// ServeHTTP answers one POST, on any path and with any content type: curl -d sends a form's.
// The status is 200 for every JSON-RPC answer, also an error: clients look into the body.
func (w *webServer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(clientKey{}).(*conn)
	if c.last {
		rw.Header().Set("Connection", "close")
	}
	switch {
	case r.Header["Origin"] != nil: // also an empty one, or one of several
		// A web page, by way of a proxy that somebody put before the socket: it would sign as that somebody.
		refuseHTTP(rw, http.StatusForbidden, "requests from web pages (Origin header) are refused")
	case r.Method != http.MethodPost:
		rw.Header().Set("Allow", http.MethodPost)
		refuseHTTP(rw, http.StatusMethodNotAllowed, "send JSON-RPC 2.0 as the body of a POST request")
	default:
		w.answer(rw, r, c)
	}
}

// answer runs the message in the body.
func (w *webServer) answer(rw http.ResponseWriter, r *http.Request, c *conn) {
	from := &c.client
	c.settle()
	size := w.server.Now().limits.MaxMessage
	if r.ContentLength >= 0 {
		size = int(min(r.ContentLength, int64(size)))
	}
	if size > freeBuffer {
		if !from.socket.quota.take(from.peer, bytesInFlight, size) {
			writeHTTP(rw, http.StatusOK, encodeAnswers(false, answerTo(nil, nil, replyTo(errMemory, false))))
			return
		}
		defer from.socket.quota.give(from.peer, bytesInFlight, size)
	}
	msg, bad := w.readBody(rw, r, c)
	if bad != nil {
		c.owe(costOfRequest)
		writeHTTP(rw, http.StatusOK, encodeAnswers(false, answerTo(bad.id, nil, bad.reply())))
		return
	}
	release, err := w.server.admit(from, msg)
	if err != nil {
		writeHTTP(rw, http.StatusOK, w.server.refuse(from, msg, err).line)
		return
	}
	out := w.server.run(from, msg)
	c.oweMessage(len(msg.requests), msg.size, &out)
	release()
	if !w.server.holdAnswer(c, len(out.line)) {
		c.giveUp("holds too many answers that the client does not read")
		panic(http.ErrAbortHandler)
	}
	defer c.dropHeld()
	rc := http.NewResponseController(rw)
	if err := rc.SetWriteDeadline(time.Now().Add(w.server.Now().limits.WriteTimeout)); err != nil {
		w.server.log.Debug("write deadline", "error", err)
	}
	lines, done := w.server.release([]output{out}, from.socket.admin, from.cut)
	defer done()
	writeHTTP(rw, http.StatusOK, lines[0])
	// The answer has left only when the response writer's buffer is flushed.
	if err := rc.Flush(); err != nil {
		w.server.log.Debug("writing an answer over HTTP", "error", err)
	}
}

// readBody reads the one message of a request, with the bounds that a stream has.
func (w *webServer) readBody(rw http.ResponseWriter, r *http.Request, c *conn) (*message, *badMessage) {
	limits := &w.server.Now().limits
	body := &patientBody{from: http.MaxBytesReader(rw, r.Body, int64(limits.MaxMessage)),
		rc: http.NewResponseController(rw), limits: limits, began: time.Now()}
	text, err := io.ReadAll(body)
	if !c.socket.work.known(c.peer) {
		c.owe(time.Duration(len(text)) * costOfByte)
	}
	if long := new(http.MaxBytesError); errors.As(err, &long) {
		return nil, tooLarge(limits.MaxMessage, text)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		rw.Header().Set("Connection", "close") // the rest can't be told from the next request
		return nil, unfinished(time.Since(body.began))
	}
	if err == nil {
		err = body.rc.SetReadDeadline(time.Time{}) // the call may take longer
	}
	if err != nil {
		return nil, &badMessage{code: api.CodeInvalidRequest, msg: "reading the body: " + err.Error()}
	}
	if len(text) > freeBuffer {
		c.pause(c.socket.work.charge(c.peer, 0))
	}
	doc, bad := onlyDocument(text, limits.MaxMessage, limits.MaxDepth)
	if bad != nil {
		return nil, bad
	}
	return parseMessage(doc, limits.MaxBatch)
}

// patientBody gives a client as long for a body as for a message in a stream.
type patientBody struct {
	from   io.Reader
	rc     *http.ResponseController
	limits *Limits
	began  time.Time
	size   int
}

func (b *patientBody) Read(p []byte) (int, error) {
	if err := b.rc.SetReadDeadline(b.began.Add(b.limits.patienceFor(b.size))); err != nil {
		return 0, err
	}
	n, err := b.from.Read(p)
	b.size += n
	return n, err
}

// refuseHTTP answers a request that is not JSON-RPC, in JSON.
func refuseHTTP(rw http.ResponseWriter, status int, why string) {
	bad := badMessage{code: api.CodeInvalidRequest, msg: why}
	writeHTTP(rw, status, encodeAnswers(false, answerTo(nil, nil, bad.reply())))
}

// writeHTTP sends the answer, or for notifications only none. If the client is gone nobody is left to tell.
func writeHTTP(rw http.ResponseWriter, status int, line []byte) {
	if len(line) == 0 {
		rw.WriteHeader(http.StatusNoContent)
		return
	}
	rw.Header().Set("Content-Type", "application/json")
	rw.Header().Set("Content-Length", strconv.Itoa(len(line)))
	rw.WriteHeader(status)
	_, _ = rw.Write(line)
}
