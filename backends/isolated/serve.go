package isolated

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ethereum/go-ethereum/crypto"

	"github.com/keyward/keyward/backends"
	"github.com/keyward/keyward/internal/confine"
	"github.com/keyward/keyward/internal/secret"
)

// Opener opens a backend in the child. settings are the parent's [Config.Settings], to be
// decoded with [Decode].
type Opener func(ctx context.Context, name string, settings json.RawMessage, env *Env) (backends.Backend, error)

// Env is what the child gives the backend that it serves.
type Env struct {
	PINs      secret.PINs         // the parent's; nil if it has none
	AdminPINs secret.PINs         // likewise
	Logger    *slog.Logger        // to the parent's log
	Waiting   func(what string)   // tells the parent for what person the device waits; "": not any more
	Retire    func(reason string) // asks the parent to end this process, once the call under way is answered
	Hung      func(reason string) // has the parent end this process: something in it does not return
}

// Decode decodes settings strictly.
func Decode(settings json.RawMessage, v any) error { return unmarshal(settings, v) }

// server is the child's side.
type server struct {
	conn    *conn
	openers map[string]Opener
	retired atomic.Pointer[string] // why; nil: it is not
	tries   atomic.Uint64          // number of the last

	mu      sync.Mutex
	opening bool
	backend backends.Backend // nil: not opened
	keys    map[string]backends.Key
}

// Serve serves the backend that the parent names, over file 3, until the parent goes. It is the
// child process's whole life: nothing of it is to be used afterwards.
//
// Signals that a terminal or systemd sends to parent and child alike are left to the parent.
func Serve(openers map[string]Opener) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	f := os.NewFile(3, "parent")
	nc, err := net.FileConn(f)
	if err != nil {
		return fmt.Errorf("this is a command that the agent gives itself: %w", err)
	}
	_ = f.Close()
	s := &server{conn: new(conn), openers: openers, keys: map[string]backends.Key{}}
	s.conn.handle, s.conn.answered = s.handle, s.retire
	s.conn.notice = func(f *frame) { s.conn.fail(fmt.Errorf("%w: notice %d", errMalformed, f.op)) }
	s.conn.start(nc)
	<-s.conn.done // also when a call hangs: the process ends with its threads
	return nil
}

// handle answers one call of the parent.
func (s *server) handle(ctx context.Context, f *frame) ([]byte, error) {
	if f.op == opOpen {
		return s.open(ctx, f.body)
	}
	s.mu.Lock()
	b := s.backend
	s.mu.Unlock()
	if b == nil {
		return nil, fmt.Errorf("%w: op %d before open", errMalformed, f.op)
	}
	if f.op == opSign {
		return s.sign(ctx, b, f.body)
	}
	v, err := s.serve(ctx, b, f)
	if err != nil {
		return nil, err
	}
	return json.Marshal(v)
}

// retire tells the parent, after an answer, that this process is of no use any more.
func (s *server) retire() {
	if reason := s.retired.Load(); reason != nil {
		s.conn.note(opRetire, []byte(*reason))
	}
}

// serve calls the backend. What it returns is marshalled.
func (s *server) serve(ctx context.Context, b backends.Backend, f *frame) (any, error) {
	switch f.op {
	case opGenerate:
		var attrs backends.KeyAttributes
		if err := unmarshal(f.body, &attrs); err != nil {
			return nil, err
		}
		return s.remember(b.Generate(ctx, attrs))
	case opStatus:
		return b.(backends.Prober).Status(ctx), nil
	case opUnlock:
		var pin []byte // nil: the backend's own source
		if len(f.body) > 0 {
			pin = f.body
		}
		return nil, b.(backends.Unlocker).Unlock(ctx, pin)
	case opLock:
		return nil, b.(backends.Unlocker).Lock(ctx)
	case opClose:
		return nil, b.Close()
	}
	var text string
	if err := unmarshal(f.body, &text); err != nil {
		return nil, err
	}
	switch f.op {
	case opKey:
		return s.remember(b.Key(ctx, text))
	case opDestroy:
		return nil, s.destroy(ctx, b, text)
	case opKeys:
		return s.list(ctx, b, text)
	case opAttest:
		return b.(backends.Attester).Attest(ctx, text)
	case opCount:
		return s.count(ctx, b, text)
	case opRewrap:
		r, ok := b.(backends.Rewrapper)
		if !ok {
			return nil, fmt.Errorf("%w: rewrap of a backend that keeps its keys in the device", errMalformed)
		}
		return r.Rewrap(ctx, text)
	}
	return nil, fmt.Errorf("%w: op %d", errMalformed, f.op)
}

