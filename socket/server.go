// Package socket serves the agent's two Unix sockets: agent.sock to apps and
// admin.sock to the operator. It finds out who asks, reads JSON-RPC 2.0 from a stream
// or from HTTP, bounds what clients may take, and turns errors into replies.
// It decides nothing about signing: that is package session's.
//
// Both sockets speak both framings, told apart by the first byte of a connection. Whatever
// a client does, it gets an answer to each request, on its own connection, and
// the other connections go on.
package socket

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/keyward/keyward/audit"
	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/policy"
	"github.com/keyward/keyward/session"
	"github.com/keyward/keyward/socket/api"
)

// Config is what a [Server] serves.
type Config struct {
	Signer   *session.Signer
	Backends map[string]Backend // by name in the configuration
	Chains   map[string]Chain   // by name in the configuration
	// Reload puts the configuration into effect as it is on disk now. It runs within a request, so it must not wait for
	// those that are being worked on.
	Reload  func(ctx context.Context) (*api.Reloaded, error)
	Version string
	Started time.Time

	Confined []string // protections of this process that are on, for status

	Logger *slog.Logger // nil: nothing is logged
	// Observe is told of each request before it is answered; nil: nobody is. It must not block or keep the request, and is
	// called concurrently.
	Observe func(*Request)
	Limits  Limits // zero: the defaults
}

// Backend is a backend and its type in the configuration, e.g. "pkcs11".
type Backend struct {
	backends.Backend
	Type       string
	Protection backends.Protection // of the keys that it makes
}

// Chain is what admin_createSession needs to know of a chain.
type Chain struct {
	ID        uint64
	Validator policy.Address // zero: no agw sessions on this chain
}

// Server serves the two sockets with one configuration. Make it with [New]; [Server.Renew] replaces the configuration.
// A request is handled by the Server that was current when it began.
type Server struct {
	Config
	limits Limits // with defaults
	users  gate   // requests that this configuration is for; closed once another has replaced it
	*serving
}

// serving is what the configurations of a server have in common.
type serving struct {
	current atomic.Pointer[Server] // what the next request is handled by

	log    *slog.Logger
	often  *oftenLog   // for what clients can cause
	lines  *requestLog // for each request
	recent recent      // requests for a signature
	agent  *endpoint
	admin  *endpoint
	voters *endpoint // approve.sock
	web    *webServer
	owner  uint32 // who may use admin.sock, besides root: the agent's own user

	base   context.Context // of every call
	cancel context.CancelFunc

	calls   gate // closed while the server shuts down
	signing gate // closed while the operator has locked the agent: tells when the last signature is out

	refusedSlots chan struct{} // one for each connection beyond the bound that is being answered
	accepting    sync.WaitGroup
	readers      sync.WaitGroup // only accepting goroutines add to it

	lockMu sync.Mutex // held by Lock until its log-out has begun
	logout *logout    // of the last lock; nil: there was none

	ending      chan struct{} // closed with inputClosed
	mu          sync.Mutex
	closing     bool // no more connections
	inputClosed bool // nothing more is read from them
	listeners   []net.Listener
	conns       map[*conn]struct{}
	approve     net.Listener // see ServeVoters
}

// endpoint is one of the two sockets: its methods and what its clients hold.
type endpoint struct {
	admin   bool
	list    []Method
	methods map[string]*Method // list by name
	quota   *quota
	work    *work
}

// New makes a server. Nothing is served before [Server.Serve].
func New(cfg Config) *Server {
	limits := cfg.Limits.withDefaults()
	configured := limits.MaxConnections
	fewer := limits.fitFiles(openFiles())
	s := &Server{Config: cfg, limits: limits, serving: &serving{
		log:          cfg.Logger,
		owner:        uint32(os.Geteuid()),
		refusedSlots: make(chan struct{}, limits.maxRefusedConns),
		conns:        make(map[*conn]struct{}),
		ending:       make(chan struct{}),
	}}
	s.current.Store(s)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if fewer {
		s.log.Warn("fewer connections than configured: the limit on open files is too low (ulimit -n, LimitNOFILE=)",
			"connections", limits.MaxConnections, "configured", configured)
	}
	s.often, s.lines = newOftenLog(s.log), newRequestLog(s.log)
	s.agent = newEndpoint(false, agentMethods(), limits, s.hasSession)
	if fewer {
		limits.MaxConnections = adminConnections
	}
	s.admin = newEndpoint(true, append(adminMethods(), rpcMethods()...), limits, s.operator)
	s.voters = newEndpoint(false, append(approveMethods(), rpcMethods()...), limits, s.mayVote)
	if s.Signer != nil && s.Signer.Locked() { // before the agent was started
		s.signing.Shut()
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	s.web = newWebServer(s)
	return s
}

func newEndpoint(admin bool, methods []Method, limits Limits, known func(audit.Peer) bool) *endpoint {
	return &endpoint{admin: admin, list: methods, methods: methodTable(methods), quota: newQuota(limits, known),
		work: newWork(known)}
}

// hasSession reports whether peer is a client of a session.
func (s *Server) hasSession(peer audit.Peer) bool {
	// without a Signer there are no sessions to be told apart by
	return s.Signer == nil || s.Signer.Sessions.HasSession(peer)
}

// Serve serves the sockets until [Server.Shutdown], which is nil here, or until a socket fails. When
// ctx is done, everything is cut short. A nil listener is not served. Serve closes the listeners.
func (s *Server) Serve(ctx context.Context, agent, admin net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Shutdown(ctx) })
	defer stop()
	failed := make(chan error, 4)
	s.start(agent, s.agent, failed)
	s.start(admin, s.admin, failed)
	s.start(s.approve, s.voters, failed)
	var web sync.WaitGroup
	web.Go(func() { failed <- ignoreClosed(s.web.http.Serve(s.web)) })
	err := <-failed
	if err != nil {
		s.cancel()
		_ = s.Shutdown(s.base) // cut short; the error that led to it is the one to tell
	}
	web.Wait()
	s.accepting.Wait()
	s.readers.Wait()
	return err
}