// open opens the backend, once.
func (s *server) open(ctx context.Context, body []byte) ([]byte, error) {
	var r openRequest
	if err := unmarshal(body, &r); err != nil {
		return nil, err
	}
	open := s.openers[r.Type]
	s.mu.Lock()
	again := s.opening
	s.opening = true
	s.mu.Unlock()
	if open == nil || again {
		return nil, fmt.Errorf("%w: open of %q", errMalformed, r.Type)
	}
	env := &Env{
		Logger:  slog.New(&logHandler{s.conn, nil}),
		Waiting: func(what string) { s.conn.note(opWaiting, []byte(what)) },
		Retire:  func(reason string) { s.retired.CompareAndSwap(nil, &reason) },
		Hung:    func(reason string) { s.conn.note(opHung, []byte(reason)) },
	}
	if r.PINs {
		env.PINs = &remotePINs{s, false}
	}
	if r.AdminPINs {
		env.AdminPINs = &remotePINs{s, true}
	}
	if r.Confine != nil {
		if err := confineSelf(*r.Confine, env.Logger); err != nil {
			return nil, err
		}
	}
	b, err := open(ctx, r.Name, r.Settings, env)
	if err != nil {
		return nil, err
	}
	if err := complete(b); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	var can abilities
	_, can.Unlock = b.(backends.Unlocker)
	_, can.Attest = b.(backends.Attester)
	if counter, ok := b.(backends.Counter); ok {
		can.Count = counter.Counts()
	}
	if limited, ok := b.(backends.Limited); ok {
		can.Concurrency = limited.Concurrency()
	}
	s.mu.Lock()
	s.backend = b
	s.mu.Unlock()
	return json.Marshal(can)
}

// confineSelf takes from this process, before it runs foreign code, what the rules do not allow.
func confineSelf(r confine.Rules, log *slog.Logger) error {
	on, missing, err := confine.Apply(r)
	if err != nil {
		return err
	}
	log.Info("the process is confined", "by", strings.Join(on, ", "))
	for _, what := range missing {
		log.Warn("the process is less confined than it could be", "reason", what)
	}
	return nil
}

// complete refuses a backend that this package does not serve.
func complete(b backends.Backend) error {
	_, lists := b.(backends.Lister)
	_, probes := b.(backends.Prober)
	if !lists || !probes {
		return fmt.Errorf("%T can't be run in a process of its own: it does not list keys and tell its state", b)
	}
	return nil
}

// remember keeps a key for signing, and describes it.
func (s *server) remember(k backends.Key, err error) (*keyInfo, error) {
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.keys[k.URI()] = k
	s.mu.Unlock()
	return &keyInfo{URI: k.URI(), Public: crypto.FromECDSAPub(k.Public()), Protection: k.Protection()}, nil
}

func (s *server) sign(ctx context.Context, b backends.Backend, body []byte) ([]byte, error) {
	var digest [32]byte
	if len(body) < len(digest) {
		return nil, backends.NotSigned(fmt.Errorf("%w: a digest of %d bytes", errMalformed, len(body)))
	}
	uri := string(body[copy(digest[:], body):])
	s.mu.Lock()
	k := s.keys[uri]
	s.mu.Unlock()
	if k == nil { // the parent has it from a child before
		var err error
		if k, err = b.Key(ctx, uri); err != nil {
			return nil, backends.NotSigned(err)
		}
		if _, err := s.remember(k, nil); err != nil {
			return nil, backends.NotSigned(err)
		}
	}
	sig, err := k.SignDigest(ctx, digest)
	if err != nil {
		return nil, err
	}
	return sig[:], nil
}