// start begins to accept connections, unless Shutdown came first.
func (s *Server) start(l net.Listener, e *endpoint, failed chan<- error) {
	if l == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		l.Close()
		return
	}
	s.listeners = append(s.listeners, l)
	s.accepting.Go(func() { failed <- s.accept(l, e) })
}

// ignoreClosed returns nil for what a listener answers after it was closed on purpose.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// accept takes connections until the listener is closed. Running out of file descriptors does
// not end it: connections that are closed make room.
func (s *Server) accept(l net.Listener, e *endpoint) error {
	const pause = 50 * time.Millisecond
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			// Whether there is a place is found out before the next is accepted: a crowd takes no more descriptors than that.
			if c := s.admitConn(nc.(*net.UnixConn), e); c != nil {
				s.readers.Go(c.serve)
			}
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
			errors.Is(err, syscall.ENOMEM):
			s.often.log(slog.LevelWarn, "can't accept a connection", "error", err)
			select {
			case <-time.After(pause):
			case <-s.base.Done():
			}
		default:
			return err
		}
	}
}

// admitConn finds out who connected and gives the connection a place. Nil: there is none, and it is closed.
func (s *Server) admitConn(nc *net.UnixConn, e *endpoint) *conn {
	peer, err := peerOf(nc)
	if err != nil {
		s.often.log(slog.LevelError, "connection closed: the kernel does not say who it is", "error", err)
		nc.Close()
		return nil
	}
	c := newConn(s, e, nc, peer)
	if e.admin && !s.operator(peer) {
		s.often.log(slog.LevelWarn, "a stranger on admin.sock", "uid", peer.UID, "pid", peer.PID, "exe", peer.Exe)
		c.refuse = errNotOperator
	}
	if e == s.voters && !s.Now().mayVote(peer) {
		s.often.log(slog.LevelWarn, "a stranger on approve.sock", "uid", peer.UID, "pid", peer.PID, "exe", peer.Exe)
		c.refuse = session.ErrNotVoter
	}
	if !s.register(c) {
		nc.Close()
		return nil
	}
	return c
}

// operator reports whether peer may use admin.sock: the agent's own user and root, whatever the
// mode of the file lets in.
func (s *Server) operator(peer audit.Peer) bool { return peer.UID == s.owner || peer.UID == 0 }

// register gives the connection a place. One beyond the bound gets a place to be refused in; beyond
// the bound of those too, and while the server ends, there is none.
func (s *Server) register(c *conn) bool {
	release := func() { c.socket.quota.give(c.peer, connections, 1) }
	if !c.socket.quota.take(c.peer, connections, 1) {
		select {
		case s.refusedSlots <- struct{}{}:
		default:
			return false
		}
		c.refuse, c.last = errConnections, true
		_ = c.nc.SetReadDeadline(time.Now().Add(s.Now().limits.refusedConnectionFor))
		release = func() { <-s.refusedSlots }
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inputClosed { // accepted just before: it still gets answers to what it has sent
		_ = c.nc.CloseRead()
	}
	s.conns[c] = struct{}{}
	c.atEnd = func() {
		release()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}
	return true
}

// Shutdown ends serving in order: no new connections; what is in flight is finished, and requests that
// arrive meanwhile are told that the agent restarts; then the input of every connection is closed,
// what was sent before is answered, and the connections end. Every request that was
// read gets its answer. When ctx is done first, calls are cancelled and connections cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopAccepting()
	if s.Signer != nil {
		s.Signer.Sessions.StopApprovals()
	}
	err := s.calls.Close(ctx)
	for _, c := range s.closeInput() {
		_ = c.nc.CloseRead() // the reader gets what the kernel has, then the end of input
	}
	done := make(chan struct{})
	go func() { s.readers.Wait(); close(done) }()
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if webErr := s.web.http.Shutdown(ctx); err == nil {
		err = webErr
	}
	s.cancel()
	for _, c := range s.connections() {
		c.end()
	}
	<-done
	return err
}

// stopAccepting closes the listeners and waits until none gives a connection any more.
func (s *Server) stopAccepting() {
	s.mu.Lock()
	s.closing = true
	for _, l := range s.listeners {
		l.Close()
	}
	s.listeners = nil
	s.mu.Unlock()
	s.accepting.Wait()
}

// closeInput has connections that are not registered yet read no further, and returns the others.
func (s *Server) closeInput() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.inputClosed {
		s.inputClosed = true
		close(s.ending)
	}
	return slices.Collect(maps.Keys(s.conns))
}

// connections returns the live connections.
func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.conns))
}