func (s *server) destroy(ctx context.Context, b backends.Backend, uri string) error {
	if err := b.Destroy(ctx, uri); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.keys, uri)
	return nil
}

func (s *server) count(ctx context.Context, b backends.Backend, uri string) (c count, err error) {
	counter, ok := b.(backends.Counter)
	if !ok {
		return c, fmt.Errorf("%w: count of a backend whose device does not", errMalformed)
	}
	c.N, c.Counts, err = counter.Signatures(ctx, uri)
	return c, err
}

func (s *server) list(ctx context.Context, b backends.Backend, prefix string) ([]keyInfo, error) {
	keys, err := b.(backends.Lister).Keys(ctx, prefix)
	if err != nil {
		return nil, err
	}
	infos := []keyInfo{}
	for _, k := range keys {
		info, err := s.remember(k.Key, nil)
		if err != nil {
			return nil, err
		}
		info.Label = k.Label
		infos = append(infos, *info)
	}
	return infos, nil
}

// remotePINs asks one of the parent's Keepers.
type remotePINs struct {
	*server
	admin bool
}

var _ secret.PINs = (*remotePINs)(nil)

// settleTimeout bounds the parent's taking in of a verdict, which waits for nothing.
const settleTimeout = 5 * time.Second

func (p *remotePINs) Try(ctx context.Context, left secret.Tries, verify func(pin []byte) error) error {
	n := p.tries.Add(1)
	r := tryRequest{N: n, Admin: p.admin, Left: left.Left, Full: left.Full, Device: left.Device, Fixed: left.Fixed}
	raw, err := p.conn.callOrLate(ctx, opTry, marshal(r), settleTimeout, func() {
		_ = p.settle(n, secret.NotSpent(errors.New("the PIN came too late")))
	})
	if err != nil {
		return err
	}
	// From here on the parent holds the try for made until it hears of it.
	pin, verdict := secret.Take(raw)
	if verdict == nil {
		verdict = errors.Join(pin.Use(verify), pin.Close())
	}
	err = p.settle(n, verdict)
	if verdict != nil && !errors.Is(verdict, backends.ErrPINIncorrect) {
		return verdict // with its type, which does not cross
	}
	return err
}

// settle tells the parent what became of try n, and returns what its Keeper makes of that.
func (p *remotePINs) settle(n uint64, verdict error) error {
	r := settleRequest{N: n}
	if verdict != nil {
		r.Error = newWireError(verdict)
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleTimeout)
	defer cancel()
	_, err := p.conn.call(ctx, opSettle, marshal(r), settleTimeout)
	return err
}

func (p *remotePINs) Ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	_, err := p.conn.call(ctx, opReady, marshal(readyRequest{p.admin}), settleTimeout)
	return err
}

// logHandler sends log records to the parent, which decides on their level.
type logHandler struct {
	conn  *conn
	attrs []string
}

func (h *logHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var attrs []slog.Attr
	r.Attrs(func(a slog.Attr) bool { attrs = append(attrs, a); return true })
	line := logRecord{Level: r.Level, Message: r.Message, Attrs: h.with(attrs)}
	h.conn.note(opLog, marshal(line))
	return nil
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{h.conn, h.with(attrs)}
}

// with returns the handler's attributes and more. The backend's name is the parent's to add.
func (h *logHandler) with(attrs []slog.Attr) []string {
	all := append([]string(nil), h.attrs...)
	for _, a := range attrs {
		if a.Key != "backend" {
			all = append(all, a.Key, a.Value.Resolve().String())
		}
	}
	return all
}

// WithGroup drops the group's name: no backend uses groups.
func (h *logHandler) WithGroup(string) slog.Handler { return h }
